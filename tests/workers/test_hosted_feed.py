"""A feed in a thread, called from others; the data workers are played (played.py)."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.workers.played import PlayedWorker, answer, program, requests
from workers.data.feed import Feed
from workers.hosted_feed import HostedFeed


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

    got = []
    for number in range(len(requests())):
        [reference] = hosted.get(number, reader)
        got.append(asyncio.run_coroutine_threadsafe(request(reference), hosted._loop).result())
        time.sleep(0.002 * reader)
    return got


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
