"""`prepare verify` and `prepare stats`: what they find, what they say, and with which exit code."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.inspection import show_stats, verify_dataset
from configs.errors import UserError
from configs.loader import load
from tests.data.pictures import draw_folders
from workers.data.data_worker import DataWorker
from workers.data.dataset import Dataset
from workers.data.ingest import combine, make_shard
from workers.data.manifest import Encoding, Manifest, Quarantined, SplitInfo
from workers.data.order import Order
from workers.data.shards import Record, Shard, write_shard
from workers.data.sources import FolderSource
from workers.program import Request

SIZE = 24
TRAIN = ("train-00000-of-00002.arrow", "train-00001-of-00002.arrow")


def make(folder: Path, encoding: Encoding = "jpeg", size: int = SIZE) -> Manifest:
    """Two shards of 11 training images, 20 of class a before 2 of class b, one of 6 for validation."""
    root = draw_folders(folder / "in", per_class=20, size=size)
    for path in sorted((root / "train/b").iterdir())[2:]:
        path.unlink()
    source, out = FolderSource(root), folder / "out"
    out.mkdir()
    results = {
        split: [
            make_shard(
                source,
                chunk,
                out,
                f"{split}-{n:05d}-of-{2 if split == 'train' else 1:05d}.arrow",
                size,
                95,
                encoding=encoding,
            )
            for n, chunk in enumerate(source.chunks(split, 11))
        ]
        for split in source.splits
    }
    found = dataclasses.asdict(combine(results["train"]))
    np.save(out / "mean.npy", found.pop("pixel_mean"))
    splits = {}
    for split, made in results.items():
        infos = tuple(result.info for result in made if result.info)
        splits[split] = SplitInfo(shards=infos, rows=sum(info.rows for info in infos))
    reasons = ("cannot be decoded: 17 bytes missing", "cannot be decoded: 2048 bytes missing", "the file is empty")
    manifest = Manifest(
        image_size=size,
        encoding=encoding,
        source="class folders",
        classes=source.classes,
        splits=splits,
        quarantined=tuple(Quarantined(split="train", key=str(n), reason=reason) for n, reason in enumerate(reasons)),
        **found,
    )
    manifest.write(out)
    return manifest


def span(path: Path, row: int) -> slice:
    """Where the row's image lies in the file."""
    shard = Shard(path)
    start = path.read_bytes().index(shard.image(row).tobytes())
    return slice(start, start + len(shard.image(row)))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path, name: str, change: Callable[[int, Record], Record]) -> None:
    """The shard with other rows, and a manifest that agrees: what no checksum can find."""
    shard = Shard(folder / name)
    rows = [Record(key=shard.key(r), label=shard.label(r), image=shard.image(r).tobytes()) for r in range(len(shard))]
    info = write_shard(folder / name, [change(index, row) for index, row in enumerate(rows)])
    manifest = Manifest.load(folder)
    train = manifest.splits["train"]
    shards = tuple(info if shard.file == name else shard for shard in train.shards)
    dataclasses.replace(manifest, splits={**manifest.splits, "train": dataclasses.replace(train, shards=shards)}).write(
        folder
    )


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_data_set(
    tmp_path: Path, encoding: Encoding, decode: bool, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = make(tmp_path, encoding)
    assert verify_dataset(tmp_path / "out", decode=decode, workers=workers) == 0
    told = capsys.readouterr().out
    assert f"is whole: 28 images in 3 shards, {'decoded' if decode else 'not decoded'}" in told
    assert manifest.fingerprint in told


def test_every_damage_is_named_by_shard_and_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    out = tmp_path / "out"
    for row in (3, 7):
        flip(out / TRAIN[0], span(out / TRAIN[0], row).start + 100)
    (out / TRAIN[1]).unlink()
    (out / "validation-00000-of-00001.arrow").write_bytes(b"something else")
    assert verify_dataset(out, workers=1) == 1
    told = capsys.readouterr().out
    assert f"{out} is damaged (11 images in 3 shards, decoded):" in told
    assert f"{TRAIN[0]}: its SHA-256 is not the one in the manifest" in told
    for row in (3, 7):
        assert f"{TRAIN[0]}: row {row} (key 'train/a/{row:03d}.jpg'): its checksum differs" in told
    assert f"{TRAIN[1]}: it is missing" in told
    assert "validation-00000-of-00001.arrow: it has 14 bytes instead of" in told
    assert told.count(" row ") == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: dataclasses.replace(row, label=2), "its label is 2, not one of 0..1"),
        (lambda row: dataclasses.replace(row, label=-1), "its label is -1, not one of 0..1"),
        (lambda row: dataclasses.replace(row, image=row.image[:-40] + b"\xff\xd9"), "it does not decode: "),
        (lambda row: dataclasses.replace(row, image=b"no picture"), "it does not decode: "),
        (lambda row: dataclasses.replace(row, image=small()), "it is 8x8 pixels"),
    ],
)
def test_rows_that_agree_with_their_checksums_may_be_wrong(
    tmp_path: Path, change: Callable[[Record], Record], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path)
    rewrite(tmp_path / "out", TRAIN[0], lambda index, row: change(row) if index == 5 else row)
    assert verify_dataset(tmp_path / "out", workers=1) == 1
    assert f"{TRAIN[0]}: row 5 (key 'train/a/005.jpg'): {told}" in capsys.readouterr().out


