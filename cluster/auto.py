"""Counts that a config gives as `auto`, made into numbers from the devices that there are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from configs.schema import Config

DATA_WORKERS_PER_GPU = {"fp32": 3, "tf32": 13, "bf16": 22}
"""By precision. One H200 is predicted to train as many images as 2.4, 12.4 and 21.5 CPUs decode (docs/scaling.md)."""


@dataclass(frozen=True, kw_only=True)
class NodeDevices:
    """What a node offers to Ray."""

    gpus: int
    cpus: float

    def replicas(self, *, gpus: int, cpus: float) -> int:
        """How many replicas fit here that need this much each."""
        return min(self.gpus // gpus if gpus else int(self.cpus // cpus), int(self.cpus // cpus))


def resolve_auto(config: Config, nodes: Sequence[NodeDevices]) -> tuple[Config, tuple[tuple[str, str], ...]]:
    """The config with numbers, and (what, in words) for each that was `auto`. The rules stand in `configs.schema.Cluster`."""
    said: list[tuple[str, str]] = []
    if config.cluster.replicas == "auto":
        replicas, why = _replicas(config, nodes)
        config = replace(config, cluster=replace(config.cluster, replicas=replicas))
        said.append(("replicas", f"auto -> {replicas}, because {why}"))
    if config.cluster.data_workers == "auto":
        workers, why = _data_workers(config, nodes)
        config = replace(config, cluster=replace(config.cluster, data_workers=workers))
        said.append(("data workers", f"auto -> {workers} per replica, because {why}"))
    return config, tuple(said)


def _replicas(config: Config, nodes: Sequence[NodeDevices]) -> tuple[int, str]:
    gpus, batch = config.network.most_processes // config.cluster.columns_per_gpu, config.train.batch_size
    if config.cluster.device == "cpu":
        return 1, "cluster.device is cpu"
    room = sum(node.gpus // gpus for node in nodes)
    if room < 1:
        return 1, f"no node has {gpus} GPU(s), as many as a replica takes"
    count = max(number for number in range(1, min(room, batch) + 1) if batch % number == 0)
    why = f"there are GPUs for {room} replica(s) of {gpus}, each on one node"
    return count, why if count == room else f"{why}, and {batch} images split evenly over {count}"


def _data_workers(config: Config, nodes: Sequence[NodeDevices]) -> tuple[int, str]:
    cluster, most, replicas = config.cluster, config.network.most_processes, config.cluster.replica_count
    gpus = sum(node.gpus for node in nodes)
    if cluster.device == "cpu" or gpus < replicas:
        return 1, "one makes more images than CPUs train"
    gpus_each = most // cluster.columns_per_gpu
    processes = most
    if sum(node.gpus // gpus_each for node in nodes) < replicas:
        processes = gpus_each = 1
    precision = config.compute.precision
    each = DATA_WORKERS_PER_GPU[precision]
    useful = each * gpus_each
    # Ray fills a node before it takes the next, so a node has as many replicas as its GPUs allow.
    left = []
    for node in nodes:
        here = min(node.gpus // gpus_each, replicas)
        if here:
            left.append(node.cpus / here - processes * cluster.cpus_per_column)
    room = int(min(left, default=0) // cluster.cpus_per_data_worker)
    if room < useful:
        why = f"the node has {max(min(left, default=0), 0):g} CPU(s) per replica left, and {useful} would be useful"
        return max(room, 1), why
    return useful, f"{each} serve a GPU in {precision} and a replica has {gpus_each}"
