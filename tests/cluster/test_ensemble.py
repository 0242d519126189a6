"""One run on other data, several networks, errors by class: against plain PyTorch and the errors that actors find."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cluster import evaluate, evaluation
from cluster.evaluations import FILE, read
from cluster.network import load_run
from cluster.plan import Plan
from configs.errors import UserError
from configs.loader import load, save
from tests import reference
from tests.cluster.runs import Run
from tests.cluster.test_bad_input import refused
from workers.data.dataset import Dataset
from workers.data.manifest import Manifest

# As in tests/alexnet: more threads would only wait for each other.
torch.set_num_threads(1)


Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Evaluate:
    """The JSON of an evaluation, started where the runs' data.path leads to the data set."""
    monkeypatch.chdir(folder)

    def call(*command: str | Path) -> dict[str, Any]:
        out = tmp_path / "errors.json"
        assert evaluate.main([*map(str, command), "--json", str(out)]) == 0
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return call


@pytest.fixture
def validation(folder: Path) -> Dataset:
    return Dataset(folder / "data" / "small", "validation")


def plain_probabilities(run: Path, dataset: Dataset, ten: bool = False) -> np.ndarray:
    """[images, classes], by the tests' own network, preprocessing and views, in float64."""
    loaded = load_run(run)
    model = reference.Reference(loaded.network)
    model.copy_weights(loaded.model.parameter_layers())
    stored, mean_SSC = np.zeros((len(dataset), 28, 28, 3), np.uint8), np.load(run / "mean.npy")
    for row, image in enumerate(stored):
        dataset.decode_into(row, image)
    views = []
    for y, x in [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)] if ten else [(2, 2)]:
        crops, offsets = stored[:, y : y + 24, x : x + 24], np.full((len(stored), 2), (y, x))
        for mirrored in (False, True) if ten else (False,):
            mirror = np.full(len(stored), mirrored)
            images = reference.preprocessed(crops, mean_SSC, offsets, mean="centre", mirror_B=mirror, scale=1 / 64)
            with torch.no_grad():
                views.append(model.eval()(torch.from_numpy(images), {}).softmax(dim=1).numpy())
    mean: np.ndarray = np.mean(views, axis=0)
    return mean


