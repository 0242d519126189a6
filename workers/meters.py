"""What a column measures between two reports, and what it reports."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Exchanged(NamedTuple):
    """Running totals of a process's exchange with the other columns of its replica."""

    seconds: float = 0.0
    """That the process waited for it."""
    bytes: int = 0
    """Sent, to all others together."""


class Meter:
    """Seconds by what they were spent on since the last report, and the sums of losses and errors.

    `steps` covers all time in training steps; `data` the part of it spent waiting for a batch; exchange seconds are counted by
    the exchange itself. Evaluations, whose time is `tests`, and checkpoints are no part of `steps`.
    """

    def __init__(self) -> None:
        self.seconds = {"steps": 0.0, "data": 0.0, "tests": 0.0}
        self.sums: Tensor | None = None
        """[images, loss, top-1 errors, top-5 errors], on the device; read only when reported."""
        self._before = Exchanged()

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - started

    def add(self, sums: Tensor) -> None:
        self.sums = sums if self.sums is None else self.sums + sums

    def leave_out_exchange(self, exchanged: Exchanged) -> None:
        """What was exchanged up to now is no part of the steps to come: an evaluation's, say."""
        self._before = exchanged

    def take(self, group: dist.ProcessGroup, processes_per_replica: int, exchanged: Exchanged) -> dict[str, Any]:
        """What was measured since the last call, over all replicas; every rank calls it.

        group: all ranks, for tensors on the CPU. Returns `images`, `loss` (mean, nats), `top1_error` and `top5_error` (0 to 1),
        and for training `images_per_second`, `data_wait` and `exchange_wait`: shares of the calling rank's step time. A data wait
        near 0 is as it should be; near 1, the data workers cannot keep up.

        `by_rank` then has a list over ranks for each of: `data_wait_seconds`, `exchange_wait_seconds`, `compute_seconds` (the
        rest of the step time) and `exchanged_bytes`, sent by that rank.
        """
        sums = torch.zeros(4, dtype=torch.float64) if self.sums is None else self.sums.cpu()
        # Every rank fills its own row of the times; the sum over ranks is all rows.
        rows = torch.zeros(group.size(), 4, dtype=torch.float64)
        waited = exchanged.seconds - self._before.seconds
        sent = exchanged.bytes - self._before.bytes
        compute = self.seconds["steps"] - self.seconds["data"] - waited
        rows[group.rank()] = torch.tensor([self.seconds["data"], waited, compute, sent], dtype=torch.float64)
        everything = torch.cat([sums, rows.flatten()])
        dist.all_reduce(everything, group=group)
        # The columns of a replica have seen the same images.
        images, loss, top1, top5 = (everything[:4] / processes_per_replica).tolist()
        per_image = 1.0 / max(images, 1.0)
        taken: dict[str, Any] = {
            "images": int(images),
            "loss": loss * per_image,
            "top1_error": top1 * per_image,
            "top5_error": top5 * per_image,
        }
        if self.seconds["steps"] > 0:
            taken["images_per_second"] = images / self.seconds["steps"]
            taken["data_wait"] = self.seconds["data"] / self.seconds["steps"]
            taken["exchange_wait"] = waited / self.seconds["steps"]
            data, exchange, computing, bytes_sent = everything[4:].view(-1, 4).T.tolist()
            taken["by_rank"] = {
                "data_wait_seconds": data,
                "exchange_wait_seconds": exchange,
                "compute_seconds": computing,
                "exchanged_bytes": [int(count) for count in bytes_sent],
            }
        self.leave_out_exchange(exchanged)
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.sums = None
        return taken
