"""The plan of a run: known numbers, devices and counts chosen, and bytes compared with what is really there."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from cluster.auto import NodeDevices
from cluster.devices import choose_mesh
from cluster.environment import COLUMN_ENVIRONMENT, column_environment
from cluster.memory import of_column
from cluster.plan import DatasetSize, Plan, describe, make_plan, plan_before_joining
from configs.errors import UserError
from configs.loader import load
from tests.workers import by_hand
from workers.data.data_worker import DataWorker
from workers.program import Request

IMAGENET = DatasetSize(train_rows=1_281_167, validation_rows=50_000, image_size=256, classes=1000)


def plan(*settings: str, gpus: int = 0, dataset: DatasetSize | None = IMAGENET, config: str = "original.yaml") -> Plan:
    return make_plan(load(config, settings), gpus, dataset)


def said(made: Plan) -> dict[str, str]:
    """What the plan says in words; the lines of the columns, which have no name of their own, as `column N`."""
    lines = {}
    for what, how_much in describe(made):
        name = what or how_much.split(":")[0]
        assert name not in lines
        lines[name] = how_much
    return lines


def test_original_in_words() -> None:
    words = said(plan())
    assert words["network"] == (
        "60,965,224 parameters, 724,406,816 MACs per image; sides of maps 55/27/27/13/13/13/13/6"
    )
    # 30,336 floats of 4 bytes, 128 images, forward and backward: 31,064,064 bytes.
    assert words["exchange"] == "30,336 floats per image and column forward; 31.1 MB sent per column and step"
    # Halves, for the classes are even.
    assert words["column 1"] == "column 1: 30,482,612 parameters, 362,203,408 MACs"
    assert words["steps"] == "910,830 of 128 images, 91.00 epochs; evaluation every 1 epoch(s) and at the end"
    assert words["mesh"] == "1 replica(s) x 2 process(es) of 1 column(s)"
    assert re.fullmatch(r"about [\d,]+\.\d MB per column worker, libraries included", words["memory"])
    # The parameters and their momentum, 4 bytes each.
    assert words["checkpoints"] == (
        "487.7 MB each, at most 5 at a time; every 2,000 steps, after each evaluation, when stopped, and at the end"
    )


def test_columns_add_up_also_where_the_classes_are_uneven() -> None:
    made = plan("network.classes=7")
    first, second = made.column_parameters(0), made.column_parameters(1)
    assert first + second == made.parameters == sum(layer.parameters for layer in made.table)
    # One class more: the weights from 4,096 units and a bias.
    assert first - second == 4097
    assert made.column_macs(0) + made.column_macs(1) == made.macs


def test_exchange_follows_replicas_and_processes() -> None:
    assert plan().exchanged_bytes == 31_064_064
    assert plan("cluster.replicas=2").exchanged_bytes == 31_064_064 // 2, "half the images each"
    assert plan("compute.precision=bf16").exchanged_bytes == 31_064_064 // 2, "in bfloat16"
    alone = plan(gpus=1)
    assert alone.exchanged_bytes == 0
    assert said(alone)["exchange"] == "30,336 floats per image and column forward, inside one process"


PLAIN, WHOLE = "original.yaml", "caffe.yaml"
"""The second one's norm over all maps keeps the columns in one process."""


