"""Predicting picture files: the errors of evaluation from the photos themselves, copies that work elsewhere, and bad input."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import evaluate, predict
from cluster.network import load_run
from tests.cluster.runs import Run, flip
from tests.cluster.test_bad_input import refused
from tests.data.archives import TEST_DATA
from tests.data.pictures import jpeg

# As in tests/alexnet: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def copied(bold: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder where there is no data set, as on another machine."""
    monkeypatch.chdir(tmp_path)
    assert not Path("data").exists()
    return Path(shutil.copytree(bold.folder, tmp_path / "copied"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures in nested folders, and files that are none of anybody's business."""
    folder = tmp_path / "photos"
    (folder / "below" / "deeper").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b.jpg", "below/a.jpeg", "below/deeper/c.JPG", "z.png", ".hidden/no.jpg", "._b.jpg"):
        (folder / name).write_bytes(jpeg(len(name), 40, 50))
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken link.jpg").symlink_to("nowhere.jpg")
    return folder


def answered(capsys: pytest.CaptureFixture[str], *command: str | Path, code: int = 0) -> str:
    assert predict.main([str(part) for part in command]) == code
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *command: str | Path, code: int = 0) -> Any:
    return json.loads(answered(capsys, *command, "--json", code=code))


def pictures_named(told: str) -> list[str]:
    return [line for line in told.splitlines() if not line.startswith("  ")]


NAMES = ("b.jpg", "z.png", "below/a.jpeg", "below/deeper/c.JPG")


@pytest.mark.parametrize("views", [1, 10])
def test_pictures_of_the_validation_set_give_the_errors_of_evaluation(
    bold: Run, folder: Path, capsys: pytest.CaptureFixture[str], views: int
) -> None:
    pictures = folder / "data" / "small-pictures" / "validation"
    found = as_json(capsys, bold.folder, pictures, "--views", str(views), "--top", "10", "--batch", "50")["pictures"]
    expected = bold.result()["validation"]
    if views == 10:
        report, data = folder / "bold-ten.json", folder / "data" / "small"
        command = [str(bold.folder), "--views", "10", "--by-class", "--json", str(report), f"data.path={data}"]
        assert evaluate.main(command) == 0
        expected = json.loads(report.read_text())
    ranks, losses = [], []
    for picture in found:
        names = [one["class"] for one in picture["top"]]
        ranks.append(names.index(Path(picture["file"]).parent.name))
        losses.append(-math.log(picture["top"][ranks[-1]]["probability"]))
        assert sum(one["probability"] for one in picture["top"]) == pytest.approx(1, abs=1e-6)
    assert len(found) == expected["images"]
    assert sum(rank >= 1 for rank in ranks) / len(ranks) == pytest.approx(expected["top1_error"], abs=1e-12)
    assert sum(rank >= 5 for rank in ranks) / len(ranks) == pytest.approx(expected["top5_error"], abs=1e-12)
    # Two columns add their parts in another order than the whole network does.
    assert sum(losses) / len(losses) == pytest.approx(expected["loss"], rel=1e-5)
    assert len({picture["top"][0]["class"] for picture in found}) > 3, (
        "a network that always says the same shows nothing"
    )


def test_a_copied_run_predicts(copied: Path, photos: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = answered(capsys, copied, photos, photos / "b.jpg", "--top", "3")
    assert pictures_named(told) == [str(photos / name) for name in NAMES]
    lines = told.splitlines()
    assert len(lines) == 4 * (1 + 3)
    probable = [float(line.split()[0].rstrip("%")) for line in lines[1:4]]
    assert probable == sorted(probable, reverse=True) and lines[1].split()[1] in load_run(copied).class_names
    newest = max((copied / "checkpoints").glob("step-*"))
    assert answered(capsys, newest, photos / "z.png") == answered(capsys, copied, photos / "z.png")
    # A run that keeps nothing takes it from the data set.
    before, file = answered(capsys, copied, photos), copied / "preprocess.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "dataset": "0" * 64}))
    assert "belongs to another data set" in refused(capsys, [str(copied), str(photos)], module=predict)
    file.unlink()
    told = refused(capsys, [str(copied), str(photos)], module=predict)
    assert "no data set at data/small" in told and "--data DIR" in told
    assert answered(capsys, copied, photos, "--data", folder / "data" / "small") == before


def test_batches_and_json_change_no_answer(copied: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, single = (as_json(capsys, copied, photos, "--batch", size) for size in ("64", "1"))
    for one, other in zip(whole["pictures"], single["pictures"], strict=True):
        assert [top["class"] for top in one["top"]] == [top["class"] for top in other["top"]]
        assert one["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], rel=1e-5)
    assert answered(capsys, copied, photos, "--json", "found.json") == ""
    assert json.loads(Path("found.json").read_text()) == whole
    assert (whole["updates"], whole["views"], whole["failed"]) == (1, 1, [])


def test_unreadable_pictures_are_named_and_counted_and_the_others_printed(
    copied: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "b.jpg").read_bytes()
    (photos / "below" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("no picture")
    (photos / "empty.gif").touch()
    assert predict.main([str(copied), str(photos), str(photos / "notes.txt")]) == 1
    told = capsys.readouterr()
    assert set(pictures_named(told.out)) == {str(photos / name) for name in NAMES}
    *named, last = [line for line in told.err.splitlines() if not line.startswith("predicting")]
    bad = ["below/cut.jpg", "empty.gif", "notes.txt", "text.png"]
    assert sorted(line.removeprefix(f"{photos}/").split(":")[0] for line in named) == bad
    assert last == "4 of 8 pictures could not be read"
    found = as_json(capsys, copied, photos, code=1)
    assert len(found["pictures"]) == 4 and {one["reason"] for one in found["failed"]} >= {"the file is empty"}


def test_real_photos(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (TEST_DATA / "imagenet-sample").is_dir():
        pytest.skip(f"no {TEST_DATA / 'imagenet-sample'}: set ALEXNET_TEST_DATA to a folder that holds imagenet-sample")
    found = as_json(capsys, copied, TEST_DATA / "imagenet-sample")["pictures"]
    assert len(found) == len(list((TEST_DATA / "imagenet-sample").iterdir()))
    assert len({picture["top"][0]["class"] for picture in found}) > 1


def test_bad_input(copied: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, photo = str(copied), str(photos / "b.jpg")
    (photos / "empty").mkdir()
    for command, words in (
        (["nowhere", photo], "nowhere is not the folder of a run (there is no such folder)"),
        ([str(photos), photo], "has no config.yaml"),
        ([network, str(photos / "gone.jpg")], "there is no file or folder"),
        ([network, str(photos / "empty")], "no pictures in"),
        ([network, "--json", photo, photo], "does not end in .json"),
        ([network, photo, "--json", "none/found.json"], "there is no folder none"),
        (["model.safetensors", photo], "there is no file model.safetensors"),
    ):
        assert words in refused(capsys, command, module=predict)
    assert Path(photo).read_bytes() == jpeg(5, 40, 50), "a picture named behind --json is not written over"
    newest = max((copied / "checkpoints").glob("step-*"))
    alone = shutil.copytree(newest, copied.parent / "alone" / "checkpoints" / newest.name)
    told = refused(capsys, [str(alone), photo], module=predict)
    assert "outside the folder of its run" in told and "cluster.export" in told
    file = next(newest.glob("*.safetensors"))
    flip(file)
    assert file.name in refused(capsys, [network, photo], module=predict)
