"""Bad input to the commands: one clear error on stderr, a code that is not 0, nothing lost. Without Ray unless it must be."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cluster import evaluate, train
from tests.cluster.runs import SMALL, Run


@pytest.fixture
def data(undisturbed: Run, folder: Path, tmp_path: Path) -> Path:
    """A copy of the prepared data set, to damage."""
    return Path(shutil.copytree(folder / "data" / "small", tmp_path / "data"))


def refused(capsys: pytest.CaptureFixture[str], command: list[str], *, module: Any = train) -> str:
    """The one error of a command that ends with code 2, and starts no Ray for what can be known before."""
    with mock.patch("ray.init", side_effect=AssertionError("Ray was started")):
        code = module.main(command)
    told = capsys.readouterr()
    assert code == 2
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err
    return told.err


def test_missing_config_names_the_built_in_ones(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, ["nowhere.yaml"])
    assert "no config file nowhere.yaml" in told
    assert "original.yaml" in told


def test_all_wrong_settings_in_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, ["network.colums=2", "train.batch_size=many", "network.convs.conv1.maps=33", "seed=1"])
    for words in ("network.colums", "did you mean `columns`", "train.batch_size", "33 maps cannot be split", "seed"):
        assert words in told


def test_missing_data_set_says_how_to_make_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told = refused(capsys, [str(SMALL), f"data.path={tmp_path / 'none'}", "data.drawn_pictures=null"])
    assert "cluster.prepare" in told
    (tmp_path / "empty").mkdir()
    told = refused(capsys, [str(SMALL), f"data.path={tmp_path / 'empty'}", "data.drawn_pictures=null"])
    assert "never finished" in told


def test_shard_with_a_flipped_byte_is_named(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    shard = next(data.glob("train-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    told = refused(capsys, [str(SMALL), f"data.path={data}", f"runs_folder={tmp_path / 'runs'}"])
    assert shard.name in told
    assert "checksum" in told


def test_images_smaller_than_the_crop(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    told = refused(capsys, [str(SMALL), f"data.path={data}", "data.drawn_pictures=null", "network.input_size=32"])
    assert "28x28" in told
    assert "smaller than the crop of 32" in told


def test_other_number_of_classes(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    told = refused(capsys, [str(SMALL), f"data.path={data}", "data.drawn_pictures=null", "network.classes=12"])
    assert "10 classes" in told
    assert "network.classes=10" in told


def test_same_name_with_other_settings_is_refused(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    told = refused(capsys, [str(SMALL), "name=undisturbed", "train.seed=7"])
    assert "train.seed: 0 then, 7 now" in told


@pytest.mark.parametrize("setting", ["seed=1", "size=32", "train_per_class=121", "validation_per_class=20"])
def test_pictures_drawn_otherwise_are_not_taken_for_these(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.chdir(folder)
    told = refused(capsys, [str(SMALL), "name=other", f"data.drawn_pictures.{setting}"])
    assert "small-pictures was drawn with other settings than data.drawn_pictures has now" in told


def test_a_refused_command_leaves_the_run_as_it_was(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed.folder, tmp_path / "undisturbed"))
    state = max((run / "checkpoints").glob("step-*")) / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "dataset": "another"}))
    before = {file: file.read_bytes() for file in run.glob("*.*")}
    settings = [
        "name=undisturbed",
        f"runs_folder={tmp_path}",
        f"data.path={folder / 'data' / 'small'}",
        "train.steps=60",
    ]
    assert "was trained on another data set" in refused(capsys, [str(SMALL), *settings])
    assert {file: file.read_bytes() for file in run.glob("*.*")} == before


@pytest.mark.parametrize("option", [["--check"], ["--quiet"], ["--address", "auto"], ["--sink", "json:dumps"]])
def test_a_plan_takes_no_option_that_it_would_ignore(capsys: pytest.CaptureFixture[str], option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["--plan", *option])
    assert ended.value.code == 2
    assert f"{option[0]}: not with --plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["data.path=file/data"], "the data set's folder file/data cannot be written: "),
        (["runs_folder=file"], "the run's folder file/small cannot be written: "),
        (["checkpoint.folder=file/a"], "the checkpoints' folder "),
    ],
)
def test_what_will_be_written_is_looked_at_before_pictures_are_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert told in refused(capsys, [str(SMALL), *settings])


def test_evaluate_of_what_is_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "is not the folder of a run" in refused(capsys, [str(tmp_path)], module=evaluate)
    file = tmp_path / "file"
    file.write_text("")
    assert "it is a file" in refused(capsys, [str(file)], module=evaluate)
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--views", "10"])
    assert ended.value.code == 2
    assert "give the folder of a run" in capsys.readouterr().err


def test_evaluate_knows_beforehand_that_json_has_nowhere_to_go(
    capsys: pytest.CaptureFixture[str], undisturbed: Run, tmp_path: Path
) -> None:
    told = refused(capsys, [str(undisturbed.folder), "--json", str(tmp_path / "none" / "a.json")], module=evaluate)
    assert "there is no folder" in told


def test_checkpoint_of_another_network(undisturbed: Run, folder: Path) -> None:
    arguments = (str(undisturbed.folder), "network.convs.conv2.maps=64")
    run = Run(folder, "other-network", module="evaluate", arguments=arguments)
    assert run.finish() == 2
    [told] = [line for line in run.text.splitlines() if line.startswith("error: ")]
    assert "checkpoint of another network: conv2.weights has shape [32," in told
    assert "Traceback" not in run.text


def test_damaged_checkpoint_that_evaluate_is_told_to_take(undisturbed: Run, folder: Path, tmp_path: Path) -> None:
    newest = max((undisturbed.folder / "checkpoints").glob("step-*"))
    copy = Path(shutil.copytree(newest, tmp_path / newest.name))
    file = next(copy.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    arguments = (str(undisturbed.folder), "--checkpoint", str(copy))
    run = Run(folder, "damaged", module="evaluate", arguments=arguments)
    assert run.finish() == 2
    [told] = [line for line in run.text.splitlines() if line.startswith("error: ")]
    assert f"{copy} is damaged: the checksum of {file.name} is not the one recorded" in told
    assert "Traceback" not in run.text
