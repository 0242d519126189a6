"""Counts given as `auto`: what they become on which machines, and why, in words."""

import pytest

from cluster.auto import NodeDevices
from cluster.plan import describe, make_plan
from configs.errors import UserError
from configs.loader import load, parse, to_dict

AUTO = ("cluster.replicas=auto", "cluster.data_workers=auto")


def counts(nodes: list[tuple[int, float]], *settings: str, config: str = "original.yaml") -> tuple[int, int]:
    """(replicas, data workers of each) for nodes of (GPUs, CPUs)."""
    devices = [NodeDevices(gpus=gpus, cpus=cpus) for gpus, cpus in nodes]
    loaded = load(config, [*AUTO, *settings])
    cluster = make_plan(loaded, 0, None, nodes=devices).config.cluster
    return cluster.replica_count, cluster.data_worker_count


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([(0, 64)], (), (1, 1)),
        ([(1, 64)], (), (1, 3)),  # both columns on one GPU: half the appetite
        ([(2, 64)], (), (1, 6)),
        ([(2, 64)], ("compute.precision=tf32",), (1, 26)),
        ([(2, 64)], ("compute.precision=bf16",), (1, 44)),
        ([(8, 64)], (), (4, 6)),
        ([(8, 64)], ("cluster.device=cpu",), (1, 1)),
        ([(3, 64)] * 3, (), (2, 6)),  # nine GPUs, but a replica sits on one node; 128 is not a multiple of 3
        ([(3, 64)] * 3, ("train.batch_size=129",), (3, 6)),
        ([(8, 64)], ("train.batch_size=127",), (1, 6)),
        ([(8, 64)], ("train.batch_size=1",), (1, 6)),
        ([(8, 16)], (), (4, 2)),  # of 4 CPUs per replica, two are the columns'
        ([(2, 64), (2, 5)], (), (2, 3)),  # the node with the least
        ([(8, 16)], ("cluster.cpus_per_data_worker=0.5",), (4, 4)),
        ([(8, 4)], (), (4, 1)),  # at least one, even if there is no CPU for it
        ([(8, 64), (0, 4)], (), (4, 6)),  # a head without GPUs takes no part
        ([(8, 64)], ("network.columns=1",), (8, 3)),
        ([(8, 64)], ("cluster.replicas=2",), (2, 6)),  # only what is auto is chosen
        ([(8, 64)], ("cluster.data_workers=7",), (4, 7)),
    ],
)
def test_counts(nodes: list[tuple[int, float]], settings: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert counts(nodes, *settings) == expected


def test_a_replica_whose_columns_stay_together_takes_one_gpu() -> None:
    assert counts([(8, 64)], config="caffe.yaml") == (8, 3)
    assert counts([(1, 64)] * 4, config="caffe.yaml") == (4, 3)


def test_the_plan_says_what_was_chosen_and_why() -> None:
    words = dict(describe(make_plan(load("original.yaml", AUTO), 8, None, nodes=[NodeDevices(gpus=8, cpus=16)])))
    assert words["replicas"] == "auto -> 4, because there are GPUs for 4 replica(s) of 2, each on one node"
    assert words["data workers"] == (
        "auto -> 2 per replica, because the node has 2 CPU(s) per replica left, and 6 would be useful"
    )
    fixed = make_plan(load("original.yaml", ["cluster.data_workers=2"]), 8, None)
    assert "data workers" not in dict(describe(fixed))


@pytest.mark.parametrize(
    ("settings", "window"), [((), 10), (("cluster.data_workers=2",), 6), (("cluster.window_batches=3",), 3)]
)
def test_a_window_of_batches_for_all_data_workers(settings: tuple[str, ...], window: int) -> None:
    made = make_plan(load("original.yaml", settings), 2, None, nodes=[NodeDevices(gpus=2, cpus=64)])
    assert made.config.cluster.window == window
    assert made.window_bytes == window * made.batch_bytes


def test_auto_survives_the_run_folder() -> None:
    """A run that goes on elsewhere chooses anew."""
    config, problems = parse(to_dict(load("original.yaml", AUTO)))
    assert not problems and config is not None
    assert (config.cluster.replicas, config.cluster.data_workers) == ("auto", "auto")


@pytest.mark.parametrize(
    ("setting", "values", "least"),
    [("replicas", ("0", "-1", "many", "1.5", "true", "null"), "0"), ("window_batches", ("1",), "1")],
)
def test_what_is_neither_a_count_nor_auto(setting: str, values: tuple[str, ...], least: str) -> None:
    """A window is of two batches at least."""
    for value in values:
        told = rf"cluster.{setting}: must be a whole number greater than {least}, or auto, not"
        with pytest.raises(UserError, match=told):
            load("original.yaml", [f"cluster.{setting}={value}"])
