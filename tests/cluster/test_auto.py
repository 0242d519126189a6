"""Counts given as `auto`: what they become on which machines, and why, in words."""

import pytest

from cluster.auto import NodeDevices
from cluster.plan import describe, make_plan
from configs.errors import UserError
from configs.loader import load, parse, to_dict

AUTO = ("cluster.replicas=auto", "cluster.data_workers=auto")


def counts(nodes: list[tuple[int, float]], *settings: str) -> tuple[int, int]:
    """(replicas, data workers of each) for nodes of (GPUs, CPUs)."""
    devices = [NodeDevices(gpus=gpus, cpus=cpus) for gpus, cpus in nodes]
    config = load("original.yaml", [*AUTO, *settings])
    cluster = make_plan(config, sum(gpus for gpus, _ in nodes), None, nodes=devices).config.cluster
    return cluster.replica_count, cluster.data_worker_count


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([(0, 64)], (), (1, 1)),
        ([(1, 64)], (), (1, 2)),  # both columns on one GPU: half the appetite
        ([(2, 64)], (), (1, 4)),
        ([(8, 64)], (), (4, 4)),
        ([(8, 64)], ("cluster.device=cpu",), (1, 1)),
        (
            [(3, 64), (3, 64), (3, 64)],
            (),
            (2, 4),
        ),  # nine GPUs, but a replica sits on one node; 128 is not a multiple of 3
        ([(3, 64), (3, 64), (3, 64)], ("train.batch_size=129",), (3, 4)),
        ([(8, 64)], ("train.batch_size=127",), (1, 4)),
        ([(8, 64)], ("train.batch_size=1",), (1, 4)),
        ([(8, 16)], (), (4, 2)),  # of 4 CPUs per replica, two are the columns'
        ([(2, 64), (2, 5)], (), (2, 3)),  # the node with the least
        ([(8, 16)], ("cluster.cpus_per_data_worker=0.5",), (4, 4)),
        ([(8, 4)], (), (4, 1)),  # at least one, even if there is no CPU for it
        ([(8, 64), (0, 4)], (), (4, 4)),  # a head without GPUs takes no part
        ([(8, 64)], ("network.columns=1",), (8, 2)),
        ([(8, 64)], ("cluster.replicas=2",), (2, 4)),  # only what is auto is chosen
        ([(8, 64)], ("cluster.data_workers=7",), (4, 7)),
    ],
)
def test_counts(nodes: list[tuple[int, float]], settings: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert counts(nodes, *settings) == expected


def test_the_plan_says_what_was_chosen_and_why() -> None:
    words = dict(describe(make_plan(load("original.yaml", AUTO), 8, None, nodes=[NodeDevices(gpus=8, cpus=16)])))
    assert words["replicas"] == "auto -> 4, because there are GPUs for 4 replica(s) of 2 column(s), each on one node"
    assert words["data workers"] == (
        "auto -> 2 per replica, because the node has 2 CPU(s) per replica left, and 4 would be useful"
    )
    assert "data workers" not in dict(describe(make_plan(load("original.yaml"), 8, None)))


def test_auto_survives_the_run_folder() -> None:
    """A run that goes on elsewhere chooses anew."""
    config, problems = parse(to_dict(load("original.yaml", AUTO)))
    assert not problems and config is not None
    assert (config.cluster.replicas, config.cluster.data_workers) == ("auto", "auto")


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "true", "null"])
def test_what_is_neither_a_count_nor_auto(value: str) -> None:
    with pytest.raises(UserError, match=r"cluster.replicas: must be a whole number greater than 0, or auto, not"):
        load("original.yaml", [f"cluster.replicas={value}"])
