"""How every command ends: one clear error, and an exit code that says what kind of end it was."""

import os
import signal
import sys
from collections.abc import Callable

from cluster.failures import RunFailed
from cluster.signals import Interrupted
from configs.errors import UserError


def run_entry(command: Callable[[], int], *, if_interrupted: str = "") -> int:
    """Run a command; 0 or its own code, 1 if it failed, 2 for wrong input, 128 + signal if it was interrupted,
    or if nobody reads its output any more.

    if_interrupted: what that leaves behind, and how to go on.
    """
    told = f"interrupted: {if_interrupted}" if if_interrupted else "interrupted"
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(told, file=sys.stderr)
        return 128 + error.number
    except KeyboardInterrupt:
        print(told, file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has read enough, as `head` does. What is still in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
