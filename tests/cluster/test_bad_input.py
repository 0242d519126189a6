"""Bad input to the commands: one clear error on stderr, a code that is not 0, nothing lost. Without Ray unless it must be."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster import train
from tests.cluster.runs import SMALL, Run, flip


def refused(capsys: pytest.CaptureFixture[str], command: list[str], *, module: Any = train) -> str:
    """The one error of a command that ends with code 2, and starts no Ray for what can be known before."""
    with mock.patch("ray.init", side_effect=AssertionError("Ray was started")):
        code = module.main(command)
    told = capsys.readouterr()
    assert code == 2
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err
    return told.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["nowhere.yaml"], ["no config file nowhere.yaml", "original.yaml"]),
        (
            ["network.colums=2", "train.batch_size=many", "network.convs.conv1.maps=33", "seed=1"],
            ["network.colums", "did you mean `columns`", "train.batch_size", "33 maps cannot be split", "seed"],
        ),
        ([str(SMALL), "data.path=none", "data.drawn_pictures=null"], ["cluster.prepare"]),
        ([str(SMALL), "data.path=.", "data.drawn_pictures=null"], ["never finished"]),
        # What will be written is looked at before pictures are drawn.
        ([str(SMALL), "data.path=file/data"], ["the data set's folder file/data cannot be written: "]),
        ([str(SMALL), "runs_folder=file"], ["the run's folder file/small cannot be written: "]),
        ([str(SMALL), "checkpoint.folder=file/a"], ["the checkpoints' folder "]),
    ],
)
def test_what_a_run_cannot_begin_with(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], told: list[str]
) -> None:
    (tmp_path / "file").touch()
    with contextlib.chdir(tmp_path):
        error = refused(capsys, command)
    assert all(words in error for words in told), error


DRAWN = "small-pictures was drawn with other settings than data.drawn_pictures has now"
OTHER_DRAWINGS = ("seed=1", "size=32", "train_per_class=121", "validation_per_class=20")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("data.drawn_pictures=null network.input_size=32", "28x28, smaller than the crop of 32"),
        (
            "data.drawn_pictures=null network.classes=12",
            "it has 10 classes, but network.classes is 12; set network.classes=10",
        ),
        ("name=undisturbed train.seed=7", "train.seed: 0 then, 7 now"),
        *((f"data.drawn_pictures.{one}", DRAWN) for one in OTHER_DRAWINGS),
    ],
)
def test_what_does_not_fit_a_data_set_or_a_run_that_is_there(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, folder: Path, settings: str, told: str
) -> None:
    with contextlib.chdir(folder):
        assert told in refused(capsys, [str(SMALL), "name=other", *settings.split()])


def test_shard_with_a_flipped_byte_is_named(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, folder: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(folder / "data" / "small", tmp_path / "data"))
    shard = next(data.glob("train-*.arrow"))
    flip(shard)
    told = refused(capsys, [str(SMALL), f"data.path={data}", f"runs_folder={tmp_path / 'runs'}"])
    assert f"{shard.name} has another checksum" in told


def test_a_refused_command_leaves_the_run_as_it_was(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed.folder, tmp_path / "undisturbed"))
    state = max((run / "checkpoints").glob("step-*")) / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "dataset": "another"}))
    before = {file: file.read_bytes() for file in run.glob("*.*")}
    settings = ["name=undisturbed", f"runs_folder={tmp_path}", f"data.path={folder / 'data' / 'small'}"]
    assert "was trained on another data set" in refused(capsys, [str(SMALL), *settings, "train.steps=60"])
    assert {file: file.read_bytes() for file in run.glob("*.*")} == before


@pytest.mark.parametrize("option", [["--check"], ["--quiet"], ["--address", "auto"], ["--sink", "json:dumps"]])
def test_a_plan_takes_no_option_that_it_would_ignore(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.main(["--plan", *option])
    assert f"{option[0]}: not with --plan" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [True, False])
def test_evaluate_of_a_wrong_checkpoint(undisturbed: Run, folder: Path, tmp_path: Path, damaged: bool) -> None:
    newest = max((undisturbed.folder / "checkpoints").glob("step-*"))
    copy = Path(shutil.copytree(newest, tmp_path / newest.name))
    file = next(copy.glob("*.safetensors"))
    more, told = "network.convs.conv2.maps=64", "checkpoint of another network: conv2.weights has shape [32,"
    if damaged:
        flip(file)
        more, told = "", f"{copy} is damaged: the checksum of {file.name} is not the one recorded"
    arguments = (str(undisturbed.folder), "--checkpoint", str(copy), *more.split())
    run = Run(folder, "wrong-checkpoint", module="evaluate", arguments=arguments)
    assert run.finish() == 2
    [error] = [line for line in run.text.splitlines() if line.startswith("error: ")]
    assert told in error
    assert "Traceback" not in run.text
