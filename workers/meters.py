"""What a column measures between two reports, and what it reports."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Seconds by what they were spent on since the last report, and the sums of losses and errors.

    `steps` covers all time in training steps; `data` the part of it spent waiting for a batch; exchange seconds are counted by
    the exchange itself. Evaluations and checkpoints are no part of `steps`.
    """

    def __init__(self) -> None:
        self.seconds = {"steps": 0.0, "data": 0.0}
        self.sums: Tensor | None = None
        """[images, loss, top-1 errors, top-5 errors], on the device; read only when reported."""
        self._exchange_before = 0.0

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - started

    def add(self, sums: Tensor) -> None:
        self.sums = sums if self.sums is None else self.sums + sums

    def leave_out_exchange(self, exchange_seconds: float) -> None:
        """What the exchange has waited up to now, its running total, is no part of the steps to come: an evaluation's, say."""
        self._exchange_before = exchange_seconds

    def take(self, group: dist.ProcessGroup, processes_per_replica: int, exchange_seconds: float) -> dict[str, Any]:
        """What was measured since the last call, over all replicas; every rank calls it.

        group: all ranks, for tensors on the CPU. exchange_seconds: the exchange's running total. Returns `images`, `loss` (mean,
        nats), `top1_error` and `top5_error` (0 to 1), and for training `images_per_second`, `data_wait` and `exchange_wait`:
        shares of the calling rank's step time. A data wait near 0 is as it should be; near 1, the data workers cannot keep up.
        """
        sums = torch.zeros(4, dtype=torch.float64) if self.sums is None else self.sums.cpu()
        dist.all_reduce(sums, group=group)
        # The columns of a replica have seen the same images.
        images, loss, top1, top5 = (sums / processes_per_replica).tolist()
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
            taken["exchange_wait"] = (exchange_seconds - self._exchange_before) / self.seconds["steps"]
        self.leave_out_exchange(exchange_seconds)
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.sums = None
        return taken
