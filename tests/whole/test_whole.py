"""Whole runs of real column workers against the run by hand (paper.py): every report, and all weights and momentum at the end.

In float64, so that no rate, draw, mask or evaluation can be another one unseen; each run takes 8 updates over three epochs.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from configs.errors import UserError
from configs.loader import load
from configs.schema import Config
from tests.cluster.runs import SMALL
from tests.whole.paper import Paper, Pictures
from tests.whole.playing import Processes, Start, make_pictures, stored
from workers.checkpoint_list import committed

torch.set_num_threads(1)

TOLERANCE = 1e-12
"""Of a tensor's largest magnitude, as in tests/parity; 1e-15 was found."""
REPORTED = ("kind", "step", "epoch", "images", "loss", "top1_error", "top5_error", "weights_rate", "biases_rate")


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.end()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pictures]:
    folder = tmp_path_factory.mktemp("whole") / "data"
    return folder, make_pictures(folder, size=28, rows={"train": 30, "validation": 17}, classes=10)


def config(folder: Path, *settings: str) -> Config:
    base = ["train.steps=8", "train.batch_size=12", "train.evaluate_every_epochs=0.8", "train.evaluate_batch_size=4"]
    base += ["checkpoint.every_steps=null", "cluster.collective_timeout_seconds=120", "data.drawn_pictures=null"]
    base += ["network.classifier.init_std=0.3"]
    return load(SMALL, [*base, f"data.path={folder}", *settings])


@dataclass(frozen=True)
class Case:
    settings: tuple[str, ...] = ()
    starts: tuple[dict[str, Any], ...] = ({},)


STAGES = """schedule.stages=[{from_epoch: 0, weights: 0.02, biases: 0.04},
    {from_epoch: 0.7, layers: {conv2: {weights: 0.003}, fc5: {biases: 0.001}}},
    {from_epoch: 1.3, weights: 0.005, layers: {conv1: {weights: 0, biases: 0}}},
    {from_epoch: 2.5, biases: 0.01, layers: {conv2: {weights: 0.0}}}]"""
EXPONENTIAL = """schedule={kind: discrete_exponential, over_epochs: 3.3, weights: {first: 0.03, divided_by: 8, steps: 4},
    biases: {first: 0.02, divided_by: 3, steps: 3}, frozen_from: {conv3: 1.5}}"""
PLATEAU = (
    "schedule={kind: plateau, weights: 0.02, biases: 0.03, factor: 0.4, patience_evaluations: 2, min_improvement: 0.05}",
    "train.evaluate_every_epochs=0.4",  # after each update, in five batches
)
OPTIMIZER = "optimizer={momentum: 0.7, weight_decay: 0.02, decay_biases: true, weight_decay_of: {conv2: 0.1, fc5: 0}}"
OTHER_DRAWS = (
    "train.seed=5", "train.order=same_every_epoch", "augment.crop_shared_by=1", "augment.crop_positions=3",
    "augment.mirror=false", "augment.mean=position", "augment.pixel_scale=0.02",
    "augment.colour_noise={strength: 0.3, scale: eigenvalue, until_epoch: 1.5}",
)  # fmt: skip
NO_DRAWS = ("augment.crop=centre", "augment.colour_noise=null", "network.denses.fc5.dropout=0", "train.steps=null")
COMPILED = (
    "compute.fused=true", "compute.compile=true", "train.evaluate_every_epochs=null",
    # Each kind of layer once: every function takes seconds to compile.
    "network.convs.conv1.then=[activation, lrn]", "network.convs.conv2.then=[activation]", "network.convs.conv4=null",
    "network.spatial_lrn=null",
)  # fmt: skip
ONE, TWO_REPLICAS = {"processes": 1}, ("cluster.replicas=2",)
CASES = {
    "two-columns": Case(),
    "two-replicas": Case(TWO_REPLICAS, ({"replicas": 2, **ONE},)),
    "two-by-two": Case(TWO_REPLICAS, ({"replicas": 2},)),
    "two-by-two-for-four": Case(("cluster.replicas=4",), ({"replicas": 2},)),
    "one-replica-for-two": Case(TWO_REPLICAS, (ONE,)),
    "four-columns-in-two": Case(("network.columns=4",)),
    "stages": Case((STAGES,)),
    "discrete-exponential": Case((EXPONENTIAL,), (ONE,)),
    "plateau": Case((*TWO_REPLICAS, *PLATEAU), ({"replicas": 2, **ONE},)),
    # Stopped after one test of the second evaluation, after an update, and in the sixth evaluation.
    "plateau-stopped": Case(PLATEAU, ({"items": 8}, {"items": 6 + 6, **ONE}, {"items": 5 + 6 + 4}, {})),
    "stopped-on-other-splits": Case(
        (STAGES, *TWO_REPLICAS), ({"items": 4, "replicas": 2}, {"items": 9, **ONE}, {"replicas": 2, **ONE})
    ),
    "optimizer": Case((OPTIMIZER,)),
    "other-draws": Case((*OTHER_DRAWS, "network.denses.fc5.dropout=0.3")),
    "no-draws": Case((*NO_DRAWS, "train.epochs=2.9"), (ONE,)),
    "contiguous": Case(("compute.channels_last=false",)),
    "compiled": Case((STAGES, *COMPILED), (ONE,)),
}