@pytest.mark.parametrize(
    ("name", "replicas", "gpus", "device", "expected", "reason"),
    [
        # expected: device, processes per replica, columns per process
        (PLAIN, 1, 0, "auto", ("cpu", 2, 1), "no GPU: "),
        (PLAIN, 1, 1, "auto", ("cuda", 1, 2), "1 GPU(s) for 2 columns: all columns of a replica in one process"),
        (PLAIN, 1, 2, "auto", ("cuda", 2, 1), "2 GPU(s) for 2 column(s): one each"),
        (PLAIN, 2, 1, "auto", ("cpu", 2, 1), "only 1 GPU(s) for 2 replicas: "),
        (PLAIN, 2, 3, "auto", ("cuda", 1, 2), ""),
        (PLAIN, 1, 4, "cpu", ("cpu", 2, 1), "cluster.device is cpu: "),
        (PLAIN, 2, 4, "cuda", ("cuda", 2, 1), ""),
        (PLAIN, 1, 0, "cuda", None, "cluster.device is cuda, but there are 0 GPU(s) for 1 repl"),
        (PLAIN, 2, 1, "cuda", None, "cluster.device is cuda, but there are 1 GPU(s) for 2 repl"),
        (WHOLE, 1, 0, "auto", ("cpu", 1, 2), ""),
        (WHOLE, 1, 4, "auto", ("cuda", 1, 2), ""),
        (WHOLE, 1, 4, "cpu", ("cpu", 1, 2), ""),
        (WHOLE, 2, 2, "cuda", ("cuda", 1, 2), ""),
        (WHOLE, 2, 1, "cuda", None, "1 GPU(s) for 2 replica(s), each with all its columns in one process"),
    ],
)
def test_devices(
    name: str, replicas: int, gpus: int, device: str, expected: tuple[str, int, int] | None, reason: str
) -> None:
    config = load(name, [f"cluster.replicas={replicas}", f"cluster.device={device}"])
    if expected is None:
        with pytest.raises(UserError, match=re.escape(reason)):
            choose_mesh(config, [gpus])
        return
    mesh, why = choose_mesh(config, [gpus])
    assert (mesh.device, mesh.processes_per_replica, mesh.columns_per_process) == expected
    assert mesh.replicas == replicas
    assert why.startswith(reason) and why.endswith("because network.lrn.sees is all") == (name == WHOLE)
    made = make_plan(config, gpus, IMAGENET)
    assert made.gpus == (mesh.size if mesh.device == "cuda" else 0) <= gpus
    assert made.why == why and why in said(made)["device"]
    assert ("and 1 GPU each" in said(made)["actors"]) == (mesh.device == "cuda")


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_columns_that_share_a_gpu(backend: str) -> None:
    made = plan("cluster.columns_per_gpu=2", f"cluster.gpu_backend={backend}", "cluster.replicas=2", gpus=2)
    assert (made.mesh.device, made.mesh.size, made.gpus, made.mesh.gpus_per_replica) == ("cuda", 4, 2, 1)
    assert "2 share one, exchanging over" in made.why and "and 1/2 of a GPU each" in said(made)["actors"]
    # NCCL takes them for different hosts; it refuses two ranks of one host on one GPU.
    hosts = [column_environment(made.mesh, rank).get("NCCL_HOSTID") for rank in range(4)]
    assert len(set(hosts)) == (4 if backend == "nccl" else 1)
    assert made.mesh.backend == ("cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo")
    assert column_environment(plan(gpus=2).mesh, 0) == COLUMN_ENVIRONMENT


def test_where_columns_cannot_share_they_are_in_one_process_or_have_a_gpu_each() -> None:
    """One GPU and two replicas are too few; one process needs no sharing."""
    assert plan("cluster.columns_per_gpu=2", "cluster.replicas=2", gpus=1).mesh.device == "cpu"
    assert plan("cluster.columns_per_gpu=2", "cluster.gpu_backend=gloo", gpus=8).gpus == 1


def test_a_replica_has_a_gpu_per_column_only_if_they_are_on_one_node() -> None:
    """Of three nodes with three GPUs each, four replicas could have eight, but three are alone on their nodes."""
    for gpus, replicas, processes in (([1, 1, 1, 1], 2, 1), ([3, 3, 3], 2, 2), ([3, 3, 3], 4, 1), ([0, 2, 1], 1, 2)):
        nodes = [NodeDevices(gpus=each, cpus=64) for each in gpus]
        made = make_plan(load(PLAIN, [f"cluster.replicas={replicas}"]), 0, None, nodes=nodes)
        assert (made.mesh.device, made.mesh.processes_per_replica) == ("cuda", processes)
        assert ("too few nodes with 2 of them" in made.why) == (processes == 1)


def test_gpus_of_a_cluster_are_not_looked_for_on_the_machine_that_joins_it() -> None:
    config = load("original.yaml", ["cluster.device=cuda", "cluster.replicas=512", "train.batch_size=512"])
    assert plan_before_joining(config, "10.0.0.1:6379", IMAGENET).program().total_steps > 0
    with pytest.raises(UserError, match=r"there are \d+ GPU\(s\) for 512 replica"):
        plan_before_joining(config, None, IMAGENET)


