"""How far a column has come, for whoever watches it: told by the thread that trains, read by another one."""

import time
from dataclasses import dataclass
from typing import Literal

Patience = Literal["usual", "first", "saving"]
"""How long it may take: as a step; as a first step, which may be compiled, or a cache that is filled; as a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a column is doing, and since when."""

    number: int = 0
    """Things begun so far; it stands still when the column does."""
    doing: str = "starting"
    seconds: float = 0.0
    """Since it began with that."""
    patience: Patience = "first"


class ProgressTeller:
    """Written by one thread, read by others: a tuple is exchanged whole, so no lock is needed."""

    def __init__(self) -> None:
        self._now: tuple[int, str, Patience, float] = (0, "starting", "first", time.monotonic())

    def begin(self, doing: str, patience: Patience = "usual") -> None:
        self._now = (self._now[0] + 1, doing, patience, time.monotonic())

    def read(self) -> Progress:
        number, doing, patience, since = self._now
        return Progress(number=number, doing=doing, patience=patience, seconds=time.monotonic() - since)
