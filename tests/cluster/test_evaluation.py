"""One run tested on another data set than its own, by its columns."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cluster import evaluate, evaluation
from cluster.evaluations import FILE, read
from cluster.plan import Plan
from configs.errors import UserError
from configs.loader import load, save
from tests.cluster.runs import Run
from workers.data.manifest import _from_json


def test_other_classes_are_refused_and_the_mean_image_is_that_of_training(
    bold: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    run = Path(shutil.copytree(bold.folder, tmp_path / "run", ignore=shutil.ignore_patterns(FILE)))
    other = Path(shutil.copytree(folder / "data" / "small", tmp_path / "other"))
    file = other / "manifest.json"
    content = json.loads(file.read_text())
    # The same images, beside a training set that was darker: its mean is no concern of this network.
    mean = np.load(other / "mean.npy") / 2
    np.save(other / "mean.npy", mean)
    content["rgb_mean"] = [float(value) for value in mean.mean(axis=(0, 1), dtype=np.float64)]
    file.write_text(json.dumps(content))
    out = tmp_path / "errors.json"
    assert evaluate.main([str(run), f"data.path={other}", "--json", str(out)]) == 0
    found, expected = json.loads(out.read_text()), bold.result()["validation"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["top1_error"] == expected["top1_error"]
    [kept] = read(run)
    assert kept["overrides"] == [] and kept["dataset"] == content["fingerprint"], "another place is no other setting"
    content["classes"] = content["classes"][::-1]
    content["fingerprint"] = _from_json(content).fingerprint
    file.write_text(json.dumps(content))
    capsys.readouterr()
    assert evaluate.main([str(run), f"data.path={other}"]) == 2
    assert f"error: {run} was trained on other classes" in capsys.readouterr().err
    assert len(read(run)) == 1


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
