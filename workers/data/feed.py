"""The feed: a bounded window of batches made ahead of use, the same object for every column of a replica.

One per replica, as a Ray actor. It owns the batches (it made the calls that returned them) and holds at most `window` of
them, waiting or under way; that is the back-pressure, and the bound of the object store. A data worker that dies is asked
again, or another one is: a request says all there is to say, so the batch is the same.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError

from workers.program import Item, Program, Request

MOST_TRIES = 40
"""Times a batch is asked for before the feed gives up; with the pauses between, time enough for a worker's restart."""
RESTART_SECONDS = 10.0
"""How long a worker that died counts as dead: others are preferred, and it is not reported again."""


class Feed:
    """Hands out the batches of a program's items, in order, to `readers` columns.

    data_workers: actor handles by name.
    """

    def __init__(self, name: str, data_workers: dict[str, Any], *, window: int, readers: int) -> None:
        self.name = name
        self._workers = data_workers
        self._busy = dict.fromkeys(data_workers, 0)
        self._window = window
        self._wanted = [0] * readers
        self._items: Iterator[Item] = iter(())
        self._made: dict[int, asyncio.Task[Any]] = {}
        self._next = 0
        self._ended = False
        self._moved = asyncio.Event()
        self._messages: list[str] = []
        self._died_at: dict[str, float] = {}
        self._counts = {"batches": 0, "decoded": 0, "repeated": 0, "batches_held": 0, "seconds_decoding": 0.0}

    def __repr__(self) -> str:
        return self.name

    async def open(self, program: Program, step: int, evaluated: bool, only_evaluation: bool = False) -> None:
        """Begin with the items that remain after `step` updates, and make the first batches."""
        items = program.evaluation(step) if only_evaluation else program.items(step=step, evaluated=evaluated)
        self._items = (item for item in items if item.request.count)
        self._ended = False
        self._fill()

    async def get(self, number: int, reader: int) -> list[Any]:
        """Batch `number` of the program, as [reference]: in a list, lest Ray fetch it before the caller runs.

        Asking for a number says that this reader has copied all earlier ones, which are then let go. A reader that is ahead by
        the whole window waits for the others. Raises IndexError if there is no such batch (any more).
        """
        self._wanted[reader] = number
        for old in [n for n in self._made if n < min(self._wanted)]:
            del self._made[old]
        self._fill()
        # Those who wait hold the old event, which is set once and for all.
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        while number not in self._made:
            if self._ended or number < self._next:
                raise IndexError(f"{self.name}: batch {number} is outside the window {sorted(self._made)}")
            await self._moved.wait()
        return [await asyncio.shield(self._made[number])]

    async def status(self, seen: int) -> tuple[list[str], dict[str, Any]]:
        """Messages from number `seen` on, and counters: batches made, images decoded, requests repeated after a death, the most
        batches held at once, seconds that data workers spent."""
        return self._messages[seen:], dict(self._counts)

    def _fill(self) -> None:
        while self._next < min(self._wanted) + self._window:
            item = next(self._items, None)
            if item is None:
                self._ended = True
                return
            self._made[self._next] = asyncio.ensure_future(self._make(item.request))
            self._next += 1
            self._counts["batches_held"] = max(self._counts["batches_held"], len(self._made))

    async def _make(self, request: Request) -> Any:
        """A reference to the finished batch. Raises the data worker's own error, or RuntimeError after many deaths."""
        cause: Exception | None = None
        for _ in range(MOST_TRIES):
            # A dead worker has the fewest requests; it gets new ones if nobody else lives.
            name = min(self._busy, key=lambda worker: (self._died_lately(worker), self._busy[worker]))
            self._busy[name] += 1
            try:
                reference = self._workers[name].batch.remote(request)
                batch = await reference
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                cause = error
                self._note_death(name)
                await asyncio.sleep(self._pause_seconds())
            else:
                self._counts["batches"] += 1
                self._counts["decoded"] += batch["decoded"]
                self._counts["seconds_decoding"] += batch["seconds"]
                return reference
            finally:
                self._busy[name] -= 1
        raise RuntimeError(f"{self.name}: data workers keep dying; {request} was asked for {MOST_TRIES} times: {cause}")

    def _note_death(self, name: str) -> None:
        """One message per death, however many of the worker's requests it takes along."""
        self._counts["repeated"] += 1
        if not self._died_lately(name):
            self._messages.append(
                f"{name} died; it is started again, and its batches are asked for again: nothing is lost"
            )
        self._died_at[name] = time.monotonic()

    def _pause_seconds(self) -> float:
        """Before another try. A restart takes a second or more; a worker that lives may be free at once."""
        return 0.5 if all(self._died_lately(name) for name in self._workers) else 0.05

    def _died_lately(self, name: str) -> bool:
        return name in self._died_at and time.monotonic() - self._died_at[name] < RESTART_SECONDS
