"""A split as one array: rows found across shards, pixels stored raw, damage told by record, and the check of whole files."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from configs.errors import UserError
from tests.cluster.runs import flip
from tests.data.made_up import manifest
from tests.data.pictures import encode, jpeg
from tests.data.test_journal import finish
from tests.workers import by_hand
from workers.data.dataset import CorruptRecordError, Dataset, verify_checksums
from workers.data.journal import Settings
from workers.data.manifest import Manifest
from workers.data.shards import CorruptShardError, Record, write_shard
from workers.data.sources import FolderSource

SIZE, ROWS = by_hand.SIZE, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures, of the data set made of them (in `data`), and of one with raw pixels (in `raw`)."""
    folder = tmp_path_factory.mktemp("small")
    by_hand.make_data_set(folder)
    raw = Settings(size=SIZE, quality=95, shard_rows=7, encoding="raw", apply_orientation=False)
    finish(FolderSource(folder / "pictures"), folder / "raw", raw)
    return folder


def of_one_row(folder: Path, image: bytes, encoding: str = "jpeg") -> Dataset:
    """A data set whose only row holds these bytes, with their right checksum."""
    info = write_shard(folder / "train-0.arrow", [Record(key="cat", label=0, image=image)])
    return Dataset(folder, "train", manifest(SIZE, [info], encoding=encoding))


def blank() -> np.ndarray:
    return np.zeros((SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("kind", ["data", "raw"])
def test_every_row_has_its_pixels_label_and_key(folder: Path, kind: str) -> None:
    dataset, buffer, scratch = Dataset(folder / kind, "train"), blank(), blank()
    dataset.will_need(range(ROWS))  # announcing changes nothing, pages at the very start and end of each file included
    pictures = sorted((folder / "pictures" / "train").rglob("*.jpg"))
    assert len(dataset) == len(pictures) == ROWS
    for row, path in enumerate(pictures):
        expected = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        dataset.decode_into(row, buffer)
        np.testing.assert_array_equal(buffer, expected)
        np.testing.assert_array_equal(dataset.pixels(row, scratch), expected)
        assert dataset.label(row) == dataset.labels[row] == row // 15
        assert dataset.key(row) == path.relative_to(folder / "pictures").as_posix()


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey, buffer = Image.open(io.BytesIO(jpeg(1, SIZE, SIZE))).convert("L"), blank()
    of_one_row(tmp_path, stored := encode(grey, quality=90)).decode_into(0, buffer)
    # Pillow's libjpeg may differ by rounding; another image differs by far more.
    assert np.abs(buffer.astype(int) - np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))).max() <= 2


@pytest.mark.parametrize("lengths", [(1,), (5, 1, 3), (1, 1, 1, 6, 2)])
def test_rows_are_found_in_shards_of_any_length(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    where = [[(shard, row) for row in range(length)] for shard, length in enumerate(lengths)]
    infos = [
        write_shard(tmp_path / f"{n}.arrow", [Record(key=str(at), label=n, image=repr(at).encode()) for at in rows])
        for n, rows in enumerate(where)
    ]
    dataset, everywhere = Dataset(tmp_path, "train", manifest(SIZE, infos)), [at for rows in where for at in rows]
    assert [(dataset.key(row), dataset.jpeg(row).tobytes().decode()) for row in range(len(dataset))] == [
        (str(at), repr(at)) for at in everywhere
    ]
    assert dataset.labels.tolist() == [shard for shard, _ in everywhere]
    for outside in (-1, len(everywhere)):
        with pytest.raises(IndexError, match=f"row {outside} of {len(everywhere)}"):
            dataset.key(outside)


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
    said = rf"train-0\.arrow: the image in row 0 \(key 'cat'\) .*: {reason}\. R"
    for read in (dataset.pixels, dataset.decode_into):
        with pytest.raises(CorruptRecordError, match=said):
            read(0, blank())


@pytest.mark.parametrize("kind", ["data", "raw"])
def test_every_flipped_bit_of_an_image_is_found_before_it_is_used(folder: Path, tmp_path: Path, kind: str) -> None:
    """Damaged JPEGs often decode to something."""
    path = tmp_path / "train-0.arrow"
    image = Dataset(folder / kind, "train").jpeg(5).tobytes()
    written = of_one_row(tmp_path, image, "raw" if kind == "raw" else "jpeg").manifest
    stored = path.read_bytes()
    start = stored.index(image)
    for bit in np.random.default_rng(0).integers(0, 8 * len(image), 50).tolist():
        damaged = bytearray(stored)
        damaged[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        buffer = blank()
        with pytest.raises(CorruptRecordError, match="its checksum differs"):
            Dataset(tmp_path, "train", written).decode_into(0, buffer)
        assert not buffer.any()


def test_wrong_buffers_are_refused(folder: Path) -> None:
    shapes = ((SIZE, SIZE, 4), np.uint8), ((SIZE, SIZE, 3), np.int8), ((SIZE + 1, SIZE, 3), np.uint8)
    wrong: list[Any] = [np.zeros(shape, kind) for shape, kind in shapes]
    wrong += [blank()[::-1], np.zeros((SIZE, SIZE, 6), np.uint8)[:, :, ::2]]
    for kind in ("data", "raw"):
        for buffer in wrong:
            with pytest.raises(ValueError, match="buffer must be contiguous uint8"):
                Dataset(folder / kind, "train").decode_into(0, buffer)


def test_a_shard_of_other_rows_than_the_manifest_s_is_no_record_s_fault(tmp_path: Path) -> None:
    dataset = of_one_row(tmp_path, b"x")
    write_shard(tmp_path / "train-0.arrow", [Record(key="cat", label=0, image=b"x")] * 2)
    with pytest.raises(CorruptShardError, match="holds 2 rows, the manifest says 1") as caught:
        dataset.key(0)
    assert not isinstance(caught.value, CorruptRecordError)


def test_unknown_split_names_those_there_are(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'test'; its splits: train, validation"):
        Dataset(folder / "data", "test")


def test_checksums_name_every_bad_shard(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path, dirs_exist_ok=True)
    written, calls = Manifest.load(tmp_path), list[tuple[int, int]]()
    verify_checksums(tmp_path, written, lambda *progress: calls.append(progress))
    total = sum(shard.bytes for split in written.splits.values() for shard in split.shards)
    assert len(calls) == 6 and calls[-1] == (total, total)

    third, second, first = (tmp_path / f"train-{number}.arrow" for number in (2, 1, 0))
    flip(third)
    first.unlink()
    second.write_bytes(second.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"^3 of 6 shards") as caught:
        verify_checksums(tmp_path, written)
    message = str(caught.value)
    assert f"{first.name} is missing" in message
    assert f"{second.name} has {second.stat().st_size:,} bytes instead of" in message
    assert f"{third.name} has another checksum" in message
