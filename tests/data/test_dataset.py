"""A split as one array: rows found across shards, pixels stored raw, damage told by record. JPEGs are in test_shards.py too."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made_up import as_raw
from tests.workers import by_hand
from workers.data.dataset import CorruptRecordError, Dataset
from workers.data.manifest import Manifest, SplitInfo
from workers.data.shards import CorruptShardError, Record, write_shard

SIZE, ROWS = by_hand.SIZE, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures, of the data set made of them (in `data`), and of one with raw pixels (in `raw`)."""
    folder = tmp_path_factory.mktemp("small")
    by_hand.make_data_set(folder)
    as_raw(folder / "data", folder / "raw")
    return folder


def of_one_row(folder: Path, image: bytes, encoding: Any = "jpeg") -> Dataset:
    """A data set whose only row holds these bytes, with their right checksum."""
    info = write_shard(folder / "train-0.arrow", [Record(key="cat", label=0, image=image)])
    zeros = (0.0, 0.0, 0.0)
    manifest = Manifest(
        image_size=SIZE,
        source="a test",
        classes=("a",),
        splits={"train": SplitInfo(shards=(info,), rows=1)},
        rgb_mean=zeros,
        rgb_covariance=(zeros, zeros, zeros),
        rgb_eigenvalues=zeros,
        rgb_eigenvectors=(zeros, zeros, zeros),
    )
    return Dataset(folder, "train", dataclasses.replace(manifest, encoding=encoding))


def blank() -> np.ndarray:
    return np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("kind", ["data", "raw"])
def test_every_row_has_its_pixels_label_and_key(folder: Path, kind: str) -> None:
    dataset, buffer, scratch = Dataset(folder / kind, "train"), blank(), blank()
    pictures = sorted((folder / "pictures" / "train").rglob("*.jpg"))
    assert len(dataset) == len(pictures) == ROWS
    for row, path in enumerate(pictures):
        expected = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        dataset.decode_into(row, buffer)
        np.testing.assert_array_equal(buffer, expected)
        np.testing.assert_array_equal(dataset.pixels(row, scratch), expected)
        assert dataset.label(row) == dataset.labels[row] == row // 15
        assert dataset.key(row) == path.relative_to(folder / "pictures").as_posix()


def test_raw_pixels_are_views_and_jpegs_fill_the_scratch(folder: Path) -> None:
    scratch = blank()
    raw = Dataset(folder / "raw", "train").pixels(3, scratch)
    assert not scratch.any() and not raw.flags.owndata and not raw.flags.writeable
    assert Dataset(folder / "data", "train").pixels(3, scratch) is scratch


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_rows_are_found_in_shards_of_any_length(lengths: list[int], data: st.DataObject) -> None:
    """By arithmetic alone; no file is opened."""
    where = [(shard, row) for shard, length in enumerate(lengths) for row in range(length)]
    dataset = Dataset.__new__(Dataset)
    dataset._first_rows = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    index = data.draw(st.integers(0, len(where) - 1))
    number = dataset._number(index)
    assert (number, index - dataset._first_rows[number]) == where[index]
    for outside in (-1, len(where)):
        with pytest.raises(IndexError, match=f"row {outside} of {len(where)}"):
            dataset._number(outside)


def test_shards_of_these_rows_come_first(folder: Path) -> None:
    dataset = Dataset(folder / "data", "train")
    names = [shard.file for shard in dataset.shards_of([17, 16, 25, 23])]
    assert names == ["train-2.arrow", "train-3.arrow", "train-0.arrow", "train-1.arrow"]
    assert not any(dataset._shards), "nothing is opened to know that"


def test_a_shard_is_fetched_once_before_it_is_opened(folder: Path) -> None:
    fetched: list[str] = []
    dataset = Dataset(folder / "data", "train", fetch=lambda shard: fetched.append(shard.file))
    for row in (29, 0, 28, 1):
        dataset.key(row)
    assert fetched == ["train-3.arrow", "train-0.arrow"]

    def fails(shard: object) -> None:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        Dataset(folder / "data", "train", fetch=fails).key(0)


def test_announcing_rows_changes_nothing(folder: Path) -> None:
    dataset, buffer = Dataset(folder / "data", "train"), blank()
    dataset.will_need(range(ROWS))  # pages at the very start and end of each file too
    dataset.decode_into(ROWS - 1, buffer)
    assert buffer.any()


@pytest.mark.parametrize(
    ("image", "encoding", "reason"),
    [
        (b"no JPEG", "jpeg", r"it cannot be decoded \(.*\)"),
        (simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)), "jpeg", "it is 8x8 pixels"),
        (bytes(SIZE * SIZE * 3 - 1), "raw", "it has 4,799 bytes instead of 4,800"),
        (bytes(SIZE * SIZE * 3 + 1), "raw", "it has 4,801 bytes instead of 4,800"),
    ],
)
def test_a_record_of_another_kind_is_refused(tmp_path: Path, image: bytes, encoding: str, reason: str) -> None:
    dataset = of_one_row(tmp_path, image, encoding)
    for read in (dataset.pixels, dataset.decode_into):
        with pytest.raises(
            CorruptRecordError, match=rf"train-0\.arrow: the image in row 0 \(key 'cat'\) .*: {reason}\. R"
        ):
            read(0, blank())


@pytest.mark.parametrize("kind", ["data", "raw"])
def test_every_flipped_bit_of_an_image_is_found_before_it_is_used(folder: Path, tmp_path: Path, kind: str) -> None:
    """Damaged JPEGs often decode to something."""
    path = tmp_path / "train-0.arrow"
    good = Dataset(folder / kind, "train")
    image = good.jpeg(5).tobytes()
    dataset = of_one_row(tmp_path, image, "raw" if kind == "raw" else "jpeg")
    stored = path.read_bytes()
    start = stored.index(image)
    for bit in np.random.default_rng(0).integers(0, 8 * len(image), 50).tolist():
        damaged = bytearray(stored)
        damaged[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        dataset._shards = [None]
        buffer = blank()
        with pytest.raises(CorruptRecordError, match="its checksum differs"):
            dataset.decode_into(0, buffer)
        assert not buffer.any()


def test_the_error_keeps_its_parts_on_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CorruptRecordError("data/train-0.arrow", 3, "cat", "it is 8x8 pixels")))
    assert isinstance(error, CorruptRecordError)
    assert (error.file, error.row, error.key, error.reason) == ("data/train-0.arrow", 3, "cat", "it is 8x8 pixels")
    assert str(error).startswith(
        "data/train-0.arrow: the image in row 3 (key 'cat') is damaged: it is 8x8 pixels. Restore"
    )


def test_wrong_buffers_are_refused_for_raw_pixels_too(folder: Path) -> None:
    buffers: tuple[np.ndarray, ...] = (
        np.zeros((SIZE, SIZE, 4), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.int8),
        blank()[::-1],
    )
    for buffer in buffers:
        with pytest.raises(ValueError, match="buffer must be contiguous uint8"):
            Dataset(folder / "raw", "train").decode_into(0, buffer)


def test_a_shard_of_other_rows_than_the_manifest_s_is_no_record_s_fault(tmp_path: Path) -> None:
    dataset = of_one_row(tmp_path, b"x")
    write_shard(tmp_path / "train-0.arrow", [Record(key="cat", label=0, image=b"x")] * 2)
    with pytest.raises(CorruptShardError, match="holds 2 rows, the manifest says 1") as caught:
        dataset.key(0)
    assert not isinstance(caught.value, CorruptRecordError)
