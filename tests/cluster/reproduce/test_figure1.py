"""Figure 1 in the small: the search, the run that goes on, what is written, and that nothing is trained twice."""

import json
from pathlib import Path

import pytest

from cluster.reproduce.__main__ import main
from cluster.reproduce.series import train_reports


def figure1(little: Path, out: Path, *words: str) -> int:
    settings = ["schedule.stages.0.from_epoch=0", "train.report_every_steps=1"]
    return main(["figure1", "--config", str(little), "--out", str(out), *settings, *words])


@pytest.mark.ci
def test_search_then_on_to_the_target(little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figure1"
    words = ["--rates", "0.004", "--search-epochs", "1", "--most-epochs", "1", "--target", "0.9"]
    assert figure1(little, out, *words) == 0
    found = json.loads((out / "figure1.json").read_text())
    for units in ("relu", "tanh"):
        curve = found["curves"][units]
        assert curve["rate"] == 0.004 and 0 < curve["searched"]["0.004"] < 1
        assert len(curve["points"]) >= 2
        assert curve["epochs_to_target"] is not None  # half of two classes are right by chance
    assert found["ratio"] is not None
    assert (out / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert "run 1 of 1" in capsys.readouterr().out

    logs = {path: path.read_bytes() for path in out.glob("*/log.jsonl")}
    assert len(logs) == 2
    assert figure1(little, out, *words) == 0
    assert {path: path.read_bytes() for path in out.glob("*/log.jsonl")} == logs
    assert "run 1" not in capsys.readouterr().out

    # An error that is never reached: both go on to the most epochs from where they were.
    words[5], words[7] = "2", "0.001"
    assert figure1(little, out, *words) == 0
    found = json.loads((out / "figure1.json").read_text())
    assert found["ratio"] is None
    assert found["curves"]["tanh"]["epochs_to_target"] is None
    assert "not in 2" in capsys.readouterr().out
    assert [report["step"] for report in train_reports(out / "relu-0.004")] == [*range(1, 9)]


def test_plan_and_missing_data(little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figure1(little, tmp_path / "none", "--plan") == 0
    assert "8 runs of 2 epochs" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    assert figure1(little, tmp_path / "none", f"data.path={tmp_path / 'nowhere'}") == 2
    assert "cluster.prepare cifar10" in capsys.readouterr().err
