"""The feed's window and order, with played data workers (played.py); and a feed in a thread, called from others."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.workers.played import PlayedWorker, answer, counts, opened, program, requests
from workers.data.feed import Feed
from workers.hosted_feed import HostedFeed
from workers.program import Program, Request


async def turns() -> None:
    """Long enough for all that is ready to run, for none of it waits for a clock."""
    for _ in range(50):
        await asyncio.sleep(0)


async def got(feed: Feed, numbers: Iterable[int], reader: int = 0) -> list[Request]:
    return [(await (await feed.get(number, reader))[0])["request"] for number in numbers]


async def test_batches_come_in_the_program_s_order_however_long_each_takes() -> None:
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
        "corrupt_records": 0,
        "seconds_decoding": 0.5 * len(requests()),
        "batches_ready": 1,  # the last one, which its reader may still be copying
        "window": 4,
    }


async def test_first_batches_are_made_before_anyone_asks_and_no_more_than_the_window() -> None:
    worker = PlayedWorker(answer)
    feed = await opened({"worker": worker}, window=3)
    await turns()
    assert worker.asked == requests()[:3]
    await feed.get(0, 0)
    await turns()
    assert worker.asked == requests()[:3], "batch 0 counts until the reader asks for the next one"
    await feed.get(1, 0)
    await turns()
    assert worker.asked == requests()[:4]


@pytest.mark.parametrize("window", [2, 3, 6])
async def test_window_holds_for_a_quick_and_a_slow_reader_and_both_get_the_same_objects(window: int) -> None:
    """The quick reader asks as fast as it can; it has to wait for the slow one, and neither is refused."""
    total, wanted = len(requests()), [0, 0]
    kept: list[list[Any]] = [[], []]

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
            kept[reader].append(reference)
            assert number - min(wanted) < window
            await asyncio.sleep(pause_seconds)

    await asyncio.gather(read(0, 0.0), read(1, 0.004))
    assert all(one is other for one, other in zip(*kept, strict=True))
    assert [(await reference)["request"] for reference in kept[0]] == requests()
    assert worker.asked == requests(), "each batch is made once, not once per reader"
    assert (await counts(feed))["batches_held"] == window


async def test_batches_are_let_go_when_the_last_reader_asks_for_the_next() -> None:
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


async def test_after_the_end_there_is_nothing() -> None:
    feed = await opened({"worker": PlayedWorker(answer)}, steps=1, readers=2)
    for number in range(4):
        for reader in range(2):
            await feed.get(number, reader)
    for reader in range(2):
        with pytest.raises(IndexError, match="batch 4 is outside the window"):
            await feed.get(4, reader)


async def test_a_reader_that_waits_at_the_end_is_told_when_the_end_is_known() -> None:
    """Its last batches were made while the other reader still held the window back."""
    feed = await opened({"worker": PlayedWorker(answer)}, window=4, steps=1, readers=2)
    for number in range(4):
        await feed.get(number, 0)
    waiting = asyncio.ensure_future(feed.get(4, 0))
    await turns()
    assert not waiting.done()
    await feed.get(1, 1)
    with pytest.raises(IndexError):
        await waiting


async def test_opens_anywhere_and_for_an_evaluation_alone_and_leaves_out_empty_requests() -> None:
    small = Program(
        batch_size=4, test_batch_size=2, replicas=2, replica=1, train_rows=9, validation_rows=5, total_steps=3,
        evaluation_every=None,
    )  # fmt: skip
    feed = Feed("feed", {"worker": PlayedWorker(answer)}, window=2, readers=1)
    await feed.open(small, 2, True)
    training, testing = Request(split="train", start=10, count=2), Request(split="validation", start=3, count=2)
    assert await got(feed, range(2)) == [training, testing]
    with pytest.raises(IndexError):
        await feed.get(2, 0)
    alone = Feed("feed", {"worker": PlayedWorker(answer)}, window=2, readers=1)
    await alone.open(small, 2, False, True)
    assert await got(alone, range(1)) == [testing]
    with pytest.raises(IndexError):
        await alone.get(1, 0)


async def test_requests_go_to_the_worker_with_the_fewest() -> None:
    workers = {name: PlayedWorker(answer, 0.05 if name == "c" else 0.0) for name in "abc"}
    feed = await opened(workers, window=6)
    await asyncio.sleep(0)
    assert [len(worker.asked) for worker in workers.values()] == [2, 2, 2]
    assert await got(feed, range(len(requests()))) == requests()
    assert len(workers["c"].asked) < len(workers["a"].asked), "a slow one has few"


async def test_whole_images_are_asked_for_in_testing_only() -> None:
    worker = PlayedWorker(answer)
    feed = Feed("feed", {"worker": worker}, window=2, readers=1, whole_images=True)
    await feed.open(program(), 0, False)
    assert await got(feed, range(len(requests()))) == worker.asked == requests()
    assert worker.asked_for_views == [request for request in requests() if request.split == "validation"]


@pytest.fixture
def hosted() -> Iterator[HostedFeed]:
    feed = HostedFeed(Feed("feed r0", {"worker": PlayedWorker(answer, seconds=0.01)}, window=3, readers=2))
    yield feed
    feed.close()
    assert "feed" not in [thread.name for thread in threading.enumerate()]


def read(hosted: HostedFeed, reader: int) -> list[object]:
    """Every batch's request, in order, as one column would get them."""

    async def request(reference: "asyncio.Task[dict[str, object]]") -> object:
        return (await reference)["request"]

    references = [hosted.get(number, reader)[0] for number in range(len(requests()))]
    return [asyncio.run_coroutine_threadsafe(request(one), one.get_loop()).result() for one in references]


def test_two_readers_in_threads_get_every_batch_in_order(hosted: HostedFeed) -> None:
    hosted.open(program(), 0, False)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda reader: read(hosted, reader), (0, 1))
    assert first == second == requests()
    messages, counts = hosted.status(0)
    assert messages == [] and counts["batches"] == len(requests()) and counts["batches_held"] <= 3
    assert 0 < counts["seconds_feeding"] < 10


def test_what_goes_wrong_is_raised_where_it_is_asked_for(hosted: HostedFeed) -> None:
    hosted.open(program(steps=1), 0, False)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda reader: hosted.get(len(requests(1)) - 1, reader), (0, 1)))
    with pytest.raises(IndexError, match="feed r0: batch 9"):
        hosted.get(9, 0)
