"""Stop signals in the driver: the first asks for a stop at the next step with everything saved, the second stops at once."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A stop signal that was not, or could not be, obeyed gently. `number`: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """While open, SIGINT and SIGTERM raise Interrupted, or only set `requested` while `gentle` is True.

    Set `gentle` when there is something to stop gently.
    """

    def __init__(self) -> None:
        self.gentle = False
        self.requested: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested is not None and kind is KeyboardInterrupt:  # Ray's calls make it of what a handler raises
            raise Interrupted(self.requested) from None

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.gentle and self.requested is None:
            self.requested = number
            print("\nstopping after this step; again to stop at once", file=sys.stderr, flush=True)
            return
        self.requested = number
        raise Interrupted(number)
