"""Tells a hang from work: nothing has moved for longer than it may take, and who it is that does not move."""

import time

from configs.schema import Config
from workers.progress import Patience, Progress


class Watchdog:
    """Hears how far each rank is. All ranks go through the same items in step, so one that stands still stops all."""

    def __init__(self, config: Config, names: list[str]) -> None:
        self._names = names
        self._usual = config.fault.hang_timeout_seconds
        first = max(config.cluster.collective_timeout_seconds, self._usual)
        saving = max(config.checkpoint.save_timeout_seconds, self._usual)
        self._limits: dict[Patience, float] = {"usual": self._usual, "first": first, "saving": saving}
        self._last: list[Progress] = [Progress() for _ in names]
        self._heard_at = [time.monotonic()] * len(names)
        self._moved_at = time.monotonic()

    def heard(self, rank: int, progress: Progress) -> None:
        now = time.monotonic()
        if progress.number != self._last[rank].number:
            self._moved_at = now
        self._last[rank], self._heard_at[rank] = progress, now

    @property
    def limit_seconds(self) -> float:
        """How long nothing need move now. Who asked for patience and then does not even answer has no claim to it any more."""
        return max([self._usual, *(self._limits[progress.patience] for progress in self._answering())])

    @property
    def saving(self) -> bool:
        """Whether a rank waits for a checkpoint to be saved."""
        return any(progress.patience == "saving" for progress in self._answering())

    @property
    def starting(self) -> bool:
        """Whether no rank is known to have gone through its first step."""
        return all(progress.patience == "first" for progress in self._last)

    def excuse(self) -> None:
        """Nobody could move or answer until now."""
        self._moved_at = time.monotonic()
        self._heard_at = [self._moved_at for _ in self._names]

    @property
    def silent_seconds(self) -> float:
        """Since any rank has answered."""
        return time.monotonic() - max(self._heard_at)

    def hang(self) -> str | None:
        """What to say of it, or None if there is no hang."""
        still = time.monotonic() - self._moved_at
        if still <= self.limit_seconds:
            return None
        return f"no column has made progress for {still:.0f} s: {self.describe()}"

    def _answering(self) -> list[Progress]:
        now = time.monotonic()
        return [last for last, heard in zip(self._last, self._heard_at, strict=True) if now - heard <= self._usual]

    def describe(self) -> str:
        """Where each rank is; those that do not answer first, for they are what the others wait for."""
        now = time.monotonic()
        silent = [rank for rank in range(len(self._names)) if now - self._heard_at[rank] > self._usual / 2]
        words = [
            f"{self._names[rank]} has not answered for {now - self._heard_at[rank]:.0f} s (it was "
            f"{self._last[rank].doing})"
            for rank in silent
        ]
        others = [rank for rank in range(len(self._names)) if rank not in silent]
        words += [f"{self._names[rank]} is {self._last[rank].doing}" for rank in others]
        return ", ".join(words)