def errors_of(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    order = np.argsort(-probabilities, axis=1)
    return {
        "top1_error": float((order[:, 0] != labels).mean()),
        "top5_error": float((order[:, :5] != labels[:, None]).all(axis=1).mean()),
        "mean_log_probability": float(np.log(probabilities[np.arange(len(labels)), labels]).mean()),
    }


@pytest.mark.parametrize("views", [1, 10])
def test_members_and_ensemble_are_those_of_plain_probabilities(
    undisturbed: Run, bold: Run, evaluated: Evaluate, validation: Dataset, views: int
) -> None:
    runs = [bold.folder, undisturbed.folder]
    found = evaluated(*runs, "--views", str(views), "--weights", "1,3")
    labels = validation.labels
    plain = [plain_probabilities(run, validation, views == 10) for run in runs]
    for told, probabilities in (*zip(found["members"], plain, strict=True), (found, 0.25 * plain[0] + 0.75 * plain[1])):
        assert told["images"] == len(labels)
        for name, value in errors_of(probabilities, labels).items():
            # Probabilities in float32, against float64.
            assert told[name] == pytest.approx(value, abs=1e-5), name
    # What is compared differs from one to the other by far more than that.
    losses = [found["loss"], *(member["loss"] for member in found["members"])]
    assert min(abs(one - other) for n, one in enumerate(losses) for other in losses[:n]) > 1e-3
    assert [member["weight"] for member in found["members"]] == [1.0, 3.0]
    alone, together = read(undisturbed.folder)[-2:]
    assert "members" not in alone and alone["step"] == together["step"] == 30
    assert together["weights"] == [1.0, 3.0] and together["pretrained"] == [False, False]
    for kept in (alone, together):
        assert kept["dataset"] == validation.manifest.fingerprint and kept["overrides"] == []


def test_by_class_and_confusion(
    bold: Run, evaluated: Evaluate, validation: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "confusion.png"
    found = evaluated(bold.folder, "--by-class", "--confusion", picture)
    told = capsys.readouterr().out
    order = np.argsort(-plain_probabilities(bold.folder, validation), axis=1)
    classes = found["by_class"]
    assert [one["class"] for one in classes] == list(validation.manifest.classes)
    for number, one in enumerate(classes):
        mine = order[validation.labels == number]
        assert (one["images"], one["top1_error"]) == (21, pytest.approx((mine[:, 0] != number).mean()))
        assert one["top5_error"] == pytest.approx((mine[:, :5] != number).all(axis=1).mean())
        wrong = np.bincount(mine[:, 0], minlength=10)
        wrong[number] = 0
        assert one["most_taken_for"]["images"] == wrong.max()
        assert one["class"] in told
    assert np.mean([one["top1_error"] for one in classes]) == pytest.approx(found["top1_error"])
    assert "most often taken for" in told and str(picture) in told
    with Image.open(picture) as image:
        assert image.format == "PNG" and min(image.size) > 500
        assert len(image.convert("RGB").getcolors(2**20) or []) > 20


def test_different_validation_sets_and_other_classes_are_refused(
    bold: Run, folder: Path, evaluated: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(folder / "data" / "small", tmp_path / "other-data")
    other = Path(shutil.copytree(bold.folder, tmp_path / "other"))
    save(load(other / "config.yaml", [f"data.path={data}"]), other / "config.yaml")
    evaluated(bold.folder, other)  # the same images at another place are the same
    manifest = Manifest.load(data)
    some, shard = manifest.splits["validation"], manifest.splits["train"].shards[0]
    changed = dataclasses.replace(some, shards=(*some.shards, shard), rows=some.rows + shard.rows)
    dataclasses.replace(manifest, splits={**manifest.splits, "validation": changed}).write(data)
    capsys.readouterr()
    told = refused(capsys, [str(bold.folder), str(other)], module=evaluate)
    assert "have different validation sets" in told and "data.path=" in told
    # One data set for all, whatever their configs say.
    one = f"data.path={folder / 'data' / 'small'}"
    evaluated(bold.folder, other, one)
    file = other / "preprocess.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "classes": content["classes"][::-1]}))
    capsys.readouterr()
    assert f"{other} was trained on other" in refused(capsys, [str(bold.folder), str(other), one], module=evaluate)


def test_on_another_data_set_the_mean_image_is_that_of_training(
    bold: Run, folder: Path, evaluated: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the run's columns."""
    run = Path(shutil.copytree(bold.folder, tmp_path / "run", ignore=shutil.ignore_patterns(FILE)))
    other = Path(shutil.copytree(folder / "data" / "small", tmp_path / "other"))
    # The same images, beside a training set that was darker: its mean is no concern of this network.
    mean = np.load(other / "mean.npy") / 2
    np.save(other / "mean.npy", mean)
    red, green, blue = map(float, mean.mean(axis=(0, 1), dtype=np.float64))
    manifest = dataclasses.replace(Manifest.load(other), rgb_mean=(red, green, blue))
    manifest.write(other)
    found, expected = evaluated(run, f"data.path={other}"), bold.result()["validation"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["top1_error"] == expected["top1_error"]
    [kept] = read(run)
    assert kept["overrides"] == [] and kept["dataset"] == manifest.fingerprint, "another place is no other setting"
    dataclasses.replace(manifest, classes=manifest.classes[::-1]).write(other)
    capsys.readouterr()
    assert evaluate.main([str(run), f"data.path={other}"]) == 2
    assert f"error: {run} was trained on other classes" in capsys.readouterr().err
    assert len(read(run)) == 1


def test_bad_input(bold: Run, evaluated: Evaluate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(bold.folder)
    for command, words in (
        ([run, run, "--weights", "1"], "--weights has 1 numbers for 2 networks"),
        ([run, run, "--weights", "0,0"], "--weights are all 0"),
        ([str(tmp_path)], "is not the folder of a run"),
        ([run, str(tmp_path)], f"{tmp_path} is not the folder of a run"),
        ([f"{run}/result.json"], "it is a file"),
        ([run, run, "--address", "auto"], "--address is for one run"),
        ([run, run, "--checkpoint", run], "--checkpoint is for one run"),
        ([run, "--by-class", "--json", "none/errors.json"], "there is no folder none"),
        ([run, "--confusion", "confusion.jpg"], "must end in .png"),
        ([run, "--confusion", str(tmp_path / "none" / "c.png")], "there is no folder"),
        ([run, run, "data.path=nowhere"], "no data set at nowhere"),
        ([run, run, "network.clases=3"], "no such setting"),
    ):
        assert words in refused(capsys, command, module=evaluate)
    for command, words in (([run, run, "--weights", "1,-1"], "--weights"), (["--views", "10"], "give the folder of a")):
        with pytest.raises(SystemExit, match="2"):
            evaluate.main(command)
        assert words in capsys.readouterr().err


def test_a_run_is_tested_on_the_devices_that_are_there(
    undisturbed: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on three machines with GPUs, say, and tested on a laptop."""

    def planned(plan: Plan) -> int:
        assert plan.config.cluster.nodes is None
        raise UserError(f"{plan.mesh.replicas} replica(s)")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(evaluation, "local_cpus", planned)
    run = Path(shutil.copytree(undisturbed.folder, tmp_path / "run"))
    settings = load(run / "config.yaml", ["cluster.replicas=8", "cluster.nodes=3", "cluster.device=cuda"])
    save(settings, run / "config.yaml")
    for wanted, replicas in (([], 1), (["cluster.replicas=2"], 2)):
        assert evaluate.main([str(run), *wanted, "cluster.device=cpu"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {replicas} replica(s)"
