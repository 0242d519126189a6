"""How many replicas a cluster has room for, from what its nodes have free."""

from typing import Any

import pytest
import ray

from cluster import capacity
from cluster.plan import Plan, make_plan
from configs.loader import load
from tests.cluster.play import SIZE
from tests.cluster.runs import SMALL

Nodes = dict[str, dict[str, float]]


def plan(replicas: int = 4, gpus: int = 0) -> Plan:
    """Of two columns per replica, with a CPU each, and two data workers with half of one."""
    settings = [f"cluster.replicas={replicas}", "cluster.data_workers=2", "cluster.cpus_per_data_worker=0.5"]
    return make_plan(load(SMALL, settings), gpus, SIZE)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    """What is free on each node, for the test to fill in. One whose name begins with `dead` or `leaving` is that."""
    free: Nodes = {}
    state: Any = ray._private.state
    monkeypatch.setattr(state, "available_resources_per_node", lambda: free)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": n, "Alive": not n.startswith("dead")} for n in free])
    monkeypatch.setattr(capacity, "draining_nodes", lambda: {n for n in free if n.startswith("leaving")})
    return free


@pytest.mark.parametrize(
    ("free", "held", "expected"),
    [
        ([11], 0, 2),  # 3 would fit, and do not divide 4
        ([5], 0, 1),
        ([2], 0, 0),  # no CPU for the data worker
        ([3, 3, 3, 3], 0, 4),
        ([1, 1, 1, 1], 0, 0),  # a replica's columns are on one node
        ([2, 2, 1, 1], 0, 2),  # its data workers are anywhere
        ([3], 1, 2),
        ([3], 2, 2),
        ([6], 2, 4),
        ([], 2, 2),
        ({"dead": 12, "there": 3}, 0, 1),
        ({"leaving": 12, "there": 3}, 0, 1),
    ],
)
def test_by_cpus(nodes: Nodes, free: list[float] | dict[str, float], held: int, expected: int) -> None:
    named = free.items() if isinstance(free, dict) else enumerate(free)
    nodes.update({str(name): {"CPU": cpus} for name, cpus in named})
    assert capacity.replicas_that_fit(plan(), held=held) == expected


@pytest.mark.parametrize(
    ("free", "expected"),
    [([(99, 8)], 4), ([(99, 7)], 2), ([(99, 3), (99, 1)], 1), ([(9, 8)], 2), ([(99, 1), (99, 1)], 0), ([(99, 0)], 0)],
)
def test_by_gpus(nodes: Nodes, free: list[tuple[float, float]], expected: int) -> None:
    nodes.update({str(number): {"CPU": cpus, "GPU": gpus} for number, (cpus, gpus) in enumerate(free)})
    assert capacity.replicas_that_fit(plan(4, 8)) == expected
