"""What a running cluster has room for: how many replicas, and which of its nodes will be taken away."""

import ray

from cluster.plan import Plan


def draining_nodes() -> set[str]:
    """Ids of the nodes that were told to finish what they do, because they will be taken away."""
    # The only place where Ray 2.60 says so to a driver.
    return set(ray._private.state.state.get_draining_nodes())


def replicas_that_fit(plan: Plan, *, held: int = 0) -> int:
    """The most replicas of this plan's shape that there is room for, a divisor of those configured; 0 if there is none.

    held: replicas that this run has now, whose room counts.
    """
    cluster, processes = plan.config.cluster, plan.mesh.processes_per_replica
    columns_cpus = processes * cluster.cpus_per_column
    room, cpus = held, 0.0
    for free in _free_resources():
        cpus += free.get("CPU", 0.0)
        fits = int(free.get("CPU", 0.0) // columns_cpus)
        gpus = plan.mesh.gpus_per_replica
        room += min(fits, int(free.get("GPU", 0.0) // gpus)) if gpus else fits
    # Data workers may be anywhere.
    room = min(room, held + int(cpus // (columns_cpus + cluster.data_worker_count * cluster.cpus_per_data_worker)))
    return max((n for n in range(1, room + 1) if cluster.replica_count % n == 0), default=0)


def _free_resources() -> list[dict[str, float]]:
    """Of each living node that is not being drained."""
    leaving = draining_nodes()
    free = ray._private.state.available_resources_per_node()
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return [free.get(node, {}) for node in alive if node not in leaving]
