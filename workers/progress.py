"""How far a column has come, for whoever watches it: told by the thread that trains, read by another one."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a column is doing, and since when."""

    number: int = 0
    """Things begun so far; it stands still when the column does."""
    doing: str = "starting"
    seconds: float = 0.0
    """Since it began with that."""
    patient: bool = True
    """Whether it may take longer than usual: a first step that is being compiled, a checkpoint that is being written."""


class ProgressTeller:
    """Written by one thread, read by others: a tuple is exchanged whole, so no lock is needed."""

    def __init__(self) -> None:
        self._now = (0, "starting", True, time.monotonic())

    def begin(self, doing: str, *, patient: bool = False) -> None:
        self._now = (self._now[0] + 1, doing, patient, time.monotonic())

    def read(self) -> Progress:
        number, doing, patient, since = self._now
        return Progress(number=number, doing=doing, patient=patient, seconds=time.monotonic() - since)
