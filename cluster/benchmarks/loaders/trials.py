"""What is done to one loader: a pass, an epoch's edge, a stop and a continuation, the death of a worker.

Every trial takes a `Peer` and returns what JSON can hold. Times are seconds.
"""

import collections
import contextlib
import os
import pickle
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cluster.benchmarks.loaders.peer import Batch, Peer

BEFORE_KILL = 3
"""Batches that have come when a worker is killed."""
AROUND_EDGE = 2
"""Batches on either side of an epoch's edge whose waits are looked at."""
WORKER_SECONDS = 10.0
"""How long to look for a worker that is at work."""

Told = Callable[[], None]
TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")
"""The kernel counts CPU time in these; what is shorter may count as nothing."""


def a_pass(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """One epoch from end to end; the loader is made at the first call."""
    if command["first"]:
        peer.open(None)
    started, cpu, images, first = time.perf_counter(), cpu_seconds(), 0, None
    for ids, _ in peer.epoch():
        images += len(ids)
        if first is None:
            first = (images, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    assert first is not None, "an epoch without a batch"
    return {
        "seconds": seconds,
        "cpu_seconds": max(cpu_seconds() - cpu, TICK_SECONDS),
        "images": images,
        "first_seconds": first[1],
        "images_after_first": images - first[0],
    }


def edge(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """A fresh loader through one and a half epochs: time to the first batch, CPU from the middle of one epoch to that of
    the next (so that as much had been made ahead at either end), and the longest wait around the edge between them."""
    started = time.perf_counter()
    peer.open(None)
    half = peer.material.images // peer.batch // 2
    waits: list[float] = []
    ids: list[int] = []
    clocks: list[tuple[float, float]] = []
    at_edge = 0
    batches = ((epoch, batch) for epoch in range(2) for batch in peer.epoch())
    previous = started
    for epoch, batch in batches:
        now = time.perf_counter()
        waits.append(now - previous)
        previous = now
        if epoch == 0:
            ids += batch[0].tolist()
            at_edge = len(waits)
        if len(waits) == half or (epoch == 1 and len(waits) == at_edge + half):
            clocks.append((now, cpu_seconds()))
        if len(clocks) == 2:
            break
    batches.close()
    peer.close()
    (began, cpu_began), (ended, cpu_ended) = clocks
    around = range(at_edge - AROUND_EDGE, at_edge + AROUND_EDGE)
    elsewhere = [wait for number, wait in enumerate(waits) if number > 0 and number not in around]
    return {
        "seconds": ended - began,
        "cpu_seconds": max(cpu_ended - cpu_began, TICK_SECONDS),
        "images": peer.material.images,
        "first_seconds": waits[0],
        "edge_seconds": max(waits[number] for number in around),
        "other_seconds": sum(elsewhere) / len(elsewhere),
        **_count(ids, peer.material.images),
    }


def stop(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """Go to the middle of an epoch, write the state down, and tell what came then."""
    peer.open(None)
    batches = peer.epoch()
    for _ in range(peer.material.images // peer.batch // 2):
        next(batches)
    state = peer.state()
    Path(command["file"]).write_bytes(pickle.dumps(state))
    rest = [_told(batch) for batch in batches]
    peer.close()
    return {"has_state": state is not None, "rest": rest}


def go_on(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    """In another process: from the state to the end of the epoch."""
    state = pickle.loads(Path(command["file"]).read_bytes())
    started = time.perf_counter()
    peer.open(state)
    batches = peer.epoch()
    first = next(batches)
    seconds = time.perf_counter() - started
    rest = [_told(first), *(_told(batch) for batch in batches)]
    peer.close()
    return {"seconds": seconds, "rest": rest}


def kill(peer: Peer, command: dict[str, Any], alive: Told) -> dict[str, Any]:
    """`kill -9` one worker at work, and see the epoch to its end. `alive` is called with each batch."""
    peer.open(None)
    ids: list[int] = []
    before: list[float] = []
    after: list[float] = []
    ended = ""
    killed_at = 0.0
    previous = time.perf_counter()
    try:
        for number, batch in enumerate(peer.epoch()):
            now = time.perf_counter()
            (after if killed_at else before).append(now - max(previous, killed_at))
            alive()
            ids += batch[0].tolist()
            if number + 1 == BEFORE_KILL:
                os.kill(_worker(peer), signal.SIGKILL)
                killed_at = time.perf_counter()
            previous = time.perf_counter()
    except Exception as error:  # whatever a library makes of it is the finding
        told = str(error).splitlines()
        ended = f"{type(error).__name__}: {told[0] if told else ''}"[:200]
    return {
        "ended": ended,
        "ended_seconds": time.perf_counter() - killed_at,
        "longest_seconds": max(after, default=0.0),
        **_count(ids, peer.material.images),
    }


def _worker(peer: Peer) -> int:
    end = time.monotonic() + WORKER_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(IndexError):
            return peer.pids()[0]
    raise RuntimeError("no worker is at work")


def _count(ids: list[int], images: int) -> dict[str, int]:
    """Against each image once."""
    times = collections.Counter(ids)
    return {"lost": images - len(times), "doubled": sum(count - 1 for count in times.values())}


def _told(batch: Batch) -> list[tuple[int, int]]:
    """(id, CRC of the pixels) of each image."""
    ids, images = batch
    return [(int(number), zlib.crc32(image.numpy().tobytes())) for number, image in zip(ids, images, strict=True)]


def cpu_seconds() -> float:
    """Of this process, its living descendants, and those that they have waited for."""
    this, total = psutil.Process(), 0.0
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
