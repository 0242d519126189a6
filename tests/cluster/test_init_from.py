"""A run that starts from another run's weights, as people start it, stopped on the way and continued."""

import json
from pathlib import Path

from safetensors.torch import load_file

from tests.cluster.runs import Run

SETTINGS = ("train.init_from=runs/undisturbed", "network.denses.fc5.units=32", "train.evaluate_every_epochs=null")


def test_fine_tuning(undisturbed: Run, folder: Path) -> None:
    """Weights are taken before the first step; a run that goes on keeps its own, and remembers where they came from."""
    still = "schedule.stages=[{from_epoch: 0, weights: 0, biases: 0}]"
    run = Run(folder, "tuned", *SETTINGS, still, "train.steps=1")
    assert run.finish() == 0, run.text
    source = sorted((folder / "runs" / "undisturbed" / "checkpoints").glob("step-*"))[-1]
    line = f"starting from {source}: conv1, conv2, conv3, conv4 taken, new: fc5, classifier"
    assert line in run.text.splitlines(), run.text

    def newest(name: str) -> Path:
        return sorted((folder / "runs" / name / "checkpoints").glob("step-*"))[-1]

    for file in newest("tuned").glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(newest("undisturbed") / file.name)
        for name in ("conv1.weights", "conv2.biases", "conv3.weights", "conv4.weights"):
            assert ours[name].equal(theirs[name]), name
        assert not any(tensor.any() for name, tensor in ours.items() if name.startswith("momentum/")), "taken too"
    record = json.loads((newest("tuned") / "state.json").read_text())["init_from"]
    assert record["taken"] == ["conv1", "conv2", "conv3", "conv4"] and record["step"] == 30

    again = Run(folder, "tuned", *SETTINGS, still, "train.steps=2")
    assert again.finish() == 0, again.text
    assert "starting from" not in again.text and "continuing from" in again.text
    state = json.loads((newest("tuned") / "state.json").read_text())
    assert state["step"] == 2 and state["init_from"] == record


def test_a_start_that_is_not_there_is_said_before_anything_starts(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "from-nowhere", "train.init_from=runs/nowhere")
    assert run.finish(60) == 2
    assert f"error: train.init_from: there is no checkpoint at {folder}/runs/nowhere" in run.text
    assert "Traceback" not in run.text