def test_window_bytes_are_those_of_real_batches(tmp_path: Path) -> None:
    """A training batch to the byte; a testing batch has no draws, so it takes a little less than is said."""
    by_hand.make_data_set(tmp_path)
    config = by_hand.config(tmp_path)
    assert config.augment.colour_noise is not None
    worker = DataWorker(config, "worker")

    def batch_bytes(split: Literal["train", "validation"]) -> int:
        batch = worker.batch(Request(split=split, start=0, count=12))
        return sum(value.nbytes for value in batch.values() if isinstance(value, np.ndarray))

    def plan_of(training: int, testing: int, replicas: int) -> Plan:
        train = dataclasses.replace(config.train, batch_size=training * replicas, evaluate_batch_size=testing)
        cluster = dataclasses.replace(config.cluster, replicas=replicas)
        return make_plan(dataclasses.replace(config, train=train, cluster=cluster), 0, None)

    made, testing = plan_of(12, 5, 2), batch_bytes("validation")
    assert made.batch_bytes == batch_bytes("train") == made.window_bytes / config.cluster.window
    assert testing < plan_of(5, 12, 1).batch_bytes <= testing * 1.01


def test_object_store_has_room_for_all_windows_three_times() -> None:
    large = plan("cluster.replicas=2", "train.batch_size=2048", "cluster.window_batches=20")
    # 1,024 images of 224 x 224 x 3 and 46 bytes beside.
    assert large.window_bytes == 20 * 1024 * (224 * 224 * 3 + 46)
    assert large.object_store_bytes == 2 * 3 * large.window_bytes
    assert plan(config="demo.yaml", dataset=None).object_store_bytes == 256 * 2**20


@pytest.mark.parametrize(("gpus", "parameters"), [(2, 30_482_612), (1, 60_965_224), (0, 30_482_612)])
def test_memory_of_weights(gpus: int, parameters: int) -> None:
    """Weights, gradients and momentum, 4 bytes each, stay when the batch goes; the rest grows with the images. What checkpoints
    are saved from, weights and momentum once more, lies in host memory, which is all the memory of a process on CPUs."""
    one, two = (plan(f"train.batch_size={images}", gpus=gpus) for images in (1, 2))
    assert one.checkpoint_copy_bytes == two.checkpoint_copy_bytes == 8 * parameters
    if gpus == 0:
        libraries = of_column(one.config, one.table, one.images_per_replica, 1, 2)
        assert one.actor_bytes == 20 * parameters + libraries.on_cpu
        return
    assert f"{8 * parameters / 1e6:,.1f} MB of host memory for checkpoints" in said(one)["memory"]
    more = two.actor_bytes - one.actor_bytes
    assert one.actor_bytes - more == 12 * parameters
    # Every activation of the layers, at least once: 55*55*96 and so on, for the maps that the process owns.
    maps = 55 * 55 * 96 + 27 * 27 * 256 + 2 * 13 * 13 * 384 + 13 * 13 * 256
    owned = maps * 4 // (2 if gpus == 2 else 1)
    assert owned < more < 10 * owned


def test_cpus_and_programs_of_two_replicas() -> None:
    data_workers = ("cluster.data_workers=4", "cluster.cpus_per_data_worker=0.5")
    made = plan("cluster.replicas=2", "cluster.cpus_per_column=3", *data_workers)
    assert made.cpus == 2 * 2 * 3 + 2 * 4 * 0.5
    assert said(made)["actors"] == "4 column worker(s) with 3 CPU(s) each; 8 data worker(s) with 0.5 CPU(s) each"
    first, second = (made.program(replica) for replica in range(2))
    assert dataclasses.replace(first, replica=1) == second
    assert (first.train_rows, first.validation_rows) == (1_281_167, 50_000)


def test_without_a_data_set_all_but_the_steps_is_said() -> None:
    known, unknown = said(plan()), said(plan(dataset=None))
    assert unknown.keys() == known.keys() - {"steps"}
    assert unknown["data"] == "data/imagenet (not prepared yet, so the number of steps is not known)"
    assert all(unknown[what] == known[what] for what in unknown.keys() - {"data"})
    # Drawn pictures are announced, and the end is said.
    drawn = DatasetSize(train_rows=5000, validation_rows=1000, image_size=40, classes=10, drawn_first=True)
    words = said(plan("train.evaluate_every_epochs=null", dataset=drawn, config="demo.yaml"))
    assert words["data"] == "data/demo (drawn first): 5,000 training and 1,000 validation images"
    # 8 * 5,000 / 64
    assert words["steps"] == "625 of 64 images, 8.00 epochs; evaluation at the end"