def run(processes: Processes, case: Case, of: Config, place: Path) -> list[dict[str, Any]]:
    """Start after start, each from the newest checkpoint; returns what rank 0 has reported in all."""
    reports: list[dict[str, Any]] = []
    for attempt, start in enumerate(case.starts, start=1):
        found = committed(str(place))
        ranks = processes.play(Start(config=of, **start), place, found[-1] if found else None, attempt)
        told = [_of_training(rank["reports"]) for rank in ranks]
        assert all(of_rank == told[0] for of_rank in told), "the ranks disagree"
        assert ranks[0]["ended"] == ("stopped" if "items" in start else "finished")
        reports += told[0]
    return reports


def _of_training(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert {report["kind"] for report in reports} <= {"train", "evaluation", "checkpoint"}, reports
    kept = [report for report in reports if report["kind"] != "checkpoint"]
    return [{name: report[name] for name in REPORTED if name in report} for report in kept]


def assert_same(found: list[dict[str, Any]], place: Path, paper: Paper) -> None:
    assert [report["kind"] for report in found] == [report["kind"] for report in paper.reports]
    for one, other in zip(found, paper.reports, strict=True):
        numbers = {name: number for name, number in other.items() if name != "kind"}
        assert {name: one[name] for name in numbers} == pytest.approx(numbers, rel=1e-9, abs=1e-12)
    tensors, expected = stored(place)[1], paper.tensors()
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(tensors[name], tensor, rtol=0, atol=TOLERANCE * abs(tensor).max(), err_msg=name)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.ci] * (name == "compiled")) for name in CASES])
def test_run_is_the_one_by_hand(processes: Processes, data: tuple[Path, Pictures], tmp_path: Path, name: str) -> None:
    case = CASES[name]
    of = config(data[0], *case.settings)
    found = run(processes, case, of, tmp_path)
    assert_same(found, tmp_path, Paper(of, data[1]).go())


def test_bf16_is_near_and_keeps_weights_and_momentum_in_float32(
    processes: Processes, data: tuple[Path, Pictures], tmp_path: Path
) -> None:
    """Products have 8 bits, which is why the way that the weights have gone is compared, and to three tenths only."""
    of = config(data[0], *TWO_REPLICAS, "compute.precision=bf16")
    found, paper = run(processes, Case(starts=({"replicas": 2},)), of, tmp_path), Paper(of, data[1])
    begin, end = paper.tensors(), paper.go().tensors()
    assert [report["loss"] for report in found] == [pytest.approx(report["loss"], rel=0.02) for report in paper.reports]
    for name, tensor in stored(tmp_path)[1].items():
        assert tensor.dtype == np.float32
        away = np.linalg.norm(tensor - end[name]) / np.linalg.norm(end[name] - begin[name])
        assert "/" in name or 0 < away < 0.3, name


def test_a_damaged_image_is_replaced_told_once_and_counted_or_ends_the_run(
    processes: Processes, data: tuple[Path, Pictures], tmp_path: Path
) -> None:
    folder, row = shutil.copytree(data[0], tmp_path / "data"), 3
    pixels = data[1].pixels["train"][row].tobytes()
    shard = folder / "train-0.arrow"
    shard.write_bytes(shard.read_bytes().replace(pixels, bytes([pixels[0] ^ 1]) + pixels[1:]))
    of = config(folder, "data.max_corrupt_records=1")
    ranks = processes.play(Start(config=of), tmp_path / "one", None, 1)
    assert_same(
        _of_training(ranks[0]["reports"]), tmp_path / "one", Paper(of, replace(data[1], damaged=frozenset({row}))).go()
    )
    [told], counts = ranks[0]["messages"], ranks[0]["counts"]
    assert told.startswith("training image 'train 3' in ") and "train-0.arrow is damaged" in told
    assert counts["corrupt_records"] == 1
    with pytest.raises(UserError, match=r"damaged training images: 1, .* more than data\.max_corrupt_records=0"):
        processes.play(Start(config=config(folder, "data.max_corrupt_records=0")), tmp_path / "none", None, 1)


def test_a_checkpoint_of_the_first_version_is_gone_on_from(
    processes: Processes, data: tuple[Path, Pictures], tmp_path: Path
) -> None:
    """Written here as it was then: no attempt in its name, no config and no attempt in its state."""
    of = config(data[0], *PLATEAU)
    paper = Paper(of, data[1]).go(4)
    tensors, done = paper.tensors(), len(paper.reports)
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    files = []
    for column in range(2):
        rows = {name: [len(of_all) * column // 2, len(of_all) * (column + 1) // 2] for name, of_all in tensors.items()}
        file = folder / f"columns-{column:02d}-to-{column:02d}.safetensors"
        save_file({name: tensors[name][slice(*part)].copy() for name, part in rows.items()}, file)
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        files.append({"file": file.name, "bytes": len(content), "sha256": sha256, "rows": rows})
    state = {
        "version": 1, "dataset": "", "draws_version": 1, "seed": 0, "step": 4, "evaluated": True, "samples": 48,
        "schedule": {"best": min(paper.errors), "waited": 1, "reductions": 0}, "errors": {}, "files": files,
        "shapes": {name: of_all.shape for name, of_all in tensors.items() if "/" not in name},
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    found = run(processes, Case(), of, tmp_path)
    assert_same(paper.reports[:done] + found, tmp_path, paper.go())
