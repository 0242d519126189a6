"""The work that a forecast counts, against the tensors of the network itself."""

import dataclasses
from collections import Counter

import pytest

from cluster.benchmarks.layers import parts_of
from cluster.forecast.work import of_process, update
from cluster.plan import Plan
from tests.cluster.test_plan import plan

IMAGES = 2


def together(made: Plan) -> Plan:
    """All columns in one process, on CPUs."""
    mesh = dataclasses.replace(made.mesh, processes_per_replica=1, columns_per_process=made.config.network.columns)
    return dataclasses.replace(made, mesh=mesh)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["original.yaml", "paper.yaml", "tiny_imagenet.yaml", "tanh.yaml", "no_conv5.yaml"])
def test_operations_and_bytes_are_those_of_the_network(name: str) -> None:
    # Units cost time here and change nothing: a quarter of them will do.
    made = together(plan("network.denses.fc6.units=512", "network.denses.fc7.units=512", config=name))
    measured, bytes_measured = Counter[str](), Counter[str]()
    for about, _ in parts_of(made.config.network, IMAGES, "cpu"):
        measured[about["kind"]] += about["flop"]
        bytes_measured[about["kind"]] += about["bytes"]
    counted, bytes_counted = Counter[str](), Counter[str]()
    for part in (*of_process(made, IMAGES), update(made)):
        if part.name != "preprocess":
            counted[part.kind] += int(part.forward_flop + part.backward_flop)
            bytes_counted[part.kind] += int(part.forward_bytes + part.backward_bytes)
    assert counted == measured
    assert bytes_counted == bytes_measured


def test_two_columns_share_the_work_and_send_what_the_plan_says() -> None:
    apart, whole = plan(), together(plan())
    halves, all_of_it = of_process(apart, 128), of_process(whole, 128)
    for half, part in zip(halves, all_of_it, strict=True):
        assert half.forward_flop * 2 == part.forward_flop
        assert half.backward_flop * 2 == part.backward_flop
        assert part.sent_bytes == 0
    assert 2 * sum(part.sent_bytes for part in halves) == apart.exchanged_bytes == 31_064_064
    assert sum(part.parameters for part in halves) == apart.column_parameters(0)
