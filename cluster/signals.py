"""Stop signals in the driver: the first asks for a stop at the next step with everything saved, the second stops at once."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from cluster.output import tell_at_once


class Interrupted(KeyboardInterrupt):
    """A stop signal that was not, or could not be, obeyed gently. `number`: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stop_signals() -> list[int]:
    """Those that stop a run: Ctrl-C, `kill`, and the end of the terminal, unless the run was started to outlive it (nohup)."""
    outlives = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if outlives else [signal.SIGHUP])]


class StopSignals:
    """While open, `stop_signals` raise Interrupted, or only set `requested` while `gentle` is True.

    Set `gentle` when there is something to stop gently.
    """

    def __init__(self) -> None:
        self.gentle = False
        self.requested: int | None = None
        self._before: dict[int, Any] = {}
        self._ending: threading.Timer | None = None

    def __enter__(self) -> "StopSignals":
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ending is not None:
            self._ending.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested is not None and kind is KeyboardInterrupt:  # Ray's calls make it of what a handler raises
            raise Interrupted(self.requested) from None

    def end_within(self, seconds: float) -> None:
        """End this process and all below it by force then, if it is still there: a cluster that is gone may keep it waiting."""
        self._ending = threading.Timer(seconds, self._end)
        self._ending.daemon = True
        self._ending.start()

    def _end(self) -> None:
        import psutil

        print("Ray does not let go; ending by force", file=sys.stderr, flush=True)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        os._exit(128 + (self.requested or signal.SIGINT))

    def _received(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.requested is not None:
            return  # a terminal that closes says so twice, itself and through the shell: nobody is in a hurry
        if self.gentle and self.requested is None:
            self.requested = number
            tell_at_once("\nstopping after this step; again to stop at once")
            return
        self.requested = number
        raise Interrupted(number)
