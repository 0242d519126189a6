"""Ablations in the small: all runs, the table of what is there, resuming, Ctrl-C; and that the variations are what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.reproduce.__main__ import main
from cluster.reproduce.ablations import Ablations
from cluster.reproduce.variations import FULL, VARIATIONS
from configs.loader import load, to_dict
from configs.schema import Config
from tests.cluster.runs import PROJECT, alive

PADDINGS = ("network.convs.conv2.padding", "network.convs.conv5.padding")


@pytest.mark.parametrize("name", VARIATIONS)
def test_variations_change_what_the_large_variant_changes(name: str) -> None:
    """The built-in variant of the same name differs from original.yaml in the same settings, but for sizes and schedules."""
    small = _changes(load("ablation"), load("ablation", VARIATIONS[name].settings))
    large = _changes(load("original"), load("original" if name == FULL else name))
    # Those that follow from the sizes of images: paddings that keep maps of the same side, and where crops may lie.
    ignored = ("name", "schedule", "train", "augment.colour_noise.until_epoch", "cluster", *PADDINGS)
    assert {key for key in small if not key.startswith(ignored)} == {
        key for key in large if not key.startswith(ignored)
    }


def _changes(before: Config, after: Config) -> set[str]:
    from cluster.run_folder import _flat

    then, now = _flat(to_dict(before)), _flat(to_dict(after))
    return {key for key in {*then, *now} if then.get(key) != now.get(key)}


def test_one_seed_of_all_networks_comes_before_the_next(tmp_path: Path) -> None:
    wanted = Ablations(config="ablation", settings=[], out=tmp_path, seeds=2, only=["tanh", "all", "no_dropout"])
    assert wanted.runs() == [
        ("all", 0), ("all", 1), ("all", 2), ("no_dropout", 0), ("tanh", 0), ("no_dropout", 1), ("tanh", 1),
    ]  # fmt: skip


def test_a_run_that_diverged_is_not_trained_again(little: Path, tmp_path: Path) -> None:
    wanted = Ablations(config=str(little), settings=[], out=tmp_path, seeds=1, only=["all"])
    assert wanted.left() == [("all", 0), ("all", 1)]
    (tmp_path / "all-1").mkdir()
    told = [{"kind": "start"}, {"kind": "end", "ended": "failed", "why": "the loss is nan: training has diverged"}]
    (tmp_path / "all-1" / "log.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in told))
    assert wanted.left() == [("all", 0)]


def test_runs_table_and_once_more(little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ablations"
    words = ["ablations", "--config", str(little), "--out", str(out), "--only", "all,no_dropout", "--seeds", "1"]
    words += ["train.epochs=1"]
    assert main([*words, "--table"]) == 2
    assert "no run in" in capsys.readouterr().err
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "run 3 of 3" in printed and "3 of 3" in printed
    content = json.loads((out / "ablations.json").read_text())
    assert content["seeds"] == {"all": 2, "no_dropout": 1}
    assert content["ensemble"]["top1_error_10_ensemble"] >= 0
    for name in ("all-0", "all-1", "no_dropout-0"):
        result = json.loads((out / name / "result.json").read_text())
        assert result["validation"]["images"] == 12
    members = json.loads((out / "all-views1.json").read_text())["members"]
    assert members[0]["top1_error"] == pytest.approx(
        json.loads((out / "all-0" / "result.json").read_text())["validation"]["top1_error"]
    )
    reports = [json.loads(line) for line in (out / "no_dropout-0" / "log.jsonl").read_text().splitlines()]
    wrong = [(one["top1_error"] * one["images"], one["images"]) for one in reports if one["kind"] == "train"]
    tested = json.loads((out / "no_dropout-0" / "result.json").read_text())["validation"]["top1_error"]
    in_training = sum(errors for errors, _ in wrong) / sum(images for _, images in wrong)  # of its only epoch
    assert content["networks"]["no_dropout"]["overfitting"]["mean"] == pytest.approx(100 * (tested - in_training))
    logs = {path: path.read_bytes() for path in out.glob("*/log.jsonl")}
    assert main(words) == 0
    assert "3 of them done" in capsys.readouterr().out
    capsys.readouterr()
    for setting, said in (
        ("optimizer.momentum=0.5", "optimizer.momentum: 0.9 then, 0.5 now"),
        ("train.epochs=0.5", "are asked for"),
    ):
        assert main([*words, setting, "--table"]) == 2, "old figures must not pass for new ones"
        assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.glob("*/log.jsonl")} == logs


def test_ctrl_c_stops_the_run_under_way_and_saves_it(little: Path, tmp_path: Path) -> None:
    words = ["ablations", "--config", str(little), "--out", str(tmp_path / "out"), "--only", "all", "--seeds", "1"]
    words += ["train.epochs=100000", "train.evaluate_every_epochs=null"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.reproduce", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    import psutil

    log, end = tmp_path / "out" / "all-0" / "log.jsonl", time.monotonic() + 180
    while not (log.exists() and '"train"' in log.read_text()):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted: the same command goes on from what is there"
    assert json.loads(log.read_text().splitlines()[-1])["ended"] == "stopped"
    assert list((log.parent / "checkpoints").glob("step-*/state.json"))
    assert not alive(below)


def test_unknown_names_and_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablations", "--only", "all,no_sense"]) == 2
    assert "no such network; there are all, no_normalisation" in capsys.readouterr().err
    assert main(["ablations", f"data.path={tmp_path}/nowhere"]) == 2
    assert "--classes 40" in capsys.readouterr().err
