"""Which process owns which columns of which replica."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Processes of a run, in two axes: replicas (data parallel) and columns (model parallel).

    rank = replica * processes_per_replica + place in the replica.
    """

    replicas: int
    processes_per_replica: int
    columns_per_process: int
    device: Literal["cpu", "cuda"]
    processes_per_gpu: int = 1
    """More than 1: of one replica, whose number of processes it divides."""
    gpu_backend: Literal["nccl", "gloo"] = "nccl"

    @property
    def size(self) -> int:
        return self.replicas * self.processes_per_replica

    @property
    def backend(self) -> str:
        """Of torch.distributed: NCCL between GPUs, gloo between CPUs; small agreements go over gloo in either case."""
        return "cpu:gloo,cuda:nccl" if self.device == "cuda" and self.gpu_backend == "nccl" else "gloo"

    @property
    def gpus_per_replica(self) -> int:
        return self.processes_per_replica // self.processes_per_gpu if self.device == "cuda" else 0

    def replica(self, rank: int) -> int:
        return rank // self.processes_per_replica

    def first_rank(self, replica: int) -> int:
        """Of the replica's processes; it has the replica's feed."""
        return replica * self.processes_per_replica

    def place(self, rank: int) -> int:
        """Number of the process within its replica."""
        return rank % self.processes_per_replica

    def first_column(self, rank: int) -> int:
        return self.place(rank) * self.columns_per_process

    def name(self, rank: int) -> str:
        """How a process is called in messages and in the Ray dashboard: `column r0 c1`, or `columns r0 c0-1`."""
        first = self.first_column(rank)
        last = first + self.columns_per_process - 1
        replica = self.replica(rank)
        return f"column r{replica} c{first}" if first == last else f"columns r{replica} c{first}-{last}"
