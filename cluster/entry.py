"""How every command ends: one clear error, and an exit code that says what kind of end it was."""

import signal
import sys
from collections.abc import Callable

from cluster.failures import RunFailed
from cluster.output import OutputLostError, command_output
from cluster.signals import Interrupted
from configs.errors import UserError


def run_entry(command: Callable[[], int], *, if_interrupted: str = "", leaves_files: bool = False) -> int:
    """Run a command; 0 or its own code, 1 if it failed, 2 for wrong input, 128 + signal if it was interrupted,
    or if nobody reads its output any more.

    if_interrupted: what that leaves behind, and how to go on. leaves_files: what it makes are files, so it goes on to its end
    also where nothing that it says can be written.
    """
    told = f"interrupted: {if_interrupted}" if if_interrupted else "interrupted"
    with command_output(expendable=leaves_files):
        try:
            code = command()
            sys.stdout.flush()
            return code
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
        except OutputLostError as error:
            if isinstance(error.cause, BrokenPipeError):  # whoever read has read enough, as `head` does
                return 128 + signal.SIGPIPE
            print(f"error: what it found could not be written: {error}", file=sys.stderr)
            return 2