def small() -> bytes:
    import simplejpeg

    encoded: bytes = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    return encoded


def test_raw_rows_have_a_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, "raw")
    rewrite(tmp_path / "out", TRAIN[0], lambda index, row: dataclasses.replace(row, image=row.image[index % 2 :]))
    assert verify_dataset(tmp_path / "out", workers=1) == 1
    assert "row 1 (key 'train/a/001.jpg'): it has 1,727 bytes instead of 1,728" in capsys.readouterr().out


def test_statistics_must_be_those_of_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make(tmp_path)
    out = tmp_path / "out"
    mean = np.load(out / "mean.npy")
    # The average stays, so that only decoding every image can tell.
    np.save(out / "mean.npy", mean[::-1])
    assert verify_dataset(out, workers=1) == 1
    assert "mean.npy: up to " in capsys.readouterr().out
    assert verify_dataset(out, decode=False, workers=1) == 0
    np.save(out / "mean.npy", mean + 3)
    assert verify_dataset(out, decode=False, workers=1) == 1
    assert "its average is not the rgb_mean" in capsys.readouterr().out
    np.save(out / "mean.npy", mean)
    covariance = np.array(manifest.rgb_covariance)
    dataclasses.replace(manifest, rgb_covariance=(covariance * 2).tolist()).write(out)
    assert verify_dataset(out, workers=1) == 1
    told = capsys.readouterr().out
    assert "rgb_eigenvectors are not those of rgb_covariance" in told
    assert "rgb_covariance is not that of the training images" in told


def test_no_data_set_is_another_code_than_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_dataset(tmp_path / "nowhere") == 2
    assert verify_dataset(tmp_path) == 2
    make(tmp_path)
    path = tmp_path / "out/manifest.json"
    path.write_text(path.read_text().replace('"rows": 22', '"rows": 23'))
    assert verify_dataset(tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 3
    assert "do not add up to 23" in printed.err
    assert printed.out == ""


def stats(folder: Path, **changes: Any) -> int:
    settings: dict[str, Any] = {"sheet": None, "config": None, "samples": 2, "as_json": False}
    return show_stats(folder, **{**settings, **changes})


def test_stats_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make(tmp_path)
    assert stats(tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "train        22 images in 2 shards" in told
    assert "min 2 (b), median 11, max 20 (a); the largest is 10.00 times the smallest" in told
    assert "validation   6 images in 1 shards" in told
    assert (
        "left out     3 images\n          2  cannot be decoded: N bytes missing\n          1  the file is empty" in told
    )
    assert f"mean       {manifest.rgb_mean[0]:.2f}" in told
    assert manifest.fingerprint in told


def test_stats_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make(tmp_path)
    assert stats(tmp_path / "out", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"]["counts"] == {"a": 20, "b": 2}
    assert found["splits"]["validation"]["per_class"]["min"] == 3
    assert found["quarantined"] == {"cannot be decoded: N bytes missing": 2, "the file is empty": 1}
    assert np.allclose(found["rgb_covariance"], manifest.rgb_covariance)
    with pytest.raises(UserError, match="there is no such folder"):
        stats(tmp_path / "nowhere")


@pytest.mark.parametrize("mean", ["centre", "position", "channel"])
def test_the_sheet_shows_what_data_workers_make(tmp_path: Path, mean: str) -> None:
    """Without colour noise, what is shown is the data worker's crop, mirrored where its batch says so."""
    manifest = make(tmp_path, "raw", size=40)
    out, sheet, crop = tmp_path / "out", tmp_path / "sheet.png", 32
    config = tmp_path / "plain.yaml"
    config.write_text(
        f"base: demo.yaml\ndata: {{path: {out}, drawn_pictures: null}}\naugment: {{colour_noise: null, mean: {mean}}}\n"
    )
    assert stats(out, sheet=sheet, config=str(config), samples=3) == 0
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


def test_a_sheet_of_small_images_says_what_it_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    sheet = tmp_path / "sheet.png"
    assert stats(tmp_path / "out", sheet=sheet, samples=50) == 0
    told = capsys.readouterr().err
    assert f"crops of 224 do not fit into the stored {SIZE}x{SIZE}; the sheet has crops of {SIZE * 7 // 8}" in told
    assert "33 crop positions do not fit; the sheet takes all that do" in told
    drawn = Image.open(sheet)
    assert drawn.size == (8 + SIZE + 8 + 6 * (SIZE * 7 // 8 + 8), 2 * 28 + 22 * (SIZE + 28))
    with pytest.raises(UserError, match="cannot write"):
        stats(tmp_path / "out", sheet=tmp_path / "nowhere/sheet.png")
