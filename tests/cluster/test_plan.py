"""The plan of a run: known numbers, devices chosen, and bytes compared with what is really there."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.auto import NodeDevices
from cluster.devices import choose_mesh
from cluster.environment import COLUMN_ENVIRONMENT, column_environment
from cluster.memory import of_column
from cluster.plan import DatasetSize, Plan, describe, make_plan, plan_before_joining
from configs.errors import UserError
from configs.loader import built_in, load
from configs.schema import Config
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
    # Halves, for the classes are even: both columns have the same.
    for column in range(2):
        assert words[f"column {column}"] == f"column {column}: 30,482,612 parameters, 362,203,408 MACs"
    assert words["steps"] == "910,830 of 128 images, 91.00 epochs; evaluation every 1 epoch(s) and at the end"
    assert words["mesh"] == "1 replica(s) x 2 process(es) of 1 column(s)"
    assert words["data"] == "data/imagenet: 1,281,167 training and 50,000 validation images"
    assert words["run"] == str(Path("original in runs") / "original")


def test_columns_add_up_also_where_the_classes_are_uneven() -> None:
    made = plan("network.classes=7")
    whole = sum(layer.parameters for layer in made.table)
    first, second = made.column_parameters(0), made.column_parameters(1)
    assert first + second == made.parameters == whole
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


@pytest.mark.parametrize(
    ("replicas", "gpus", "device", "expected"),
    [
        # device and (processes per replica, columns per process)
        (1, 0, "auto", ("cpu", 2, 1)),
        (1, 1, "auto", ("cuda", 1, 2)),
        (1, 2, "auto", ("cuda", 2, 1)),
        (1, 4, "auto", ("cuda", 2, 1)),
        (2, 0, "auto", ("cpu", 2, 1)),
        (2, 1, "auto", ("cpu", 2, 1)),
        (2, 2, "auto", ("cuda", 1, 2)),
        (2, 3, "auto", ("cuda", 1, 2)),
        (2, 4, "auto", ("cuda", 2, 1)),
        (1, 4, "cpu", ("cpu", 2, 1)),
        (2, 4, "cpu", ("cpu", 2, 1)),
        (1, 1, "cuda", ("cuda", 1, 2)),
        (1, 2, "cuda", ("cuda", 2, 1)),
        (2, 2, "cuda", ("cuda", 1, 2)),
        (2, 4, "cuda", ("cuda", 2, 1)),
        (1, 0, "cuda", None),
        (2, 1, "cuda", None),
    ],
)
def test_devices(replicas: int, gpus: int, device: str, expected: tuple[str, int, int] | None) -> None:
    config = load("original.yaml", [f"cluster.replicas={replicas}", f"cluster.device={device}"])
    if expected is None:
        with pytest.raises(
            UserError, match=rf"cluster.device is cuda, but there are {gpus} GPU\(s\) for {replicas} repl"
        ):
            choose_mesh(config, [gpus])
        return
    mesh, why = choose_mesh(config, [gpus])
    assert (mesh.device, mesh.processes_per_replica, mesh.columns_per_process) == expected
    assert mesh.replicas == replicas
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


@pytest.mark.parametrize(
    ("nodes", "replicas", "processes"),
    [
        ([1, 1, 1, 1], 1, 1),
        ([1, 1, 1, 1], 2, 1),
        ([1, 1, 1, 1], 4, 1),
        ([3, 3, 3], 2, 2),
        ([3, 3, 3], 4, 1),  # nine GPUs, and three of them alone on their nodes
        ([0, 2, 1], 1, 2),
    ],
)
def test_a_replica_has_a_gpu_per_column_only_if_they_are_on_one_node(
    nodes: list[int], replicas: int, processes: int
) -> None:
    config = load("original.yaml", [f"cluster.replicas={replicas}"])
    made = make_plan(config, 0, None, nodes=[NodeDevices(gpus=gpus, cpus=64) for gpus in nodes])
    assert (made.mesh.device, made.mesh.processes_per_replica) == ("cuda", processes)
    assert made.config.cluster.data_worker_count == 3 * processes
    if sum(nodes) >= 2 * replicas and processes == 1:
        assert "too few nodes with 2 of them" in made.why


def test_gpus_of_a_cluster_are_not_looked_for_on_the_machine_that_joins_it() -> None:
    config = load("original.yaml", ["cluster.device=cuda", "cluster.replicas=512", "train.batch_size=512"])
    assert plan_before_joining(config, "10.0.0.1:6379", IMAGENET).program().total_steps > 0
    with pytest.raises(UserError, match=r"there are \d+ GPU\(s\) for 512 replica"):
        plan_before_joining(config, None, IMAGENET)


@pytest.mark.parametrize(
    ("gpus", "device", "replicas", "reason"),
    [
        (0, "auto", 1, "no GPU: "),
        (1, "auto", 2, "only 1 GPU(s) for 2 replicas: "),
        (4, "cpu", 1, "cluster.device is cpu: "),
        (2, "auto", 1, "2 GPU(s) for 2 column(s): one each"),
        (1, "auto", 1, "1 GPU(s) for 2 columns: all columns of a replica in one process"),
    ],
)
def test_reasons(gpus: int, device: str, replicas: int, reason: str) -> None:
    config = load("original.yaml", [f"cluster.device={device}", f"cluster.replicas={replicas}"])
    assert choose_mesh(config, [gpus])[1].startswith(reason)


@pytest.mark.parametrize(
    ("gpus", "device", "replicas", "expected"),
    [
        (0, "auto", 1, "cpu"),
        (1, "auto", 1, "cuda"),
        (4, "auto", 1, "cuda"),
        (4, "cpu", 1, "cpu"),
        (1, "auto", 2, "cpu"),
        (2, "cuda", 2, "cuda"),
        (1, "cuda", 2, None),
    ],
)
def test_a_norm_over_all_maps_keeps_the_columns_in_one_process(
    gpus: int, device: str, replicas: int, expected: str | None
) -> None:
    config = load("caffe.yaml", [f"cluster.device={device}", f"cluster.replicas={replicas}"])
    if expected is None:
        with pytest.raises(UserError, match=r"1 GPU\(s\) for 2 replica\(s\), each with all its columns in one process"):
            choose_mesh(config, [gpus])
        return
    mesh, why = choose_mesh(config, [gpus])
    assert (mesh.device, mesh.processes_per_replica, mesh.columns_per_process) == (expected, 1, 2)
    assert why.endswith("because network.lrn.sees is all")


@pytest.mark.parametrize("file", built_in(), ids=lambda file: file.stem)
def test_every_config_has_a_plan(file: Path) -> None:
    """With all words and figures, also where there is one column only."""
    config = load(file)
    rows = dataclasses.replace(IMAGENET, classes=config.network.classes)
    for gpus in (0, config.network.columns):
        made = make_plan(config, gpus, rows)
        words = said(made)
        assert words["network"].startswith(f"{made.parameters:,} parameters, {made.macs:,} MACs per image")
        shares = [made.column_parameters(column) for column in range(config.network.columns)]
        assert sum(shares) == made.parameters
        assert made.actor_bytes > 3 * 4 * made.parameters // made.mesh.processes_per_replica


def array_bytes(batch: dict[str, Any]) -> int:
    return sum(value.nbytes for value in batch.values() if isinstance(value, np.ndarray))


def with_batches(config: Config, training: int, testing: int, replicas: int = 1) -> Config:
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, batch_size=training * replicas, evaluate_batch_size=testing),
        cluster=dataclasses.replace(config.cluster, replicas=replicas),
    )


def test_window_bytes_are_those_of_real_batches(tmp_path: Path) -> None:
    """A training batch to the byte; a testing batch has no draws, so it takes a little less than is said."""
    by_hand.make_data_set(tmp_path)
    config = by_hand.config(tmp_path)
    assert config.augment.colour_noise is not None
    worker = DataWorker(config, "worker")
    training = array_bytes(worker.batch(Request(split="train", start=0, count=12)))
    testing = array_bytes(worker.batch(Request(split="validation", start=0, count=12)))
    for replicas in (1, 2):
        made = make_plan(with_batches(config, 12, 5, replicas), 0, None)
        assert made.batch_bytes == training
        assert made.window_bytes == config.cluster.window * training
    made = make_plan(with_batches(config, 5, 12), 0, None)
    assert testing < made.batch_bytes <= testing * 1.01
    assert made.object_store_bytes >= 3 * made.window_bytes


def test_object_store_has_room_for_all_windows_three_times() -> None:
    large = plan("cluster.replicas=2", "train.batch_size=2048", "cluster.window_batches=20")
    # 1,024 images of 224 x 224 x 3 and 46 bytes beside.
    assert large.window_bytes == 20 * 1024 * (224 * 224 * 3 + 46)
    assert large.object_store_bytes == 2 * 3 * large.window_bytes
    assert plan(config="demo.yaml", dataset=None).object_store_bytes == 256 * 2**20


@pytest.mark.parametrize(("gpus", "parameters"), [(2, 30_482_612), (1, 60_965_224)])
def test_memory_of_weights(gpus: int, parameters: int) -> None:
    """Weights, gradients and momentum, 4 bytes each, stay when the batch goes; the rest grows with the images. What checkpoints
    are saved from, weights and momentum once more, lies in host memory."""
    one, two = (plan(f"train.batch_size={images}", gpus=gpus) for images in (1, 2))
    assert one.checkpoint_copy_bytes == two.checkpoint_copy_bytes == 8 * parameters
    assert f"{8 * parameters / 1e6:,.1f} MB of host memory for checkpoints" in said(one)["memory"]
    more = two.actor_bytes - one.actor_bytes
    assert one.actor_bytes - more == 12 * parameters
    # Every activation of the layers, at least once: 55*55*96 and so on, for the maps that the process owns.
    sides = {
        "conv1": 55 * 55 * 96,
        "conv2": 27 * 27 * 256,
        "conv3": 13 * 13 * 384,
        "conv4": 13 * 13 * 384,
        "conv5": 13 * 13 * 256,
    }
    owned = sum(sides.values()) * 4 // (2 if gpus == 2 else 1)
    assert owned < more < 10 * owned


def test_memory_of_a_process_on_cpus_holds_the_copy_too() -> None:
    cpu = plan("cluster.device=cpu")
    assert cpu.checkpoint_copy_bytes == 8 * 30_482_612
    without = cpu.actor_bytes - cpu.checkpoint_copy_bytes
    whole = of_column(cpu.config, cpu.table, cpu.images_per_replica, 1, 2)
    assert without == 12 * 30_482_612 + whole.on_cpu


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            [],
            "487.7 MB each, at most 5 at a time; every 2,000 steps, after each evaluation, when stopped, and at the end",
        ),
        (
            ["checkpoint.keep=5", "checkpoint.keep_best=false", "checkpoint.every_steps=null"],
            "487.7 MB each, at most 7 at a time; after each evaluation, when stopped, and at the end",
        ),
    ],
)
def test_room_for_checkpoints(settings: list[str], words: str) -> None:
    """60,965,224 parameters and their momentum, 4 bytes each."""
    assert said(plan(*settings))["checkpoints"] == words


def test_cpus() -> None:
    made = plan(
        "cluster.replicas=2", "cluster.cpus_per_column=3", "cluster.data_workers=4", "cluster.cpus_per_data_worker=0.5"
    )
    assert made.cpus == 2 * 2 * 3 + 2 * 4 * 0.5
    assert said(made)["actors"] == ("4 column worker(s) with 3 CPU(s) each; 8 data worker(s) with 0.5 CPU(s) each")


def test_without_a_data_set_all_but_the_steps_is_said() -> None:
    known, unknown = said(plan()), said(plan(dataset=None))
    assert unknown.keys() == known.keys() - {"steps"}
    assert unknown["data"] == "data/imagenet (not prepared yet, so the number of steps is not known)"
    assert all(unknown[what] == known[what] for what in unknown.keys() - {"data"})


def test_drawn_pictures_are_announced_and_the_end_is_said() -> None:
    drawn = DatasetSize(train_rows=5000, validation_rows=1000, image_size=40, classes=10, drawn_first=True)
    words = said(plan("train.evaluate_every_epochs=null", dataset=drawn, config="demo.yaml"))
    assert words["data"] == "data/demo (drawn first): 5,000 training and 1,000 validation images"
    # 8 * 5,000 / 64
    assert words["steps"] == "625 of 64 images, 8.00 epochs; evaluation at the end"


def test_program_is_that_of_the_replica() -> None:
    made = plan("cluster.replicas=2")
    first, second = (made.program(replica) for replica in range(2))
    assert dataclasses.replace(first, replica=1) == second
    assert (first.train_rows, first.validation_rows) == (1_281_167, 50_000)


def test_numbers_are_readable() -> None:
    assert re.fullmatch(r"about [\d,]+\.\d MB per column worker, libraries included", said(plan())["memory"])
