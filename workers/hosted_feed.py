"""A feed in a thread of a column's process.

As an actor of its own it would cost one more process per replica, whose idle main thread alone takes most of a per cent of a
core, and one more call per column and batch.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

from workers.data.feed import Feed
from workers.program import Program


class HostedFeed:
    """Runs a `Feed` on an event loop of its own. Its methods block, and may be called from any thread."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="feed", daemon=True)
        self._thread.start()

    def open(self, program: Program, step: int, evaluated: bool, only_evaluation: bool = False) -> None:
        """As `Feed.open`."""
        self._wait(self._feed.open(program, step, evaluated, only_evaluation))

    def get(self, number: int, reader: int) -> list[Any]:
        """As `Feed.get`."""
        got: list[Any] = self._wait(self._feed.get(number, reader))
        return got

    def status(self, seen: int) -> tuple[list[str], dict[str, Any]]:
        """As `Feed.status`, with the CPU seconds of this thread as `seconds_feeding`."""
        messages, counts = self._wait(self._feed.status(seen))
        assert self._thread.ident is not None
        clock = time.pthread_getcpuclockid(self._thread.ident)
        return messages, counts | {"seconds_feeding": time.clock_gettime(clock)}

    def close(self) -> None:
        """End the thread, and with it the batches that are under way."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _wait(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()
