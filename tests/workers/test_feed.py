"""The feed's window, order and retries. Only the data workers are played: awaitables in the place of Ray's references.

The real thing, between real actors, is part of the tests of whole runs.
"""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, WorkerCrashedError

from workers.data import feed as module
from workers.data.feed import Feed
from workers.program import Program, Request

Answer = Callable[[Request], dict[str, Any]]
TIME_LIMIT_SECONDS = 20.0
"""A feed that has stopped answering must fail its test rather than hang it."""


class PlayedWorker:
    """`batch.remote` gives an awaitable, whose result is what `answer` says or raises."""

    def __init__(self, answer: Answer, seconds: float = 0.0) -> None:
        self.asked: list[Request] = []
        self._answer, self._seconds = answer, seconds
        self.batch = SimpleNamespace(remote=self._remote)

    def _remote(self, request: Request) -> "asyncio.Task[dict[str, Any]]":
        self.asked.append(request)
        return asyncio.get_running_loop().create_task(self._make(request))

    async def _make(self, request: Request) -> dict[str, Any]:
        await asyncio.sleep(self._seconds)
        return self._answer(request)


def answer(request: Request) -> dict[str, Any]:
    return {"request": request, "decoded": request.count, "seconds": 0.5}


def program(steps: int = 12) -> Program:
    """Trains with 4 images a step and tests 5 rows, in batches of 2, after every fourth step."""
    return Program(
        batch_size=4,
        test_batch_size=2,
        replicas=1,
        replica=0,
        train_rows=10,
        validation_rows=5,
        total_steps=steps,
        evaluation_every=4.0,
    )


def requests(steps: int = 12) -> list[Request]:
    return [item.request for item in program(steps).items(step=0, evaluated=False)]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, TIME_LIMIT_SECONDS))


async def opened(workers: dict[str, Any], *, window: int = 4, readers: int = 1, steps: int = 12) -> Feed:
    feed = Feed("feed r0", workers, window=window, readers=readers)
    await feed.open(program(steps), 0, False)
    return feed


async def counts(feed: Feed) -> dict[str, Any]:
    return (await feed.status(0))[1]


def test_batches_come_in_the_program_s_order_however_long_each_takes() -> None:
    async def test() -> None:
        slow, quick = PlayedWorker(answer, 0.01), PlayedWorker(answer)
        feed = await opened({"slow": slow, "quick": quick})
        found = []
        for number in range(len(requests())):
            [reference] = await feed.get(number, 0)
            assert reference.done(), "a reference is handed out when its batch is there"
            found.append((await reference)["request"])
        assert found == requests()
        assert slow.asked and quick.asked
        assert await counts(feed) == {
            "batches": len(requests()),
            "decoded": 12 * 4 + 3 * 5,
            "repeated": 0,
            "batches_held": 4,
            "seconds_decoding": 0.5 * len(requests()),
        }

    run(test())


def test_first_batches_are_made_before_anyone_asks_and_no_more_than_the_window() -> None:
    async def test() -> None:
        worker = PlayedWorker(answer)
        feed = await opened({"worker": worker}, window=3)
        await asyncio.sleep(0.05)
        assert worker.asked == requests()[:3]
        await feed.get(0, 0)
        await asyncio.sleep(0.05)
        assert worker.asked == requests()[:3], "batch 0 counts until the reader asks for the next one"
        await feed.get(1, 0)
        await asyncio.sleep(0.05)
        assert worker.asked == requests()[:4]

    run(test())


@pytest.mark.parametrize("window", [2, 3, 6])
def test_window_holds_for_a_quick_and_a_slow_reader_and_both_get_the_same_objects(window: int) -> None:
    """The quick reader asks as fast as it can; it has to wait for the slow one, and neither is refused."""

    async def test() -> None:
        total, wanted = len(requests()), [0, 0]
        got: list[list[Any]] = [[], []]

        def checked(request: Request) -> dict[str, Any]:
            # Whatever is asked for and not yet let go by both readers is held.
            assert len(worker.asked) - min(wanted) <= window
            return answer(request)

        worker = PlayedWorker(checked)
        feed = await opened({"worker": worker}, window=window, readers=2)

        async def read(reader: int, pause_seconds: float) -> None:
            for number in range(total):
                wanted[reader] = number
                [reference] = await feed.get(number, reader)
                got[reader].append(reference)
                assert number - min(wanted) < window
                await asyncio.sleep(pause_seconds)

        await asyncio.gather(read(0, 0.0), read(1, 0.004))
        assert all(one is other for one, other in zip(*got, strict=True))
        assert [(await reference)["request"] for reference in got[0]] == requests()
        assert worker.asked == requests(), "each batch is made once, not once per reader"
        assert (await counts(feed))["batches_held"] == window

    run(test())


