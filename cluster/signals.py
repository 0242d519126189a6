"""Stop signals in the driver: the first asks for a stop at the next step with everything saved, the second stops at once."""

import signal
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

    def __enter__(self) -> "StopSignals":
        for number in stop_signals():
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.requested is not None:
            return  # a terminal that closes says so twice, itself and through the shell: nobody is in a hurry
        if self.gentle and self.requested is None:
            self.requested = number
            tell_at_once("\nstopping after this step; again to stop at once")
            return
        self.requested = number
        raise Interrupted(number)
