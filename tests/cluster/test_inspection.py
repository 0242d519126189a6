"""`prepare verify` and `prepare stats`: what they find, what they say, and with which exit code."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from cluster.prepare import main
from configs.loader import load
from tests.data.pictures import draw_folders
from tests.data.test_journal import finish
from workers.data.data_worker import DataWorker
from workers.data.dataset import Dataset
from workers.data.journal import Settings
from workers.data.manifest import Encoding, Manifest, Quarantined
from workers.data.order import Order
from workers.data.shards import Record, Shard, write_shard
from workers.data.sources import FolderSource
from workers.program import Request

SIZE = 24
Change = Callable[[Record], dict[str, Any]]
TRAIN = ("train-00000-of-00002.arrow", "train-00001-of-00002.arrow")


def make(folder: Path, encoding: Encoding = "jpeg", size: int = SIZE) -> Manifest:
    """Two shards of 11 training images, 20 of class a before 2 of class b, one of 6 for validation."""
    root, out = draw_folders(folder / "in", per_class=20, size=size), folder / "out"
    for path in sorted((root / "train/b").iterdir())[2:]:
        path.unlink()
    settings = Settings(size=size, quality=95, shard_rows=11, encoding=encoding, apply_orientation=False)
    finish(FolderSource(root), out, settings)
    reasons = ("cannot be decoded: 17 bytes missing", "cannot be decoded: 2048 bytes missing", "the file is empty")
    bad = tuple(Quarantined(split="train", key=str(n), reason=reason) for n, reason in enumerate(reasons))
    dataclasses.replace(Manifest.load(out), quarantined=bad).write(out)
    return Manifest.load(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    make(tmp_path)
    return tmp_path / "out"


def flip(path: Path, row: int) -> None:
    """A bit of the row's image in the file."""
    data = bytearray(path.read_bytes())
    data[data.index(Shard(path).image(row).tobytes()) + 100] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path, name: str, at: int, change: Change) -> None:
    """The shard with another row, and a manifest that agrees: what no checksum can find."""
    shard = Shard(folder / name)
    rows = [Record(key=shard.key(r), label=shard.label(r), image=shard.image(r).tobytes()) for r in range(len(shard))]
    rows[at] = dataclasses.replace(rows[at], **change(rows[at]))
    info = write_shard(folder / name, rows)
    manifest = Manifest.load(folder)
    train = manifest.splits["train"]
    shards = tuple(info if one.file == name else one for one in train.shards)
    splits = {**manifest.splits, "train": dataclasses.replace(train, shards=shards)}
    dataclasses.replace(manifest, splits=splits).write(folder)


def verify(folder: Path, *options: str, workers: int = 1) -> int:
    return main(["verify", str(folder), "--workers", str(workers), *options])


def stats(folder: Path, *options: str | Path) -> int:
    return main(["stats", str(folder), *map(str, options)])


