"""The feed: a bounded window of batches made ahead of use, the same object for every column of a replica.

One per replica, in the process of its first column (`workers.hosted_feed`). It owns the batches (it made the calls that
returned them) and holds at most `window` of them, waiting or under way; that is the back-pressure, and the bound of the object
store. A data worker that dies is asked again, or another one is: a request says all there is to say, so the batch is the same.

It also counts the damaged training images that data workers had to replace, names each once, and ends the run when there are
too many.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError

from configs.errors import UnreachableError, UserError, is_user_error, last_raised
from workers.program import Item, Program, Request

if TYPE_CHECKING:
    from workers.data.data_worker import Replaced

MOST_TRIES = 40
"""Times a batch is asked for before the feed gives up; with the pauses between, time enough for a worker's restart."""
RESTART_SECONDS = 10.0
"""How long a worker that died counts as dead: others are preferred, and it is not reported again."""


class Feed:
    """Hands out the batches of a program's items, in order, to `readers` columns.

    data_workers: actor handles by name. max_corrupt_records: damaged training images that are put up with. whole_images: test
    on whole stored images, from which views are cut, and not on their centres.
    """

    def __init__(
        self,
        name: str,
        data_workers: dict[str, Any],
        *,
        window: int,
        readers: int,
        max_corrupt_records: int = 100,
        whole_images: bool = False,
    ) -> None:
        self.name = name
        self._workers = data_workers
        self._busy = dict.fromkeys(data_workers, 0)
        self._window = window
        self._max_corrupt_records = max_corrupt_records
        self._whole_images = whole_images
        self._wanted = [0] * readers
        self._items: Iterator[Item] = iter(())
        self._made: dict[int, asyncio.Task[Any]] = {}
        self._next = 0
        self._ended = False
        self._moved = asyncio.Event()
        self._messages: list[str] = []
        self._died_at: dict[str, float] = {}
        self._corrupt_rows: set[int] = set()
        self._counts = dict.fromkeys(("batches", "decoded", "repeated", "batches_held", "corrupt_records"), 0)
        self._seconds_decoding = 0.0

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
        batches held at once, training images found damaged, seconds that data workers spent. And as they are now: batches that
        are finished and that some column has not copied yet, and the most that this may be."""
        ready = sum(making.done() for making in self._made.values())
        now = {"seconds_decoding": self._seconds_decoding, "batches_ready": ready, "window": self._window}
        return self._messages[seen:], self._counts | now

    def _fill(self) -> None:
        while self._next < min(self._wanted) + self._window:
            item = next(self._items, None)
            if item is None:
                self._ended = True
                return
            making = asyncio.ensure_future(self._make(item.request))
            # The first batch that fails ends the run, and nobody asks for the others: asyncio need not tell of them.
            making.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._made[self._next] = making
            self._next += 1
            self._counts["batches_held"] = max(self._counts["batches_held"], len(self._made))

    async def _make(self, request: Request) -> Any:
        """A reference to the finished batch. Raises the data worker's own error, UserError if too many images are damaged or no
        data worker can start, or RuntimeError after many deaths."""
        cause: Exception | None = None
        for _ in range(MOST_TRIES):
            # A dead worker has the fewest requests; it gets new ones if nobody else lives.
            name = min(self._workers, key=lambda worker: (self._died_lately(worker), self._busy[worker]))
            self._busy[name] += 1
            try:
                worker = self._workers[name]
                views = self._whole_images and request.split == "validation"
                reference = (worker.views_batch if views else worker.batch).remote(request)
                batch = await reference
            except (RayActorError, WorkerCrashedError, ObjectLostError) as error:
                cause = error
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    self._give_up(name, error)
                else:
                    self._note_death(name)
                await asyncio.sleep(self._pause_seconds())
            else:
                self._counts["batches"] += 1
                self._counts["decoded"] += batch["decoded"]
                self._seconds_decoding += batch["seconds"]
                self._note_replaced(batch["replaced"])
                return reference
            finally:
                self._busy[name] -= 1
        raise RuntimeError(f"{self.name}: data workers keep dying; {request} was asked for {MOST_TRIES} times: {cause}")

    def _note_replaced(self, replaced: "list[Replaced]") -> None:
        """One message per damaged record, however often it comes up. Raises UserError if there are too many of them."""
        for record in replaced:
            if record.row in self._corrupt_rows:
                continue
            self._corrupt_rows.add(record.row)
            self._messages.append(
                f"training image {record.key!r} in {record.file} is damaged: {record.reason}; {record.by!r} stands in for it"
            )
        found = self._counts["corrupt_records"] = len(self._corrupt_rows)
        if replaced and found > self._max_corrupt_records:
            raise UserError(
                f"damaged training images: {found:,}, the last one {replaced[-1].key!r} in {replaced[-1].file}; more than "
                f"data.max_corrupt_records={self._max_corrupt_records:,}. Restore the shards from a copy, make the data set "
                "again with `python -m cluster.prepare ... --overwrite`, or raise that number"
            )

    def _give_up(self, name: str, error: RayActorError) -> None:
        """A worker whose constructor raised: Ray does not start it again. Raises UserError if it was the last one."""
        self._counts["repeated"] += 1
        if name not in self._workers:
            return  # another of its requests was first
        why = last_raised(str(error))
        if len(self._workers) == 1:
            kind = UnreachableError if is_user_error(str(error), UnreachableError) else UserError
            raise kind(f"{name} cannot start, and no other data worker is left: {why}")
        self._workers = {other: worker for other, worker in self._workers.items() if other != name}
        self._messages.append(f"{name} cannot start again, and others do its work: {why}")

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
