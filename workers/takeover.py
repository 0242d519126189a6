"""Which attempt at a run may write its checkpoints: the newest one that has begun.

An attempt whose machine was cut off from the cluster may go on training, and still reach the storage; its saves would remove
checkpoints that the next attempt is about to load. So an attempt leaves a mark in the place once its actors are there and before
it chooses where to go on from, and every save looks for later marks before it commits and before it removes anything.
"""

import re

from configs.errors import Nature
from workers.checkpoint_store import open_store

MARK = re.compile(r"attempt-(\d{8})")


class TakenOverError(OSError):
    """A later attempt at the run has begun."""

    nature: Nature = "wrong"


def newest_attempt(place: str) -> int:
    """The number of the last attempt that has begun; 0 if none has. Raises OSError, or UserError, if the place cannot be read."""
    return max(_marks(place), default=0)


def take_over(place: str, attempt: int) -> None:
    """Let no earlier attempt write any more.

    Raises TakenOverError if this number, or a later one, is taken; OSError, or UserError, if the place cannot be written.
    """
    earlier, store = _marks(place), open_store(place)
    _refuse(attempt, max(earlier, default=0), attempt)
    if not store.claim(f"attempt-{attempt:08d}"):
        _refuse(attempt, attempt, attempt)
    # One may have begun, and removed earlier marks, before this one's was there.
    _refuse(attempt, newest_attempt(place), attempt + 1)
    for folder in earlier.values():
        store.remove(folder)


def refuse_if_taken_over(place: str, attempt: int) -> None:
    """Raises TakenOverError if a later attempt has begun."""
    newest = newest_attempt(place)
    if newest > attempt:
        raise TakenOverError(f"attempt {newest} at this run has begun, so attempt {attempt} writes no more")


def _refuse(attempt: int, newest: int, limit: int) -> None:
    if newest >= limit:
        raise TakenOverError(
            f"another command has begun attempt {newest} at this run, so attempt {attempt} does not begin"
        )


def _marks(place: str) -> dict[int, str]:
    return {int(found[1]): folder for folder in open_store(place).tree() if (found := MARK.fullmatch(folder))}
