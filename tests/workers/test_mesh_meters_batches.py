"""Small parts of a column worker: who is who, what is measured, and the thread that fetches batches.

What the groups are among real ranks is part of test_checkpoint, where four of them run.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from configs.loader import load
from workers import meters
from workers.batches import Batches
from workers.column_worker import MOST_UNTOLD, ColumnWorker
from workers.groups import use_interface
from workers.mesh import Mesh
from workers.meters import Cpu, Exchanged, Meter
from workers.reports import WarningReport


def test_ranks_go_through_the_columns_of_a_replica_first() -> None:
    mesh = Mesh(replicas=3, processes_per_replica=2, columns_per_process=1, device="cpu")
    assert (mesh.size, mesh.backend, mesh.name(3)) == (6, "gloo", "column r1 c1")
    assert [(mesh.replica(rank), mesh.place(rank), mesh.first_column(rank)) for rank in range(6)] == [
        (0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1), (2, 0, 0), (2, 1, 1),
    ]  # fmt: skip
    several = Mesh(replicas=2, processes_per_replica=2, columns_per_process=2, device="cuda")
    assert several.backend == "cpu:gloo,cuda:nccl"
    assert [(several.first_column(rank), several.name(rank)) for rank in range(4)] == [
        (0, "columns r0 c0-1"), (2, "columns r0 c2-3"), (0, "columns r1 c0-1"), (2, "columns r1 c2-3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, ("eth1", "=eth1")),  # NCCL takes a bare name for a beginning, and there may be an eth10
        ({"GLOO_SOCKET_IFNAME": "eth2", "NCCL_SOCKET_IFNAME": "ib"}, ("eth2", "ib")),
    ],
)
def test_interface_is_the_users_choice_or_the_clusters(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], used: tuple[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", dict(given))
    use_interface("eth1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == used


class Played:
    """A host's clock, and a device that does what it is given one after the other: behind the host, or while it waits."""

    def __init__(self, behind: bool) -> None:
        self.now = self._free = 100.0
        self._behind = behind

    def perf_counter(self) -> float:
        return self.now

    def give(self, seconds: float) -> None:
        self._free = self.mark() + seconds
        if not self._behind:
            self.now = self._free

    def mark(self) -> float:
        self._free = max(self._free, self.now)
        return self._free

    def wait(self, mark: float) -> None:
        self.now = max(self.now, mark)

    def seconds(self, first: float, second: float) -> float:
        assert max(first, second) <= self.now, "it has not passed them yet"
        return second - first


@pytest.mark.parametrize(
    ("behind", "steps", "agree", "data", "compute", "expected"),
    [
        # Seconds of all steps; of them waiting for the others, and for data.
        (False, 2, 1.0, 1.0, 2.0, (8.0, 2.0, 2.0)),
        (True, 1, 0.0, 0.0, 4.0, (4.0, 0.0, 0.0)),  # the host has long gone on
        (True, 1, 0.0, 3.0, 4.0, (7.0, 0.0, 3.0)),
        (True, 10, 0.0, 3.0, 4.0, (43.0, 0.0, 3.0)),  # only the first wait is one of the device
        # And of each later one, what it takes longer than the step before.
        (True, 10, 0.0, 5.0, 4.0, (54.0, 0.0, 14.0)),
        (True, 10, 2.0, 1.0, 4.0, (43.0, 2.0, 1.0)),
        (True, 10, 3.0, 2.0, 4.0, (54.0, 3.0, 11.0)),
    ],
)
def test_times_are_the_devices(
    alone: dist.ProcessGroup,
    monkeypatch: pytest.MonkeyPatch,
    behind: bool,
    steps: int,
    agree: float,
    data: float,
    compute: float,
    expected: tuple[float, float, float],
) -> None:
    """Steps of 8 images. Twice: what was reported is forgotten, and what lies between is nobody's."""
    played = Played(behind)
    monkeypatch.setattr(meters, "time", played)
    meter = Meter(played)
    for number in (1, 2):
        meter.run()
        for _ in range(steps):
            with meter.waiting("others"):
                played.now += agree
            with meter.waiting("data"):
                played.now += data
            with meter.step():
                played.give(compute)
                meter.add(torch.tensor([8.0, 16.0, 6.0, 2.0], dtype=torch.float64))
        taken = meter.take_with_times(alone, 1, Exchanged(0.25 * number, 500 * number))
        seconds, others, waited = expected[0], expected[1] + 0.25, expected[2]
        assert taken == {
            "images": 8 * steps, "loss": 2.0, "top1_error": 0.75, "top5_error": 0.25,
            "images_per_second": 8 * steps / seconds, "data_wait": waited / seconds, "exchange_wait": others / seconds,
            "by_rank": {
                "data_wait_seconds": [waited], "exchange_wait_seconds": [others],
                "compute_seconds": [seconds - waited - others], "exchanged_bytes": [500],
            },
        }  # fmt: skip
        meter.stop()
        played.now += 1000.0  # an evaluation, a checkpoint


