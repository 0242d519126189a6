"""The nodes of the cluster: which there are, whether they are all that was asked for, and whether the run fits on them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.auto import NodeDevices
from cluster.plan import Plan
from cluster.preflight.results import Result, Waiting

POLL_SECONDS = 0.2
LOGS = "/tmp/ray/session_latest/logs"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that Ray believes alive."""

    id: str
    address: str
    name: str
    """The address, with the beginning of the id where several nodes share one."""
    devices: NodeDevices
    store_bytes: int
    """Capacity of its object store."""

    def replicas(self, plan: Plan) -> int:
        """Of the plan's replicas, the most that may be placed here. Ray fills a node before it takes the next."""
        processes = plan.mesh.processes_per_replica
        room = self.devices.replicas(
            gpus=plan.mesh.gpus_per_replica, cpus=processes * plan.config.cluster.cpus_per_column
        )
        return min(room, plan.mesh.replicas)

    def takes_data_workers(self, plan: Plan) -> bool:
        """Whether data workers may come to be here: they go elsewhere if their replica's node is full."""
        return self.replicas(plan) > 0 or self.devices.cpus >= plan.config.cluster.cpus_per_data_worker


def alive_nodes(ray: Any) -> list[Node]:
    """The nodes in the order of their addresses."""
    rows = [row for row in ray.nodes() if row["Alive"]]
    sharing = Counter(row["NodeManagerAddress"] for row in rows)
    nodes = []
    for row in rows:
        address, there = row["NodeManagerAddress"], row["Resources"]
        alone = sharing[address] == 1
        nodes.append(
            Node(
                id=row["NodeID"],
                address=address,
                name=address if alone else f"{address} ({row['NodeID'][:8]})",
                devices=NodeDevices(gpus=int(there.get("GPU", 0)), cpus=there.get("CPU", 0.0)),
                store_bytes=int(there.get("object_store_memory", 0)),
            )
        )
    return sorted(nodes, key=lambda node: (node.address, node.id))


def wait_for_nodes(ray: Any, wanted: int | None, seconds: float) -> list[Node]:
    """Wait until so many nodes have joined, or the time is over; returns those that have."""
    waiting, end = Waiting(), time.monotonic() + seconds
    while True:
        nodes = alive_nodes(ray)
        if wanted is None or len(nodes) >= wanted or time.monotonic() > end:
            return nodes
        left = end - time.monotonic()
        waiting.say(f"{len(nodes)} of {wanted} nodes have joined ({_names(nodes)}); waiting up to {left:.0f} s more")
        time.sleep(POLL_SECONDS)


def check_joined(ray: Any, wanted: int | None, nodes: Sequence[Node]) -> list[Result]:
    """Against `cluster.nodes`."""
    if wanted is None:
        return [
            Result(name="nodes", state="ok", what=f"{len(nodes)} joined ({_names(nodes)}); cluster.nodes is not set")
        ]
    if len(nodes) >= wanted:
        return [Result(name="nodes", state="ok", what=f"{len(nodes)} joined of {wanted} asked for ({_names(nodes)})")]
    if len(ray.nodes()) == 1 and nodes[0].address == "127.0.0.1":
        return [
            Result(
                name="nodes",
                what=f"cluster.nodes is {wanted}, and a Ray that is started here has one node",
                todo="join a cluster with --address auto, or set cluster.nodes=null",
            )
        ]
    there = {node.address for node in nodes}
    gone = sorted({row["NodeManagerAddress"] for row in ray.nodes() if not row["Alive"]} - there)
    what = f"{len(nodes)} of cluster.nodes = {wanted} nodes have joined ({_names(nodes)})"
    if gone:
        what += f"; {', '.join(gone)} had joined and died"
    gcs = ray.get_runtime_context().gcs_address
    return [
        Result(
            name="nodes",
            what=what,
            todo=f"read {LOGS}/monitor.* on the head, and {LOGS}/raylet.* on a node that is missing; start Ray there by "
            f"`ray start --address={gcs}`, or set cluster.nodes={len(nodes)}",
        )
    ]


def check_room(plan: Plan, nodes: Sequence[Node]) -> list[Result]:
    """Whether the replicas can be placed, each on one node, and the data workers with them."""
    room = sum(node.replicas(plan) for node in nodes)
    cpus, gpus = sum(node.devices.cpus for node in nodes), sum(node.devices.gpus for node in nodes)
    processes, each = plan.mesh.processes_per_replica, plan.config.cluster.cpus_per_column
    needs = f"{processes * each} CPU(s)" + (f" and {plan.mesh.gpus_per_replica} GPU(s)" if plan.gpus else "")
    if 0 < room < plan.mesh.replicas and plan.config.fault.elastic:
        what = f"there is room for {room} of {plan.mesh.replicas} replica(s) of {needs} each; fewer will take their parts too"
        return [Result(name="room", state="warning", what=what)]
    if room < plan.mesh.replicas:
        there = "; ".join(f"{n.name} has {n.devices.cpus:g} CPU(s) and {n.devices.gpus} GPU(s)" for n in nodes)
        return [
            Result(
                name="room",
                what=f"{plan.mesh.replicas} replica(s) of {needs} each, on one node, do not fit: {there}",
                todo="use fewer cluster.replicas or cluster.cpus_per_column, or add nodes",
            )
        ]
    if cpus < plan.cpus:
        return [
            Result(
                name="room",
                what=f"the run needs {plan.cpus:g} CPUs and the cluster has {cpus:g}",
                todo="use fewer cluster.data_workers, cluster.cpus_per_data_worker or cluster.replicas, or add nodes",
            )
        ]
    return [
        Result(
            name="room",
            state="ok",
            what=f"{plan.cpus:g} of {cpus:g} CPU(s) and {plan.gpus} of {gpus} GPU(s) are needed",
        )
    ]


def _names(nodes: Sequence[Node]) -> str:
    return ", ".join(node.name for node in nodes) or "none"