AUTO = ("cluster.replicas=auto", "cluster.data_workers=auto")


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([(0, 64)], (), (1, 1)),
        ([(1, 64)], (), (1, 3)),  # both columns on one GPU: half the appetite
        ([(2, 64)], (), (1, 6)),
        ([(2, 64)], ("compute.precision=tf32",), (1, 26)),
        ([(8, 64)], (), (4, 6)),
        ([(8, 64)], ("cluster.device=cpu",), (1, 1)),
        ([(3, 64)] * 3, (), (2, 6)),  # nine GPUs, but a replica sits on one node; 128 is not a multiple of 3
        ([(3, 64)] * 3, ("train.batch_size=129",), (3, 6)),
        ([(8, 64)], ("train.batch_size=127",), (1, 6)),
        ([(8, 16)], (), (4, 2)),  # of 4 CPUs per replica, two are the columns'
        ([(2, 64), (2, 5)], (), (2, 3)),  # the node with the least
        ([(8, 16)], ("cluster.cpus_per_data_worker=0.5",), (4, 4)),
        ([(8, 4)], (), (4, 1)),  # at least one, even if there is no CPU for it
        ([(8, 64), (0, 4)], (), (4, 6)),  # a head without GPUs takes no part
        ([(8, 64)], ("network.columns=1",), (8, 3)),
        ([(8, 64)], ("cluster.columns_per_gpu=2",), (8, 3)),
        ([(8, 64)], ("cluster.replicas=2",), (2, 6)),  # only what is auto is chosen
        ([(8, 64)], ("cluster.data_workers=7",), (4, 7)),
        ([(8, 64)], (WHOLE,), (8, 3)),  # a replica whose columns stay together takes one GPU
        ([(1, 64)] * 4, (WHOLE,), (4, 3)),
    ],
)
def test_counts(nodes: list[tuple[int, float]], settings: tuple[str, ...], expected: tuple[int, int]) -> None:
    """(replicas, data workers of each) for nodes of (GPUs, CPUs)."""
    devices = [NodeDevices(gpus=gpus, cpus=cpus) for gpus, cpus in nodes]
    config = load(WHOLE, AUTO) if WHOLE in settings else load(PLAIN, [*AUTO, *settings])
    cluster = make_plan(config, 0, None, nodes=devices).config.cluster
    assert (cluster.replica_count, cluster.data_worker_count) == expected


def test_the_plan_says_what_was_chosen_and_why() -> None:
    words = dict(describe(make_plan(load("original.yaml", AUTO), 8, None, nodes=[NodeDevices(gpus=8, cpus=16)])))
    assert words["replicas"] == "auto -> 4, because there are GPUs for 4 replica(s) of 2, each on one node"
    assert words["data workers"] == (
        "auto -> 2 per replica, because the node has 2 CPU(s) per replica left, and 6 would be useful"
    )
    fixed = make_plan(load("original.yaml", ["cluster.data_workers=2"]), 8, None)
    assert "data workers" not in dict(describe(fixed))


def test_a_window_of_batches_for_all_data_workers() -> None:
    for settings, window in (([], 10), (["cluster.data_workers=2"], 6), (["cluster.window_batches=3"], 3)):
        made = make_plan(load("original.yaml", settings), 2, None, nodes=[NodeDevices(gpus=2, cpus=64)])
        assert made.config.cluster.window == window
        assert made.window_bytes == window * made.batch_bytes


def test_what_is_neither_a_count_nor_auto() -> None:
    """A window is of two batches at least."""
    wrong = [("replicas", value, "0") for value in ("0", "-1", "many", "1.5", "true", "null")]
    for setting, value, least in (*wrong, ("window_batches", "1", "1")):
        told = rf"cluster.{setting}: must be a whole number greater than {least}, or auto, not"
        with pytest.raises(UserError, match=told):
            load("original.yaml", [f"cluster.{setting}={value}"])