def test_batches_are_let_go_when_the_last_reader_asks_for_the_next() -> None:
    async def test() -> None:
        feed = await opened({"worker": PlayedWorker(answer)}, window=2, readers=2)
        [reference] = await feed.get(0, 0)
        watched = weakref.ref(reference)
        await feed.get(0, 1)
        await feed.get(1, 1)
        del reference
        await asyncio.sleep(0)
        gc.collect()
        assert watched() is not None, "reader 0 has not asked for the next one"
        await feed.get(1, 0)
        await asyncio.sleep(0)  # the event loop holds the result that it has just delivered
        gc.collect()
        assert watched() is None
        with pytest.raises(IndexError, match=r"feed r0: batch 0 is outside the window \[1, 2\]"):
            await feed.get(0, 0)

    run(test())


@pytest.mark.parametrize("error", [ActorDiedError, WorkerCrashedError, lambda: ObjectLostError("00", None, "")])
def test_batches_of_a_dead_worker_are_asked_for_again(error: Callable[[], Exception]) -> None:
    """Three requests go down with it: three repeats, one message."""

    async def test() -> None:
        deaths: list[Request] = []

        def dies(request: Request) -> dict[str, Any]:
            if len(deaths) < 3:
                deaths.append(request)
                raise error()
            return answer(request)

        feed = await opened(
            {"data worker r0 #0": PlayedWorker(dies, 0.01), "other": PlayedWorker(answer, 0.01)}, window=6
        )
        found = []
        for number in range(len(requests())):
            [reference] = await feed.get(number, 0)
            found.append((await reference)["request"])
        assert found == requests()
        messages, counted = await feed.status(0)
        assert len(deaths) == 3
        assert counted["repeated"] == 3 and counted["batches"] == len(requests())
        assert len(messages) == 1 and messages[0].startswith("data worker r0 #0 died")
        assert await feed.status(1) == ([], counted)

    run(test())


def test_a_worker_that_stays_dead_holds_up_nothing() -> None:
    """It has the fewest requests for the very reason that it is dead; the living one must get them all the same."""

    async def test() -> None:
        def dies(request: Request) -> dict[str, Any]:
            raise ActorDiedError

        dead, living = PlayedWorker(dies), PlayedWorker(answer, 0.02)
        feed = await opened({"dead": dead, "living": living}, window=6)
        for number in range(len(requests())):
            await feed.get(number, 0)
        assert len(dead.asked) == 3, "its share of the first window, and nothing in the next seconds"

    run(test())


def test_another_death_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    feed = Feed("feed", {"a": None, "b": None}, window=2, readers=1)
    for passed, name, told in ((0.0, "a", 1), (0.1, "a", 1), (0.1, "b", 2), (9.0, "a", 2), (11.0, "a", 3)):
        now[0] += passed
        feed._note_death(name)
        assert len(asyncio.run(feed.status(0))[0]) == told, (passed, name)


def test_the_data_worker_s_own_error_is_passed_on_at_once() -> None:
    async def test() -> None:
        def fails(request: Request) -> dict[str, Any]:
            if request == requests()[2]:
                raise ValueError("shard 7 is damaged")
            return answer(request)

        worker = PlayedWorker(fails)
        feed = await opened({"worker": worker}, readers=2)
        for number in range(2):
            for reader in range(2):
                await feed.get(number, reader)
        for reader in range(2):
            with pytest.raises(ValueError, match="shard 7 is damaged"):
                await feed.get(2, reader)
        assert worker.asked.count(requests()[2]) == 1
        assert (await counts(feed))["repeated"] == 0

    run(test())