def test_an_evaluation_of_nothing(alone: dist.ProcessGroup) -> None:
    """This process may have seen no image at all; and there is nothing to divide by."""
    assert Meter(Cpu()).take(alone, 1) == {"images": 0, "loss": 0.0, "top1_error": 0.0, "top5_error": 0.0}


class PlayedFeed:
    """`get` makes the batch that is asked for, or an error at the end."""

    def __init__(self, count: int) -> None:
        self.asked: list[int] = []
        self.count, self.most = count, 2
        self.too_early: list[int] = []
        self.stored: list[dict[str, Any]] = []

    def get(self, number: int) -> dict[str, Any]:
        self.asked.append(number)
        if len(self.asked) > self.most:
            self.too_early.append(number)
        if number >= self.count:
            raise IndexError(f"no batch {number}")
        made = {"images": np.full((2, 4, 4, 3), number, np.uint8), "labels": np.full(2, number)}
        made["offsets"] = np.zeros((2, 2), int)
        if number % 2:
            made |= {"mirror": np.array([True, False]), "keys": np.array([-1, 2**63 - 1])}
            made |= {"colour": np.full((2, 3), 0.5, np.float32), "noisy": np.array([True, True])}
        for array in made.values():
            array.setflags(write=False)  # as those in Ray's store are
        self.stored.append(made)
        return made | {"decoded": 2, "seconds": 0.1}


@pytest.fixture
def open_batches() -> Iterator[Callable[[int], tuple[PlayedFeed, Batches]]]:
    opened: list[Batches] = []

    def open_one(count: int) -> tuple[PlayedFeed, Batches]:
        feed = PlayedFeed(count)
        opened.append(Batches(feed.get, torch.device("cpu")))
        return feed, opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_batches_come_in_order_as_tensors_of_their_own(open_batches: Any) -> None:
    feed, reader = open_batches(5)
    for number in range(5):
        batch = next(reader)
        assert (batch.images_BHWC == number).all() and batch.images_BHWC.dtype == torch.uint8
        assert batch.labels_B.tolist() == [number] * 2
        batch.images_BHWC.fill_(99)  # a copy may be written to, and leaves the store's memory free to go
        assert (feed.stored[number]["images"] == number).all()
        if number % 2:
            assert batch.mirror_B.tolist() == [True, False]
            assert batch.keys_B.tolist() == [-1, 2**63 - 1]
            assert batch.colour_BC.dtype == torch.float32 and batch.noisy_B.all()
        else:
            assert batch.mirror_B is batch.keys_B is batch.colour_BC is batch.noisy_B is None
    assert feed.asked[:5] == list(range(5))


def settled(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within a minute."""
    deadline = time.monotonic() + 60.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_one_batch_waits_and_the_thread_holds_another(open_batches: Any) -> None:
    feed, reader = open_batches(10)
    for taken in range(10):
        assert settled(lambda: len(feed.asked) == feed.most), feed.asked
        feed.most = taken + 3
        next(reader)
    assert not feed.too_early


def test_error_comes_after_the_batches_before_it(open_batches: Any) -> None:
    _, reader = open_batches(2)
    next(reader), next(reader)
    with pytest.raises(IndexError, match="no batch 2"):
        next(reader)


@pytest.mark.parametrize("count", [0, 1, 2, 10])
def test_closing_ends_the_thread(open_batches: Any, count: int) -> None:
    """Whether it waits for room with a batch, or with an error."""
    feed, reader = open_batches(count)
    assert settled(lambda: len(feed.asked) >= min(2, count + 1))
    reader.close()
    assert settled(lambda: "batches" not in [thread.name for thread in threading.enumerate()])


def test_reports_are_kept_until_the_driver_has_them() -> None:
    mesh = Mesh(replicas=1, processes_per_replica=2, columns_per_process=1, device="cpu")
    worker = ColumnWorker(load(None), mesh, 0)

    def told(seen: int) -> list[int]:
        return [report.step for report in worker.status(seen, 0).reports]

    for step in range(5):
        worker._report(WarningReport(step=step, text=""))
    assert told(0) == [0, 1, 2, 3, 4] == told(0), "an answer may be lost"
    worker._report(WarningReport(step=5, text=""))
    assert told(5) == [5]
    assert len(worker._reports) == 1, "a run of days does not keep them all"
    assert told(2) == [5], "a call that was given up comes after a later one"
    worker._report(WarningReport(step=6, text=""))
    assert [report.step for report in worker.untold()] == [5, 6], "a checkpoint that is made now holds them"
    assert told(6) == [6] and [report.step for report in worker.untold()] == [6]
    assert told(7) == [] == worker.untold()
    for step in range(7, 7 + 2 * MOST_UNTOLD):
        worker._report(WarningReport(step=step, text=""))
    kept = worker.untold()
    assert (len(kept), kept[-1].step) == (MOST_UNTOLD, 6 + 2 * MOST_UNTOLD), "a driver that stands still for hours"
