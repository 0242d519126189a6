"""A forecast against hand calculation, against what must be true of any, and against the tensors of the network itself."""

import dataclasses
from collections import Counter
from typing import Any

import pytest

from cluster.benchmarks.layers import parts_of
from cluster.forecast.command import IMAGENET, plan_on
from cluster.forecast.model import Forecast, Speeds, averaging_seconds, forecast
from cluster.forecast.work import of_process, update
from configs.loader import load
from configs.machine import Efficiency, Link, Machine, load_machine
from tests.cluster.test_plan import plan

WHOLE = Efficiency(first_conv=1, conv=1, dense=1, norm=1, spatial_norm=1, update=1, other=1, link=1)
FAST = 1e12
PLAIN = Machine(
    name="plain", device="cuda", measured=True, source="here", date="2026-11", devices_per_node=8, cpus_per_node=10_000,
    gflops={"fp32": 1e3, "bf16": 4e3}, gigabytes_per_second=FAST, efficiency=WHOLE,
    within_node=Link(gigabytes_per_second=FAST, microseconds=0), between_nodes=Link(gigabytes_per_second=FAST, microseconds=0),
    data_images_per_second=1e9, watts_per_device=500, watts_per_node=1000, price_per_device_hour=2.0,
)  # fmt: skip
"""10^12 operations a second, and everything else costs nothing."""
FLOP_PER_IMAGE = 6 * 724_406_816 - 2 * 105_415_200


def at(machine: Machine, *settings: str, devices: int | None = None, name: str = "original.yaml") -> Forecast:
    planned, found = plan_on(load(name, settings), machine, IMAGENET, devices)
    assert found
    return forecast(planned, found)


def changed(**fields: Any) -> Machine:
    return dataclasses.replace(PLAIN, **fields)


def with_link(speed: float) -> Machine:
    """Gigabytes a second within a node."""
    return changed(within_node=Link(gigabytes_per_second=speed, microseconds=0))


def test_arithmetic_alone() -> None:
    one, two = at(PLAIN, devices=1), at(PLAIN)
    assert one.step_seconds == pytest.approx(128 * FLOP_PER_IMAGE / 1e12, rel=1e-6)
    assert two.step_seconds == pytest.approx(one.step_seconds / 2, rel=1e-6)
    assert (one.devices, two.devices) == (1, 2)
    shared = at(PLAIN, "cluster.columns_per_gpu=2")
    assert (shared.devices, shared.step_seconds) == (1, pytest.approx(one.step_seconds, rel=1e-6))
    # Replicas that are missing leave their parts of the batch to the others.
    missing = at(PLAIN, "cluster.replicas=2", "fault.elastic=true", devices=1)
    assert missing.step_seconds == pytest.approx(4 * at(PLAIN, "cluster.replicas=2").step_seconds, rel=1e-6)
    assert at(PLAIN, "compute.precision=bf16").step_seconds == pytest.approx(two.step_seconds / 4, rel=1e-6)
    # The whole run, its energy and cost.
    assert two.run_seconds is not None
    images = 910_830 * 128 + 91 * 391 * 128 * 724_406_816 * 2 / FLOP_PER_IMAGE
    assert two.run_seconds == pytest.approx(images * FLOP_PER_IMAGE / 2e12, rel=1e-6)
    assert two.kilowatt_hours == pytest.approx(two.run_seconds / 3600 * 2.0)
    assert two.cost == pytest.approx(two.run_seconds / 3600 * 4.0)
    assert at(changed(price_per_device_hour=None)).cost is None


def test_exchange_and_averaging_hide_behind_the_computing_until_the_link_is_too_slow() -> None:
    computing = at(PLAIN).compute_seconds
    # 0.27 s a step. A column sends 15.5 MB in each pass: 16 ms of the pass at 1 GB/s.
    assert at(with_link(10)).exchange_seconds == 0
    # Nearly all of 2 x 15.5 MB at 10 MB/s; what hides is at most the computing.
    slow = at(with_link(0.01))
    assert 3.1 - computing < slow.exchange_seconds < 3.11
    assert slow.step_seconds == pytest.approx(slow.compute_seconds + slow.exchange_seconds)
    # Four GPUs, 122 MB of gradients of each column, once around a ring of two replicas.
    assert at(with_link(10), "cluster.replicas=2").averaging_seconds < 0.001
    slow = at(with_link(0.1), "cluster.replicas=2", "network.convs.conv3.sees=column")
    assert 1.22 - slow.compute_seconds < slow.averaging_seconds < 1.22


