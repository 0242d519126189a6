"""What a column measures between two reports, and what it reports."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

Waiting = Literal["data", "others"]
"""For a batch; for the other ranks to agree to go on."""


class Exchanged(NamedTuple):
    """Running totals of a process's exchange with the other columns of its replica."""

    seconds: float = 0.0
    """That the process waited for it."""
    bytes: int = 0
    """Sent, to all others together."""


class Device(Protocol):
    """Passes the marks that its host gives it, each when it has done all that it was given before."""

    def mark(self) -> Any: ...

    def wait(self, mark: Any) -> None:
        """Until the device has passed it."""

    def seconds(self, first: Any, second: Any) -> float:
        """From one mark to another, both of which it has passed."""


class Cpu:
    """Does at once what it is given."""

    def mark(self) -> float:
        return time.perf_counter()

    def wait(self, mark: float) -> None:
        pass

    def seconds(self, first: float, second: float) -> float:
        return second - first


class Gpu:
    """Runs behind its host; marks are events on the stream that computes."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # else whoever waits keeps a CPU busy
        event.record()
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def seconds(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        return first.elapsed_time(second) / 1e3


class Meter:
    """Seconds by what they were spent on since the last report, and the sums of losses and errors.

    `run` and `stop` are the clock; `waiting` is for parts of that time in which the device has nothing to do. A wait that a GPU
    does not see, because it is still at work on the step before, is none. Exchange seconds are counted by the exchange itself.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.sums: Tensor | None = None
        """[images, loss, top-1 errors, top-5 errors], on the device; read only when reported."""
        self._before = Exchanged()
        self._since: float | None = None
        """When the clock was started, or last read; None: it stands."""
        self._seconds = 0.0
        self._waited: dict[Waiting, float] = {"data": 0.0, "others": 0.0}
        self._step_before: Any = None
        """Mark at the end of the step before."""
        self._passed: list[tuple[Waiting, Any, Any]] = []
        self._ahead: list[tuple[Waiting, Any, Any]] = []
        """Marks around waits, before and after `_step_before`."""

    def run(self) -> None:
        """Start the clock, if it stands."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock, when the device has done what it was given."""
        if self._since is not None:
            self._read()
            self._since = None

    @contextmanager
    def waiting(self, what: Waiting) -> Iterator[None]:
        first = self._device.mark()
        yield
        self._ahead.append((what, first, self._device.mark()))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step. A GPU's host may be one ahead, which keeps the GPU busy; further, batches would pile up."""
        yield
        if self._step_before is not None:
            self._device.wait(self._step_before)
            self._add(self._passed)
        self._passed, self._ahead = self._ahead, []
        self._step_before = self._device.mark()

    def add(self, sums: Tensor) -> None:
        self.sums = sums if self.sums is None else self.sums + sums

    def leave_out_exchange(self, exchanged: Exchanged) -> None:
        """What was exchanged up to now is no part of the steps to come: an evaluation's, say."""
        self._before = exchanged

    def take_seconds(self) -> float:
        """That the clock ran since the last call, once the device has done what it was given."""
        if self._since is not None:
            self._read()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def take(self, group: dist.ProcessGroup, processes_per_replica: int) -> dict[str, Any]:
        """The sums since the last call, over all replicas; every rank calls it.

        group: all ranks, for tensors on the CPU. Returns `images`, `loss` (mean, nats), `top1_error` and `top5_error` (0 to 1).
        """
        return self._take(group, processes_per_replica, [])[0]

    def take_with_times(
        self, group: dist.ProcessGroup, processes_per_replica: int, exchanged: Exchanged
    ) -> dict[str, Any]:
        """As `take`, and `images_per_second`, `data_wait` and `exchange_wait`: shares of the calling rank's time. A data wait
        near 0 is as it should be; near 1, the data workers cannot keep up. Agreeing to go on is waiting for the exchange too.

        `by_rank` then has a list over ranks for each of: `data_wait_seconds`, `exchange_wait_seconds`, `compute_seconds` (the
        rest of the time) and `exchanged_bytes`, sent by that rank.
        """
        seconds, waited = self.take_seconds(), dict(self._waited)
        self._waited = dict.fromkeys(waited, 0.0)
        data, others = waited["data"], waited["others"] + exchanged.seconds - self._before.seconds
        own = [data, others, seconds - data - others, float(exchanged.bytes - self._before.bytes)]
        self.leave_out_exchange(exchanged)
        with self.waiting("others"):  # a part of the next report's time
            taken, rows = self._take(group, processes_per_replica, own)
        seconds = max(seconds, 1e-9)
        return {
            **taken,
            "images_per_second": taken["images"] / seconds,
            "data_wait": data / seconds,
            "exchange_wait": others / seconds,
            "by_rank": {
                "data_wait_seconds": [row[0] for row in rows],
                "exchange_wait_seconds": [row[1] for row in rows],
                "compute_seconds": [row[2] for row in rows],
                "exchanged_bytes": [int(row[3]) for row in rows],
            },
        }

    def _take(
        self, group: dist.ProcessGroup, processes_per_replica: int, own: list[float]
    ) -> tuple[dict[str, Any], list[list[float]]]:
        """The sums, and every rank's `own`."""
        sums = torch.zeros(4, dtype=torch.float64) if self.sums is None else self.sums.cpu()
        self.sums = None
        # Every rank fills its own row; the sum over ranks is all rows.
        rows = torch.zeros(group.size(), len(own), dtype=torch.float64)
        rows[group.rank()] = torch.tensor(own, dtype=torch.float64)
        everything = torch.cat([sums, rows.flatten()])
        dist.all_reduce(everything, group=group)
        # The columns of a replica have seen the same images.
        images, loss, top1, top5 = (everything[:4] / processes_per_replica).tolist()
        per_image = 1.0 / max(images, 1.0)
        return {
            "images": int(images),
            "loss": loss * per_image,
            "top1_error": top1 * per_image,
            "top5_error": top5 * per_image,
        }, everything[4:].view(rows.shape).tolist()

    def _read(self) -> None:
        self._device.wait(self._device.mark())
        self._add(self._passed + self._ahead)
        self._passed, self._ahead = [], []
        now = time.perf_counter()
        assert self._since is not None
        self._seconds += now - self._since
        self._since = now

    def _add(self, waits: list[tuple[Waiting, Any, Any]]) -> None:
        for what, first, second in waits:
            self._waited[what] += self._device.seconds(first, second)
