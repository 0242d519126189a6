"""Class folders and Parquet files as sources, and what one chunk becomes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from configs.errors import UserError
from tests.data.archives import read, read_all
from tests.data.pictures import jpeg
from workers.data.ingest import combine, make_shard
from workers.data.shards import Shard
from workers.data.sources import FolderSource, ParquetSource

SIZE = 8


def put(root: Path, *names: str, data: bytes | None = None) -> Path:
    """Write these files, with the folders above them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(len(path.name), SIZE) if data is None else data)
    return root


def test_train_and_validation_folders(tmp_path: Path) -> None:
    images = ("train/a/images/x.png", "train/a/y.jpg", "train/b/1.jpg", "train/b/2.JPEG", "val/b/1.jpg")
    for name in images:
        put(tmp_path, name, data=name.encode())
    strewn = (".DS_Store", "a/.DS_Store", "a/._y.jpg", ".hidden/1.jpg", "__MACOSX/a/1.jpg", "a/__MACOSX/1.jpg")
    put(tmp_path / "train", *strewn, "a/Thumbs.db", "a/Desktop.ini", "b/THUMBS.DB", "a/notes.txt")
    source = FolderSource(tmp_path)
    assert source.classes == ("a", "b")
    assert source.splits == {"train": 4, "validation": 1}
    found = read(source, "train", 3)
    assert list(found) == list(images[:4])
    assert found == {name: (name.split("/")[1] == "b", name.encode()) for name in images[:4]}
    assert read(source, "validation") == {"val/b/1.jpg": (1, b"val/b/1.jpg")}
    assert source.notes == ("left out 1 files without an image's suffix",)


def test_set_aside_images_do_not_move_when_one_is_added(tmp_path: Path) -> None:
    put(tmp_path, *(f"{'ab'[number % 2]}/{number}.jpg" for number in range(300)), data=b"x")
    before = FolderSource(tmp_path, 0.2)
    assert set(before.splits) == {"train", "validation"}
    assert sum(before.splits.values()) == 300
    assert 30 <= before.splits["validation"] <= 90
    put(tmp_path, "a/0000.jpg", data=b"x")
    after = FolderSource(tmp_path, 0.2)
    for split in before.splits:
        assert read(after, split).keys() - {"a/0000.jpg"} == read(before, split).keys()
    assert FolderSource(tmp_path, 0).splits == {"train": 301}


def test_links_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/secret.jpg")
    root = put(tmp_path / "root", "a/1.jpg", "b/1.jpg")
    (root / "a/inside.jpg").symlink_to(root / "b/1.jpg")
    (root / "a/outside.jpg").symlink_to(tmp_path / "elsewhere/secret.jpg")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    source = FolderSource(root, 0)
    assert list(read(source, "train")) == ["a/1.jpg", "a/inside.jpg", "b/1.jpg"]
    assert len(source.notes) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train").symlink_to(root)
    with pytest.raises(UserError, match="link out of"):
        FolderSource(tmp_path / "other")


def test_vanished_file_is_an_item_with_a_problem(tmp_path: Path) -> None:
    source = FolderSource(put(tmp_path, "a/1.jpg", "b/1.jpg"), 0)
    (tmp_path / "a/1.jpg").unlink()
    first, second = read_all(source, "train")
    assert "cannot be read" in first.problem
    assert second.problem == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.jpg", "b/1.jpg"], r"no folder at .*nowhere"),
        (["folder/a/no image"], r"no images below it.*CLASS"),
        (["folder/1.jpg"], "images lie in it directly"),
        (["folder/a/1.jpg", "folder/1.jpg"], r"one class only \(a\)"),
        (
            [f"folder/{name}/1.jpg" for name in ("train/a", "train/b", "val/a", "val/zebra")],
            "no training images: zebra",
        ),
    ],
)
def test_useless_folders_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        FolderSource(tmp_path / ("nowhere" if "nowhere" in message else "folder"))