def test_workers_that_keep_dying_end_it_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def no_pause(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(module, "MOST_TRIES", 5)
    played = SimpleNamespace(
        **{name: getattr(asyncio, name) for name in ("ensure_future", "shield", "Event")}, sleep=no_pause
    )
    monkeypatch.setattr(module, "asyncio", played)

    def dies(request: Request) -> dict[str, Any]:
        raise ActorDiedError

    async def test() -> None:
        worker = PlayedWorker(dies)
        feed = await opened({"worker": worker}, window=2)
        with pytest.raises(
            RuntimeError, match=r"feed r0: data workers keep dying; .*start=0, count=4.* 5 times: The actor"
        ):
            await feed.get(0, 0)
        assert worker.asked.count(requests()[0]) == 5
        assert set(pauses) == {0.5}

    run(test())


def test_the_tries_last_longer_than_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all workers died together: a process that imports numpy and Arrow takes seconds on a busy machine."""
    assert module.MOST_TRIES * 0.5 >= 10
    passed = 0.0
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        await sleep(0)

    played = SimpleNamespace(
        **{name: getattr(asyncio, name) for name in ("ensure_future", "shield", "Event")}, sleep=counted
    )
    monkeypatch.setattr(module, "asyncio", played)

    def restarting(request: Request) -> dict[str, Any]:
        raise ActorDiedError

    async def test() -> None:
        workers = {name: PlayedWorker(restarting) for name in "abc"}
        feed = await opened(workers, window=2, steps=1)
        with pytest.raises(RuntimeError, match="keep dying"):
            await feed.get(0, 0)

    run(test())
    # Two requests were under way side by side.
    assert passed / 2 >= 10


def test_after_the_end_there_is_nothing() -> None:
    async def test() -> None:
        feed = await opened({"worker": PlayedWorker(answer)}, steps=1, readers=2)
        total = len(requests(1))
        assert total == 4
        for number in range(total):
            for reader in range(2):
                await feed.get(number, reader)
        for reader in range(2):
            with pytest.raises(IndexError, match="batch 4 is outside the window"):
                await feed.get(total, reader)

    run(test())


def test_a_reader_that_waits_at_the_end_is_told_when_the_end_is_known() -> None:
    """Its last batches were made while the other reader still held the window back."""

    async def test() -> None:
        feed = await opened({"worker": PlayedWorker(answer)}, window=4, steps=1, readers=2)
        for number in range(4):
            await feed.get(number, 0)
        waiting = asyncio.ensure_future(feed.get(4, 0))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await feed.get(1, 1)
        with pytest.raises(IndexError):
            await waiting

    run(test())


def test_opens_anywhere_and_for_an_evaluation_alone_and_leaves_out_empty_requests() -> None:
    async def first(feed: Feed, count: int) -> list[Request]:
        return [(await (await feed.get(number, 0))[0])["request"] for number in range(count)]

    async def test() -> None:
        small = Program(
            batch_size=4, test_batch_size=2, replicas=2, replica=1, train_rows=9, validation_rows=5, total_steps=3,
            evaluation_every=None,
        )  # fmt: skip
        feed = Feed("feed", {"worker": PlayedWorker(answer)}, window=2, readers=1)
        await feed.open(small, 2, True)
        training, testing = Request(split="train", start=10, count=2), Request(split="validation", start=3, count=2)
        assert await first(feed, 2) == [training, testing]
        with pytest.raises(IndexError):
            await feed.get(2, 0)
        alone = Feed("feed", {"worker": PlayedWorker(answer)}, window=2, readers=1)
        await alone.open(small, 2, False, True)
        assert await first(alone, 1) == [testing]
        with pytest.raises(IndexError):
            await alone.get(1, 0)

    run(test())


def test_requests_go_to_the_worker_with_the_fewest() -> None:
    async def test() -> None:
        workers = {name: PlayedWorker(answer, 0.2) for name in "abc"}
        started = time.monotonic()
        feed = await opened(workers, window=6)
        await asyncio.sleep(0)
        assert [len(worker.asked) for worker in workers.values()] == [2, 2, 2]
        await feed.get(0, 0)
        assert time.monotonic() - started >= 0.2

    run(test())
