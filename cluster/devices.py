"""Which devices a run computes on, and how its columns are dealt out to processes on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from configs.errors import UserError
from configs.schema import Config
from workers.mesh import Mesh


def choose_mesh(config: Config, gpus_of_nodes: Sequence[int]) -> tuple[Mesh, str]:
    """The mesh for nodes with this many GPUs, and why. A replica's columns are on one node.

    Raises UserError if `cluster.device` is cuda and there are too few.
    """
    replicas, columns, wish = config.cluster.replica_count, config.network.columns, config.cluster.device
    gpus = sum(gpus_of_nodes)
    if config.network.most_processes < columns:
        return _together(config, gpus)
    shared, backend = config.cluster.columns_per_gpu, config.cluster.gpu_backend
    each = Mesh(
        replicas=replicas,
        processes_per_replica=columns,
        columns_per_process=1,
        device="cuda",
        processes_per_gpu=shared,
        gpu_backend=backend,
    )
    if wish != "cpu" and sum(there // each.gpus_per_replica for there in gpus_of_nodes) >= replicas:
        over = {"nccl": "NCCL", "gloo": "gloo"}[backend]
        split = "one each" if shared == 1 else f"{shared} share one"
        return each, f"{gpus} GPU(s) for {replicas * columns} column(s): {split}, exchanging over {over}"
    if wish != "cpu" and gpus >= replicas:
        whole = replace(each, processes_per_replica=1, columns_per_process=columns, processes_per_gpu=1)
        apart = "" if gpus < replicas * columns else f", too few nodes with {columns} of them"
        return (
            whole,
            f"{gpus} GPU(s) for {replicas * columns} columns{apart}: all columns of a replica in one process on one GPU",
        )
    fewer = [n for n in range(replicas - 1, 0, -1) if replicas % n == 0 and n <= gpus]
    if wish != "cpu" and config.fault.elastic and fewer:
        mesh, why = choose_mesh(replace(config, cluster=replace(config.cluster, replicas=fewer[0])), gpus_of_nodes)
        return mesh, f"{why}; {fewer[0]} of {replicas} replicas, which take the others' parts too (fault.elastic)"
    if wish == "cuda":
        raise UserError(
            f"cluster.device is cuda, but there are {gpus} GPU(s) for {replicas} replica(s); "
            "set cluster.device=auto or cpu, fewer cluster.replicas, or join a cluster that has GPUs with --address"
        )
    cpu = Mesh(replicas=replicas, processes_per_replica=columns, columns_per_process=1, device="cpu")
    asked = (
        "cluster.device is cpu"
        if wish == "cpu"
        else "no GPU"
        if gpus == 0
        else f"only {gpus} GPU(s) for {replicas} replicas"
    )
    return cpu, f"{asked}: one process per column on CPUs, exchanging over gloo"


def _together(config: Config, gpus: int) -> tuple[Mesh, str]:
    """For a network whose response norms see every column's maps, which are not sent between processes."""
    replicas, columns = config.cluster.replica_count, config.network.columns
    wish, backend = config.cluster.device, config.cluster.gpu_backend
    if wish == "cuda" and gpus < replicas:
        raise UserError(
            f"cluster.device is cuda, but there are {gpus} GPU(s) for {replicas} replica(s), each with all its columns in one "
            "process because network.lrn.sees is all; set cluster.device=auto or cpu, or fewer cluster.replicas"
        )
    device: Literal["cuda", "cpu"] = "cuda" if wish != "cpu" and gpus >= replicas else "cpu"
    mesh = Mesh(
        replicas=replicas, processes_per_replica=1, columns_per_process=columns, device=device, gpu_backend=backend
    )
    where = "on one GPU" if device == "cuda" else "on CPUs"
    return mesh, f"all columns of a replica in one process {where}, because network.lrn.sees is all"


def local_gpus() -> int:
    """GPUs that this process may use. Asks torch only where there is a driver, for importing torch takes seconds."""
    if not Path("/dev/nvidiactl").exists():
        return 0
    import torch

    return torch.cuda.device_count()