def write_parquet(path: Path, count: int, names: Any = None, column: str = "image", **changes: Any) -> None:
    """Rows whose bytes say which row they are; a new row group every 7 rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": f"{path.stem} {row}".encode(), "path": None} for row in range(count)]
    columns = {column: images, "label": [row % 3 for row in range(count)], **changes}
    table = pa.table(columns)
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=7)


@pytest.mark.parametrize("rows", [1, 4, 7, 10, 100])
@pytest.mark.parametrize("folder", ["", "data"])
def test_parquet_rows_are_read_once_and_in_order(tmp_path: Path, rows: int, folder: str) -> None:
    stems = ["train-00000-of-00002", "train-00001-of-00002-abc123", "test-00000-of-00001"]
    for stem, count in zip(stems, (20, 9, 5), strict=True):
        write_parquet(tmp_path / folder / f"{stem}.parquet", count, ["x", "y", "z"], column="img")
    source = ParquetSource(tmp_path)
    assert source.classes == ("x", "y", "z")
    assert source.splits == {"train": 29, "validation": 5}
    expected = [(stem, row) for stem, count in zip(stems, (20, 9), strict=False) for row in range(count)]
    found = read(source, "train", rows)
    assert list(found) == [f"{stem}/{row}" for stem, row in expected]
    assert found == {f"{stem}/{row}": (row % 3, f"{stem} {row}".encode()) for stem, row in expected}
    assert len(list(source.chunks("train", rows))) == -(-29 // rows)


@pytest.mark.parametrize("rows", [1, 4, 10, 100])
def test_first_classes_of_parquet(tmp_path: Path, rows: int) -> None:
    """Whether classes are mixed in a file or lie one after the other; a file without any of them is none of the source's."""
    stems = [f"train-0000{number}-of-00003" for number in range(3)]
    mixed, sorted_ = [number % 4 for number in range(22)], [number // 5 for number in range(20)]
    for stem, labels in zip(stems, (mixed, sorted_, [3] * 6), strict=True):
        write_parquet(tmp_path / f"{stem}.parquet", len(labels), list("wxyz"), label=pa.array(labels, pa.int64()))
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", 8, list("wxyz"))
    source = ParquetSource(tmp_path, 2)
    assert source.classes == ("w", "x")
    expected = {
        f"{stem}/{row}": (label, f"{stem} {row}".encode())
        for stem, labels in zip(stems, (mixed, sorted_), strict=False)
        for row, label in enumerate(labels)
        if label < 2
    }
    assert source.splits["train"] == len(expected) == 12 + 10
    chunks = list(source.chunks("train", rows))
    assert [len(chunk) for chunk in chunks[:-1]] == [rows] * (len(chunks) - 1)
    assert [len(list(source.read(chunk))) for chunk in chunks] == [len(chunk) for chunk in chunks]
    found = read(source, "train", rows)
    assert found == expected and list(found) == list(expected)
    assert source.description != ParquetSource(tmp_path, 3).description
    with pytest.raises(UserError, match="has 4 classes, fewer than the 5 asked for"):
        ParquetSource(tmp_path, 5)


@pytest.mark.parametrize("names", [["validation"], ["valid"], ["val"], ["test"], ["validation", "test"]])
def test_names_of_the_validation_split(tmp_path: Path, names: list[str]) -> None:
    """Validation is preferred to test."""
    for split, count in zip(("train", *names), (9, 4, 5), strict=False):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", count)
    source = ParquetSource(tmp_path)
    assert source.splits == {"train": 9, "validation": 4}
    assert source.notes == (("left out 1 files of 'test'",) if len(names) > 1 else ())
    assert source.classes == ("0", "1", "2")


def test_imagenet_1k_of_hugging_face(tmp_path: Path) -> None:
    """Several files per split in data/, a test split whose labels are all -1, and only some of the files fetched."""
    names = [f"n{number:08d}, words" for number in range(3)]
    for split, here, whole, more in (
        ("train", 3, 294, {}), ("validation", 14, 14, {}), ("test", 2, 28, {"label": pa.array([-1] * 5, pa.int64())}),
    ):  # fmt: skip
        for number in range(here):
            write_parquet(tmp_path / f"data/{split}-{number:05d}-of-{whole:05d}.parquet", 5, names, **more)
    source = ParquetSource(tmp_path)
    assert source.splits == {"train": 15, "validation": 70}
    assert source.notes == ("left out 2 files of 'test'", "train: 3 of 294 files are here")
    assert {label for label, _ in read(source, "validation").values()} == {0, 1, 2}
    for path in tmp_path.glob("data/validation-*"):
        path.unlink()
    source = ParquetSource(tmp_path)
    assert source.splits == {"train": 15}
    assert "left out 2 files that would be the validation split: no labels in them" in source.notes


def test_single_file_is_the_training_set(tmp_path: Path) -> None:
    write_parquet(tmp_path / "photos.parquet", 9)
    assert ParquetSource(tmp_path / "photos.parquet").splits == {"train": 9}
    with pytest.raises(UserError, match=r"no training files .*photos"):
        ParquetSource(tmp_path)


def test_null_images_and_wrong_labels_are_items_with_a_problem(tmp_path: Path) -> None:
    images = [{"bytes": b"0", "path": "a"}, {"bytes": None, "path": "b"}, None, {"bytes": b"3", "path": "d"}]
    write_parquet(tmp_path / "train.parquet", 4, ["x", "y"], image=images, label=pa.array([0, 1, 1, -1], pa.int64()))
    problems = [item.problem for item in read_all(ParquetSource(tmp_path), "train")]
    assert problems[:3] == ["", "the row holds no image bytes", "the row holds no image bytes"]
    assert "its label is -1, not one of 0..1" in problems[3]


def test_useless_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.parquet"
    for damage, message in (
        (lambda: None, r"no \*\.parquet in"),
        (
            lambda: write_parquet(path, 3, column="picture"),
            r"needs an image column .*Its columns: picture: struct<.*>, label: int64",
        ),
        (lambda: write_parquet(path, 3, label=["a", "b", "c"]), r"integer column .*label: string"),
        (lambda: path.write_bytes(b"PAR1 and nothing more"), "not a whole Parquet file"),
    ):
        damage()
        with pytest.raises(UserError, match=message):
            ParquetSource(tmp_path)
    with pytest.raises(UserError, match=r"no Parquet file or folder at .*nowhere"):
        ParquetSource(tmp_path / "nowhere")


def test_statistics_equal_those_of_the_decoded_pixels(tmp_path: Path) -> None:
    """Two chunks of good images and one bad, against plain NumPy over everything the shards decode to."""
    for number in range(7):
        put(tmp_path, f"in/{'ab'[number % 2]}/{number}.jpg", data=jpeg(number, SIZE + number % 3))
    source = FolderSource(put(tmp_path / "in", "a/bad.jpg", data=jpeg(1, SIZE)[:200]), 0)
    results = [
        make_shard(source, chunk, tmp_path, f"{chunk.start}.arrow", SIZE, 95) for chunk in source.chunks("train", 5)
    ]
    assert [len(result.quarantined) for result in results] == [1, 0]
    assert results[0].quarantined[0].key == "a/bad.jpg"
    assert np.sum([result.labels for result in results], axis=0).tolist() == [4, 3]
    found = combine(results)
    assert combine(results[::-1]).rgb_covariance == found.rgb_covariance
    pixels = []
    for result in results:
        assert result.info is not None
        shard = Shard(tmp_path / result.info.file)
        pixels += [simplejpeg.decode_jpeg(shard.image(row), "RGB") for row in range(len(shard))]
    everything = np.stack(pixels).astype(np.float64)
    assert len(everything) == 7
    assert np.allclose(found.pixel_mean, everything.mean(axis=0), atol=1e-4)
    colours = everything.reshape(-1, 3)
    assert np.allclose(found.rgb_mean, colours.mean(axis=0), rtol=1e-12)
    assert np.allclose(found.rgb_covariance, np.cov(colours.T, bias=True), rtol=1e-9)
    vectors, values = np.array(found.rgb_eigenvectors), np.array(found.rgb_eigenvalues)
    assert np.all(np.diff(values) >= 0)
    assert np.allclose(vectors @ np.diag(values) @ vectors.T, found.rgb_covariance)
    assert np.all(vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0)


def test_chunk_without_a_good_image_leaves_no_file(tmp_path: Path) -> None:
    source = FolderSource(put(tmp_path / "in", "a/1.jpg", "b/1.jpg", data=b""), 0)
    (chunk,) = source.chunks("train", 10)
    result = make_shard(source, chunk, tmp_path, "x.arrow", SIZE, 95)
    assert result.info is None
    assert [image.reason for image in result.quarantined] == ["the file is empty"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
