"""The process groups of a run's ranks: how they find each other, how long they wait, and what they did last. No Ray."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from workers.mesh import Mesh

# Public since torch 2.14.
set_timeout: Any = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Of one rank. NCCL or gloo by the mesh; `control` and `save` hold all ranks, for tensors on the CPU."""

    replica: dist.ProcessGroup
    """The ranks that own the same columns in all replicas."""
    column: dist.ProcessGroup
    """The ranks of one replica, in the order of their columns."""
    control: dist.ProcessGroup
    save: dist.ProcessGroup
    """For the threads that save."""

    @classmethod
    def join(cls, mesh: Mesh, rank: int, store: dist.Store, timeout: timedelta, save_timeout: timedelta) -> "Groups":
        """Every rank calls it, with the store of rank 0. timeout: of a collective in any group but `save`."""
        if mesh.device == "cuda":
            torch.cuda.set_device(0)  # the only one that Ray lets an actor see
        dist.init_process_group(mesh.backend, store=store, rank=rank, world_size=mesh.size, timeout=timeout)
        replicas, places = range(mesh.replicas), range(mesh.processes_per_replica)
        return cls(
            replica=_own([[mesh.first_rank(replica) + place for replica in replicas] for place in places], timeout),
            column=_own([[mesh.first_rank(replica) + place for place in places] for replica in replicas], timeout),
            control=_of_all("gloo", timeout),
            save=_of_all("gloo", save_timeout),
        )

    def be_less_patient(self, timeout: timedelta) -> None:
        """Of all groups but `save`, from now on."""
        for group in (None, self.replica, self.column, self.control):
            set_timeout(timeout, group)


def _own(ranks_of_groups: Sequence[Sequence[int]], timeout: timedelta) -> dist.ProcessGroup:
    """The group that this rank is in. A device mesh would give its groups torch's own half an hour."""
    own, _ = dist.new_subgroups_by_enumeration([list(ranks) for ranks in ranks_of_groups], timeout=timeout)
    assert own is not None
    return own


def _of_all(backend: str, timeout: timedelta) -> dist.ProcessGroup:
    group: dist.ProcessGroup = dist.new_group(backend=backend, timeout=timeout)
    return group


def use_interface(name: str) -> None:
    """Have gloo and NCCL talk over this network interface, unless whoever runs this has named another one.

    Host names that resolve to 127.0.1.1 (Debian's default) would otherwise lead gloo astray.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    # NCCL takes a bare name for a beginning: eth1 would be eth10 too.
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def flight_records(device: str) -> str:
    """What this process's groups did last (torch's flight recorders), as JSON: {"gloo": ..., "nccl": ...}."""
    torch_internals: Any = torch._C._distributed_c10d
    # NCCL's groups have a recorder of their own, which builds without CUDA lack.
    dumps = {"gloo": torch_internals._dump_fr_trace_json}
    if device == "cuda":
        dumps["nccl"] = torch_internals._dump_nccl_trace_json
    return json.dumps({name: json.loads(dump()) for name, dump in dumps.items()})