@pytest.mark.parametrize(("encoding", "decode", "workers"), [("jpeg", True, 2), ("jpeg", False, 1), ("raw", True, 1)])
def test_a_whole_data_set(
    tmp_path: Path, encoding: Encoding, decode: bool, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make(tmp_path, encoding)
    assert verify(tmp_path / "out", *([] if decode else ["--no-decode"]), workers=workers) == 0
    told = capsys.readouterr().out
    assert f"is whole: 28 images in 3 shards, {'decoded' if decode else 'not decoded'}" in told
    assert manifest.fingerprint in told


def test_every_damage_is_named_by_shard_and_row(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in (3, 7):
        flip(out / TRAIN[0], row)
    (out / TRAIN[1]).unlink()
    (out / "validation-00000-of-00002.arrow").write_bytes(b"something else")
    assert verify(out) == 1
    told = capsys.readouterr().out
    rows = [f"{TRAIN[0]}: row {row} (key 'train/a/00{row}.jpg'): its checksum differs" for row in (3, 7)]
    whole = [f"{TRAIN[0]}: its SHA-256 is not the one in the manifest", f"{TRAIN[1]}: it is missing"]
    whole += [f"{out} is damaged (11 images in 3 shards, decoded):", "00000-of-00002.arrow: it has 14 bytes instead of"]
    assert all(words in told for words in (*rows, *whole))
    assert told.count(" row ") == 2


TINY: bytes = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("encoding", "change", "told"),
    [
        ("jpeg", lambda row: {"label": 2}, "its label is 2, not one of 0..1"),
        ("jpeg", lambda row: {"label": -1}, "its label is -1, not one of 0..1"),
        ("jpeg", lambda row: {"image": row.image[:-40] + b"\xff\xd9"}, "it does not decode: "),
        ("jpeg", lambda row: {"image": b"no picture"}, "it does not decode: "),
        ("jpeg", lambda row: {"image": TINY}, "it is 8x8 pixels"),
        ("raw", lambda row: {"image": row.image[1:]}, "it has 1,727 bytes instead of 1,728"),
    ],
)
def test_rows_that_agree_with_their_checksums_may_be_wrong(
    tmp_path: Path, encoding: Encoding, change: Change, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, encoding)
    rewrite(tmp_path / "out", TRAIN[0], 5, change)
    assert verify(tmp_path / "out") == 1
    assert f"{TRAIN[0]}: row 5 (key 'train/a/005.jpg'): {told}" in capsys.readouterr().out


def test_statistics_must_be_those_of_the_images(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, mean = Manifest.load(out), np.load(out / "mean.npy")
    # The average stays, so that only decoding every image can tell.
    np.save(out / "mean.npy", mean[::-1])
    assert verify(out) == 1
    assert "mean.npy: up to " in capsys.readouterr().out
    assert verify(out, "--no-decode") == 0
    np.save(out / "mean.npy", mean + 3)
    assert verify(out, "--no-decode") == 1
    assert "its average is not the rgb_mean" in capsys.readouterr().out
    np.save(out / "mean.npy", mean)
    covariance = np.array(manifest.rgb_covariance)
    dataclasses.replace(manifest, rgb_covariance=(covariance * 2).tolist()).write(out)
    assert verify(out) == 1
    told = capsys.readouterr().out
    assert "rgb_eigenvectors are not those of rgb_covariance" in told
    assert "rgb_covariance is not that of the training images" in told


def test_no_data_set_is_another_code_than_a_damaged_one(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(out / "nowhere") == verify(out.parent) == 2
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 22', '"rows": 23'))
    assert verify(out) == 1
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 3 and "do not add up to 23" in printed.err and printed.out == ""


def test_stats_in_words_and_as_json(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.load(out)
    assert stats(out) == 0
    told = capsys.readouterr().out
    for words in (
        "train        22 images in 2 shards", "validation   6 images in 1 shards",
        "min 2 (b), median 11, max 20 (a); the largest is 10.00 times the smallest",
        "left out     3 images\n          2  cannot be decoded: N bytes missing\n          1  the file is empty",
        f"mean       {manifest.rgb_mean[0]:.2f}", manifest.fingerprint,
    ):  # fmt: skip
        assert words in told
    assert stats(out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["counts"] == {"a": 20, "b": 2}
    assert found["splits"]["validation"]["per_class"]["min"] == 3
    assert found["quarantined"] == {"cannot be decoded: N bytes missing": 2, "the file is empty": 1}
    assert np.allclose(found["rgb_covariance"], manifest.rgb_covariance)
    assert stats(out / "nowhere") == 2
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("mean", ["centre", "position", "channel"])
def test_the_sheet_shows_what_data_workers_make(tmp_path: Path, mean: str) -> None:
    """Without colour noise, what is shown is the data worker's crop, mirrored where its batch says so."""
    manifest = make(tmp_path, "raw", size=40)
    out, sheet, crop = tmp_path / "out", tmp_path / "sheet.png", 32
    config = tmp_path / "plain.yaml"
    config.write_text(
        f"base: demo.yaml\ndata: {{path: {out}, drawn_pictures: null}}\naugment: {{colour_noise: null, mean: {mean}}}\n"
    )
    assert stats(out, "--sheet", sheet, "--config", config, "--samples", "3") == 0
    settings = load(config)
    rows = manifest.splits["train"].rows
    batch = DataWorker(settings, "worker").batch(Request(split="train", start=0, count=6 * rows))
    _, _, shown = Order(settings.train.seed, rows).at(np.arange(6 * rows))
    drawn = np.asarray(Image.open(sheet)).astype(int)
    dataset, stored = Dataset(out, "train"), np.empty((40, 40, 3), np.uint8)
    for number in range(3):
        top = 2 * 28 + number * (40 + 28)
        dataset.decode_into(int(shown[number]), stored)
        assert np.array_equal(drawn[top : top + 40, 8:48], stored)
        uses = np.flatnonzero(shown == shown[number])
        assert len(uses) == 6
        for epoch, use in enumerate(uses):
            left = 56 + epoch * (crop + 8)
            expected = batch["images"][use][:, :: -1 if batch["mirror"][use] else 1]
            seen = drawn[top : top + crop, left : left + crop]
            assert np.abs(seen - expected).max() <= 1, f"image {number}, epoch {epoch}"


def test_a_sheet_of_small_images_says_what_it_changed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = out / "sheet.png"
    assert stats(out, "--sheet", sheet, "--samples", "50") == 0
    told = capsys.readouterr().err
    assert f"crops of 224 do not fit into the stored {SIZE}x{SIZE}; the sheet has crops of {SIZE * 7 // 8}" in told
    assert "33 crop positions do not fit; the sheet takes all that do" in told
    drawn = Image.open(sheet)
    assert drawn.size == (8 + SIZE + 8 + 6 * (SIZE * 7 // 8 + 8), 2 * 28 + 22 * (SIZE + 28))
    assert stats(out, "--sheet", out / "nowhere/sheet.png") == 2
    assert "nowhere/sheet.png cannot be written: there is no folder" in capsys.readouterr().err
