"""A feed whose data workers are played: awaitables in the place of Ray's references.

The real thing, between real actors, is part of the tests of whole runs.
"""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from workers.data.feed import Feed
from workers.program import Program, Request

Answer = Callable[[Request], dict[str, Any]]
TIME_LIMIT_SECONDS = 20.0
"""A feed that has stopped answering must fail its test rather than hang it."""


class PlayedWorker:
    """`batch.remote` gives an awaitable, whose result is what `answer` says or raises; `views_batch.remote` too."""

    def __init__(self, answer: Answer, seconds: float = 0.0) -> None:
        self.asked: list[Request] = []
        self.asked_for_views: list[Request] = []
        self._answer, self._seconds = answer, seconds
        self.batch = SimpleNamespace(remote=self._remote)
        self.views_batch = SimpleNamespace(remote=self._remote_views)

    def _remote(self, request: Request) -> "asyncio.Task[dict[str, Any]]":
        self.asked.append(request)
        return asyncio.get_running_loop().create_task(self._make(request))

    def _remote_views(self, request: Request) -> "asyncio.Task[dict[str, Any]]":
        self.asked_for_views.append(request)
        return self._remote(request)

    async def _make(self, request: Request) -> dict[str, Any]:
        await asyncio.sleep(self._seconds)
        return self._answer(request)


def answer(request: Request) -> dict[str, Any]:
    return {"request": request, "decoded": request.count, "seconds": 0.5, "replaced": []}


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
