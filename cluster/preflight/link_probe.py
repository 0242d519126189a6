"""One end of a link between two processes, as columns use it: gloo, on the interface that has the node's address."""

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from workers.interfaces import interface_of

PINGS = 20


@dataclass(frozen=True, kw_only=True)
class Link:
    """Measured at one end."""

    latency_seconds: float
    """Of one way: half of the median time there and back."""
    bytes_per_second: float
    """Of the slower direction."""


class LinkProbe:
    """A short-lived actor. `own`: the address of its node in the cluster."""

    def __init__(self, own: str) -> None:
        import torch.distributed  # seconds, at the first start on a machine

        self._own, self._store = own, None  # type: tuple[str, Any]
        interface = interface_of(own)
        if interface:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        torch.set_num_threads(1)

    def ready(self) -> None:
        """Returns when torch has been imported."""

    def open(self, seconds: float) -> int:
        """Open the store through which both ends find each other; returns its port."""
        import torch.distributed as dist

        self._store = dist.TCPStore(
            self._own, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds)
        )
        return int(self._store.port)

    def measure(self, end: int, address: str, port: int, size: int, seconds: float) -> Link:
        """end: 0 at the side of the store, 1 at the other. size: bytes sent each way. seconds: a time limit.

        Raises RuntimeError (of torch) if the other end cannot be reached in time.
        """
        import torch
        import torch.distributed as dist

        limit = timedelta(seconds=seconds)
        store = self._store if end == 0 else dist.TCPStore(address, port, is_master=False, timeout=limit)
        dist.init_process_group("gloo", store=store, rank=end, world_size=2, timeout=limit)
        try:
            small, large = torch.zeros(1), torch.zeros(max(size // 4, 1))
            self._there_and_back(end, small)
            self._there_and_back(end, large)  # buffers and windows have grown after this
            pings = sorted(self._there_and_back(end, small) for _ in range(PINGS))
            directions = []
            for sender in (0, 1):
                started = time.perf_counter()
                if end == sender:
                    dist.send(large, 1 - end)
                    dist.recv(small, 1 - end)  # it has arrived, not only left
                else:
                    dist.recv(large, 1 - end)
                    dist.send(small, 1 - end)
                directions.append(time.perf_counter() - started)
        finally:
            dist.destroy_process_group()
            self._store = None
        return Link(latency_seconds=pings[PINGS // 2] / 2, bytes_per_second=size / max(directions))

    def _there_and_back(self, end: int, tensor: Any) -> float:
        import torch.distributed as dist

        started = time.perf_counter()
        if end == 0:
            dist.send(tensor, 1)
            dist.recv(tensor, 1)
        else:
            dist.recv(tensor, 0)
            dist.send(tensor, 0)
        return time.perf_counter() - started
