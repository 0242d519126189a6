"""`bench plan` at a tiny size: its steps are real, and its cases are what their names say. No test asserts a speed."""

import pytest

from cluster.benchmarks.plan import Case, made, measure, predict, width
from configs.loader import load
from configs.machine import load_machine

CPU = load_machine("cpu")


@pytest.mark.parametrize(("apart", "replicas", "processes"), [(False, 1, 1), (True, 1, 2), (True, 2, 4)])
def test_cases_are_meshes(apart: bool, replicas: int, processes: int) -> None:
    case = Case(apart, replicas, 64, 1.0)
    plan = made(case, 2, CPU)
    assert plan.mesh.size == processes
    assert plan.config.train.batch_size == 64
    assert plan.parameters == 60_965_224
    # All cases have two cores: 1 x 2 threads, 2 x 1, and 4 x 1 that share.
    assert predict(case, 2, CPU) == pytest.approx(predict(Case(False, 1, 64, 1.0), 2, CPU), rel=0.6)


def test_widths() -> None:
    network = load("original.yaml", width(0.5)).network
    assert [conv.maps for conv in network.convs.values()] == [48, 128, 192, 192, 128]
    assert [dense.units for dense in network.denses.values()] == [2048, 2048]


def test_real_steps_of_two_replicas_are_measured() -> None:
    taken = measure(Case(True, 2, 2, 0.05, more=("compute.fused=false",)), 1, rounds=2)
    assert len(taken) == 2
    assert min(taken) > 0