def test_ring_tree_and_the_way_out_of_a_node() -> None:
    speeds = Speeds(
        machine=PLAIN, devices=1, flop_per_second=1, bytes_per_second=1, hides=True,
        columns_link=(1e9, 0), replicas_link=(1e9, 1e-5),
    )  # fmt: skip
    assert averaging_seconds(speeds, 1e9, 2) == pytest.approx(1 + 2e-5)
    assert averaging_seconds(speeds, 1e9, 4) == pytest.approx(1.5 + 6e-5)
    # Few bytes: the tree's 2 x 10 turns are fewer than the ring's 2 x 1,023.
    assert averaging_seconds(speeds, 1e3, 1024) == pytest.approx(2e-6 + 20e-5)
    # A node has one way out for all columns.
    half = dataclasses.replace(WHOLE, link=0.5)
    slow = changed(efficiency=half, between_nodes=Link(gigabytes_per_second=0.1, microseconds=0))
    inside, across = at(slow, "cluster.replicas=4"), at(slow, "cluster.replicas=8")
    assert (inside.nodes, across.nodes) == (1, 2)
    assert inside.averaging_seconds < 1e-9
    # 122 MB x 2 x 7/8 over a quarter of 0.1 GB/s: half of it reached, by two columns.
    assert across.averaging_seconds == pytest.approx(30_482_612 * 4 * 1.75 / 0.025e9, rel=0.05)


def test_data_workers_that_are_too_few_and_hosts_that_are_too_slow_are_the_bottleneck() -> None:
    found = at(changed(data_images_per_second=50), "cluster.data_workers=2")
    assert found.images_per_second == pytest.approx(100)
    assert found.data_cpus == pytest.approx(at(PLAIN).images_per_second / 50)
    # Nor is a GPU faster than its host.
    fast = changed(gflops={"fp32": 1e9}, operation_microseconds=10)
    found, larger = at(fast), at(fast, "train.batch_size=1024")
    assert found.host_bound
    assert 0.5e-3 < found.step_seconds < 5e-3
    assert larger.step_seconds == pytest.approx(found.step_seconds), "the same operations"


def test_processes_share_their_cores() -> None:
    """Four processes on two cores do the same work, the update twice, and average their gradients on the way."""
    cpu = load_machine("cpu")
    columns, replicas = at(cpu), at(cpu, "cluster.replicas=2")
    assert columns.step_seconds < replicas.step_seconds < 1.5 * columns.step_seconds
    wide = at(cpu, "cluster.cpus_per_column=2", devices=4)
    assert wide.compute_seconds == pytest.approx(columns.compute_seconds / 2)
    # Norms that are not compiled take longer.
    assert 1.3 * columns.step_seconds < at(cpu, "compute.fused=false").step_seconds < 3 * columns.step_seconds


def test_the_papers_gpus_take_the_papers_time() -> None:
    """Its efficiencies were chosen for this; the test keeps them so when the model changes."""
    found = at(load_machine("gtx580"))
    assert found.run_seconds is not None
    assert 5 < found.run_seconds / 86_400 < 6


IMAGES = 2


@pytest.mark.ci
@pytest.mark.parametrize("name", ["original.yaml", "tiny_imagenet.yaml", "tanh.yaml"])
def test_operations_and_bytes_are_those_of_the_network(name: str) -> None:
    # Units cost time here and change nothing: a quarter of them will do.
    made = plan("network.denses.fc6.units=512", "network.denses.fc7.units=512", config=name)
    # All columns in one process, on CPUs.
    mesh = dataclasses.replace(made.mesh, processes_per_replica=1, columns_per_process=made.config.network.columns)
    made = dataclasses.replace(made, mesh=mesh)
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
