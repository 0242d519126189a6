"""Ablations and figure 1 in the small: runs, tables, resuming, Ctrl-C; and that the variations are what they say."""

import json
from pathlib import Path

import pytest

from cluster.reproduce.__main__ import main
from cluster.reproduce.ablations import Ablations
from cluster.reproduce.series import train_reports
from cluster.reproduce.variations import FULL, VARIATIONS
from cluster.settings import differences
from configs.loader import load, to_dict
from configs.schema import Config
from tests.cluster.reports import end, lines, start
from tests.cluster.runs import Run, alive

PADDINGS = ("network.convs.conv2.padding", "network.convs.conv5.padding")


@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_change_what_the_large_variant_changes(name: str) -> None:
    """The built-in variant of the same name differs from original.yaml in the same settings, but for sizes and schedules."""

    def changes(before: Config, after: Config) -> set[str]:
        # Those that follow from the sizes of images: paddings that keep maps of the same side, and where crops may lie.
        ignored = ("name", "schedule", "train", "augment.colour_noise.until_epoch", "cluster", *PADDINGS)
        paths = {one.path for one in differences(to_dict(before), to_dict(after))}
        return {path for path in paths if not path.startswith(ignored)}

    small = changes(load("ablation"), load("ablation", VARIATIONS[name].settings))
    assert small == changes(load("original"), load("original" if name == FULL else name))


def test_one_seed_of_all_networks_comes_before_the_next(little: Path, tmp_path: Path) -> None:
    wanted = Ablations(config="ablation", settings=[], out=tmp_path, seeds=2, only=["tanh", "all", "no_dropout"])
    assert wanted.runs() == [
        ("all", 0), ("all", 1), ("all", 2), ("no_dropout", 0), ("tanh", 0), ("no_dropout", 1), ("tanh", 1),
    ]  # fmt: skip
    # A run that diverged is not trained again.
    wanted = Ablations(config=str(little), settings=[], out=tmp_path, seeds=1, only=["all"])
    assert wanted.left() == [("all", 0), ("all", 1)]
    (tmp_path / "all-1").mkdir()
    told = lines([start(), end("failed", 7, "the loss is nan: training has diverged")])
    (tmp_path / "all-1" / "log.jsonl").write_text(told)
    assert wanted.left() == [("all", 0)]


@pytest.mark.ci
def test_runs_table_and_once_more(little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ablations"
    words = ["ablations", "--config", str(little), "--out", str(out), "--only", "all,no_dropout", "--seeds", "1"]
    words += ["train.epochs=1"]
    assert main([*words, "--table"]) == 2
    assert "no run in" in capsys.readouterr().err
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "run 3 of 3" in printed and "3 of 3" in printed
    content, members = (json.loads((out / name).read_text()) for name in ("ablations.json", "all-views1.json"))
    assert content["seeds"] == {"all": 2, "no_dropout": 1}
    assert content["ensemble"]["top1_error_10_ensemble"] >= 0
    tested = {
        name: json.loads((out / name / "result.json").read_text())["validation"]
        for name in ("all-0", "all-1", "no_dropout-0")
    }
    assert all(errors["images"] == 12 for errors in tested.values())
    assert members["members"][0]["top1_error"] == pytest.approx(tested["all-0"]["top1_error"])
    reports = [json.loads(line) for line in (out / "no_dropout-0" / "log.jsonl").read_text().splitlines()]
    trained = [one for one in reports if one["kind"] == "train"]  # of its only epoch
    errors = sum(one["top1_error"] * one["images"] for one in trained) / sum(one["images"] for one in trained)
    overfitting = 100 * (tested["no_dropout-0"]["top1_error"] - errors)
    assert content["networks"]["no_dropout"]["overfitting"]["mean"] == pytest.approx(overfitting)
    logs = {path: path.read_bytes() for path in out.glob("*/log.jsonl")}
    assert main(words) == 0
    assert "3 of them done" in capsys.readouterr().out
    for setting, said in (
        ("optimizer.momentum=0.5", "optimizer.momentum: 0.9 then, 0.5 now"),
        ("train.epochs=0.5", "are asked for"),
    ):
        assert main([*words, setting, "--table"]) == 2, "old figures must not pass for new ones"
        assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.glob("*/log.jsonl")} == logs


@pytest.mark.ci
def test_ctrl_c_stops_the_run_under_way_and_saves_it(little: Path, tmp_path: Path) -> None:
    words = ("ablations", "--config", str(little), "--out", str(tmp_path / "out"), "--only", "all", "--seeds", "1")
    more = ("train.epochs=100000", "train.evaluate_every_epochs=null")
    run = Run(tmp_path, "ablations", module="reproduce", arguments=(*words, *more))
    log = tmp_path / "out" / "all-0" / "log.jsonl"
    run.wait_for(lambda: log.exists() and '"train"' in log.read_text(), 180)
    below = run.descendants()
    run.interrupt()
    assert run.finish(120) == 130
    assert run.text.strip().splitlines()[-1] == "interrupted: the same command goes on from what is there"
    assert json.loads(log.read_text().splitlines()[-1])["ended"] == "stopped"
    assert list((log.parent / "checkpoints").glob("step-*/state.json"))
    assert not alive(below)


def test_unknown_names_and_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablations", "--only", "all,no_sense"]) == 2
    assert "no such network; there are all, no_normalisation" in capsys.readouterr().err
    assert main(["ablations", f"data.path={tmp_path}/nowhere"]) == 2
    assert "--classes 40" in capsys.readouterr().err


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
    assert [report.step for report in train_reports(out / "relu-0.004")] == [*range(1, 9)]


def test_plan_and_missing_data(little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert figure1(little, tmp_path / "none", "--plan") == 0
    assert "8 runs of 2 epochs" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    assert figure1(little, tmp_path / "none", f"data.path={tmp_path / 'nowhere'}") == 2
    assert "cluster.prepare cifar10" in capsys.readouterr().err
