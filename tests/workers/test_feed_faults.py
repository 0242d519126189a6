"""What the feed does when data workers die, fail, or meet damaged images; they are played (played.py)."""

import asyncio
import gc
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError, WorkerCrashedError

from configs.errors import UserError
from tests.workers.played import PlayedWorker, answer, counts, opened, program, requests
from tests.workers.test_feed import turns
from workers.data import feed as module
from workers.data.data_worker import Replaced
from workers.data.feed import Feed
from workers.program import Request


@pytest.mark.parametrize("error", [ActorDiedError, WorkerCrashedError, lambda: ObjectLostError("00", None, "")])
async def test_batches_of_a_dead_worker_are_asked_for_again(error: Callable[[], Exception]) -> None:
    """Three requests go down with it: three repeats, one message."""
    deaths: list[Request] = []

    def dies_thrice(request: Request) -> dict[str, Any]:
        if len(deaths) < 3:
            deaths.append(request)
            raise error()
        return answer(request)

    feed = await opened(
        {"data worker r0 #0": PlayedWorker(dies_thrice, 0.01), "other": PlayedWorker(answer, 0.01)}, window=6
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


async def test_a_worker_that_stays_dead_holds_up_nothing() -> None:
    """It has the fewest requests for the very reason that it is dead; the living one must get them all the same."""
    dead, living = PlayedWorker(dies), PlayedWorker(answer, 0.02)
    feed = await opened({"dead": dead, "living": living}, window=6)
    for number in range(len(requests())):
        await feed.get(number, 0)
    assert len(dead.asked) == 3, "its share of the first window, and nothing in the next seconds"


def dies(request: Request) -> dict[str, Any]:
    raise ActorDiedError


def cannot_start(request: Request) -> dict[str, Any]:
    try:
        raise UserError("no data set there")
    except UserError as error:
        raise ActorDiedError(RayTaskError("__init__", traceback.format_exc(), error)) from None


async def test_a_worker_that_cannot_start_again_is_told_once_and_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)
    broken = PlayedWorker(cannot_start)
    feed = await opened({"broken": broken, "living": PlayedWorker(answer, 0.02)}, window=6)
    for number in range(len(requests())):
        await feed.get(number, 0)
    assert len(broken.asked) == 3, "its share of the first window"
    messages, counted = await feed.status(0)
    assert messages == ["broken cannot start again, and others do its work: no data set there"]
    assert counted["repeated"] == 3 and counted["batches"] == len(requests())


async def test_when_no_worker_can_start_it_ends_with_the_reason() -> None:
    feed = await opened({"a": PlayedWorker(cannot_start), "b": PlayedWorker(cannot_start)}, window=2)
    with pytest.raises(UserError, match=r"cannot start, and no other data worker is left: no data set there"):
        await feed.get(0, 0)


def test_another_death_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    feed = Feed("feed", {"a": None, "b": None}, window=2, readers=1)
    for passed, name, told in ((0.0, "a", 1), (0.1, "a", 1), (0.1, "b", 2), (9.0, "a", 2), (11.0, "a", 3)):
        now[0] += passed
        feed._note_death(name)
        assert len(asyncio.run(feed.status(0))[0]) == told, (passed, name)


async def test_the_data_worker_s_own_error_is_passed_on_at_once() -> None:
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


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the feed wanted to wait each time; it does not."""
    found: list[float] = []
    sleep = asyncio.sleep

    async def no_pause(seconds: float) -> None:
        found.append(seconds)
        await sleep(0)

    same = {name: getattr(asyncio, name) for name in ("ensure_future", "shield", "Event")}
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(**same, sleep=no_pause))
    return found


async def test_workers_that_keep_dying_end_it_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(module, "MOST_TRIES", 5)
    worker = PlayedWorker(dies)
    feed = await opened({"worker": worker}, window=2)
    said = r"feed r0: data workers keep dying; .*start=0, count=4.* 5 times: The actor"
    with pytest.raises(RuntimeError, match=said):
        await feed.get(0, 0)
    assert worker.asked.count(requests()[0]) == 5
    assert set(pauses) == {0.5}


async def test_the_tries_last_longer_than_a_restart(pauses: list[float]) -> None:
    """Also when all workers died together: a process that imports numpy and Arrow takes seconds on a busy machine."""
    assert module.MOST_TRIES * 0.5 >= 10
    feed = await opened({name: PlayedWorker(dies) for name in "abc"}, window=2, steps=1)
    with pytest.raises(RuntimeError, match="keep dying"):
        await feed.get(0, 0)
    # Two requests were under way side by side.
    assert sum(pauses) / 2 >= 10


async def test_nothing_is_said_of_batches_that_nobody_asks_for_any_more() -> None:
    """The whole window fails, and the run ends with the first of it."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fails(request: Request) -> dict[str, Any]:
        raise ValueError("shard 7 is damaged")

    feed = await opened({"worker": PlayedWorker(fails)}, window=4)
    with pytest.raises(ValueError, match="shard 7"):
        await feed.get(0, 0)
    await turns()
    del feed
    gc.collect()
    await turns()
    assert not told


def replaced(row: int) -> Replaced:
    return Replaced(row=row, key=f"cat {row}", file="train-0.arrow", reason="its checksum differs", by="dog")


async def test_each_damaged_image_is_counted_and_named_once() -> None:
    damaged = {0: [7, 3], 4: [7], 12: [1, 3]}

    def some(request: Request) -> dict[str, Any]:
        rows = damaged.get(request.start, []) if request.split == "train" else []
        return answer(request) | {"replaced": [replaced(row) for row in rows]}

    feed = Feed("feed", {"worker": PlayedWorker(some)}, window=3, readers=1, max_corrupt_records=3)
    await feed.open(program(6), 0, False)
    for number in range(6):
        await feed.get(number, 0)
    messages, counted = await feed.status(0)
    assert counted["corrupt_records"] == 3
    assert messages == [
        f"training image 'cat {row}' in train-0.arrow is damaged: its checksum differs; 'dog' stands in for it"
        for row in (7, 3, 1)
    ]


async def test_too_many_damaged_images_end_the_run_at_the_batch_that_has_them() -> None:
    def some(request: Request) -> dict[str, Any]:
        # Two in each of the first three batches.
        first = request.start // 2
        return answer(request) | {"replaced": [replaced(first), replaced(first + 1)] if first < 6 else []}

    feed = Feed("feed", {"worker": PlayedWorker(some)}, window=2, readers=1, max_corrupt_records=4)
    await feed.open(program(6), 0, False)
    for number in range(2):
        await feed.get(number, 0)
    said = r"^damaged training images: 6, the last one 'cat 5' in train-0\.arrow; more than data\.max_cor"
    with pytest.raises(UserError, match=said):
        await feed.get(2, 0)
    assert (await counts(feed))["corrupt_records"] == 6
    await feed.get(3, 0)  # one that has none is as good as ever
