"""Shards and the data set on top of them: what was written is what is read, and damage is refused."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import ipc

from configs.errors import UserError
from workers.data import shards
from workers.data.dataset import Dataset, verify_checksums
from workers.data.manifest import Manifest, SplitInfo
from workers.data.shards import ROWS_PER_BATCH, CorruptShardError, Record, Shard, ShardInfo, write_shard

SIZE = 16


def records(count: int, start: int = 0) -> list[Record]:
    """Records whose images differ in content and length; some keys are not ASCII."""
    rng = np.random.default_rng(start)
    return [
        Record(key=f"クラス/{index}", label=index % 7, image=rng.bytes(20 + int(rng.integers(200))) + b"%d" % index)
        for index in range(start, start + count)
    ]


def jpeg(seed: int, mode: str = "RGB") -> bytes:
    """A SIZE x SIZE JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_data_set(folder: Path, counts: tuple[int, ...] = (5, 1, 3)) -> Manifest:
    """A data set of real JPEGs in `len(counts)` training shards."""
    infos, start = [], 0
    for number, count in enumerate(counts):
        rows = [
            Record(key=f"image {index}", label=index, image=jpeg(index, "L" if index == 1 else "RGB"))
            for index in range(start, start + count)
        ]
        infos.append(write_shard(folder / f"train-{number:05d}-of-{len(counts):05d}.arrow", rows))
        start += count
    zeros = (0.0, 0.0, 0.0)
    manifest = Manifest(
        image_size=SIZE,
        source="a test",
        classes=tuple(str(index) for index in range(start)),
        splits={"train": SplitInfo(shards=tuple(infos), rows=start)},
        rgb_mean=zeros,
        rgb_covariance=(zeros, zeros, zeros),
        rgb_eigenvalues=zeros,
        rgb_eigenvectors=(zeros, zeros, zeros),
    )
    manifest.write(folder)
    return manifest


def flip_byte(path: Path, position: int) -> None:
    """Damage a file without changing its size."""
    with path.open("r+b") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 0x10]))


@pytest.mark.parametrize("count", [1, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH + 3])
def test_rows_come_back_as_written(tmp_path: Path, count: int) -> None:
    rows = records(count)
    info = write_shard(tmp_path / "a.arrow", iter(rows))
    shard = Shard(tmp_path / "a.arrow")
    assert len(shard) == info.rows == count
    assert shard.labels().tolist() == [row.label for row in rows]
    assert shard.labels().dtype == np.int32
    for index, row in enumerate(rows):
        shard.verify_row(index)
        assert (shard.key(index), shard.label(index)) == (row.key, row.label)
        assert shard.image(index).tobytes() == row.image


def test_images_are_views_of_the_file_and_read_only(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.arrow", records(3))
    image = Shard(tmp_path / "a.arrow").image(1)  # outlives the shard object
    assert not image.flags.owndata
    assert not image.flags.writeable
    assert image.tobytes() == records(3)[1].image


def test_a_shard_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"

    def interrupted() -> Iterator[Record]:
        yield from records(ROWS_PER_BATCH + 1)
        assert not path.exists()
        assert list(tmp_path.iterdir())  # part of it is on disk by now
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, interrupted())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no rows"):
        write_shard(path, [])
    assert not list(tmp_path.iterdir())


def test_writing_a_shard_anew_does_not_touch_one_that_is_open(tmp_path: Path) -> None:
    """A mapped file that is overwritten in place changes, or kills its readers; a replaced one does not."""
    path = tmp_path / "a.arrow"
    write_shard(path, records(5))
    before = Shard(path)
    write_shard(path, records(2, start=50))
    assert [before.image(row).tobytes() for row in range(5)] == [row.image for row in records(5)]
    assert len(Shard(path)) == 2


def test_same_rows_give_the_same_file(tmp_path: Path) -> None:
    first, second = (write_shard(tmp_path / name, records(600)) for name in ("a.arrow", "b.arrow"))
    assert first.sha256 == second.sha256
    assert write_shard(tmp_path / "c.arrow", records(600, start=1)).sha256 != first.sha256


def test_a_record_batch_holds_few_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its images are in memory at once when it is written."""
    rows = [Record(key=str(index), label=0, image=bytes([index]) * 1000) for index in range(7)]
    whole = write_shard(tmp_path / "a.arrow", rows)
    monkeypatch.setattr(shards, "BYTES_PER_BATCH", 2500)
    write_shard(tmp_path / "b.arrow", rows)
    with ipc.open_file(str(tmp_path / "b.arrow")) as file:
        assert [file.get_batch(index).num_rows for index in range(file.num_record_batches)] == [3, 3, 1]
    shard = Shard(tmp_path / "b.arrow")
    assert [shard.image(row).tobytes() for row in range(7)] == [row.image for row in rows]
    assert whole.rows == len(shard)


def test_every_flipped_byte_of_an_image_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    rows = records(3)
    write_shard(path, rows)
    start = path.read_bytes().index(rows[1].image)
    for position in range(start, start + len(rows[1].image)):
        flip_byte(path, position)
        shard = Shard(path)
        with pytest.raises(CorruptShardError, match=r"a\.arrow.* row 1 .*クラス/1.*Restore"):
            shard.verify_row(1)
        shard.verify_row(0)
        shard.verify_row(2)
        flip_byte(path, position)


def test_no_flipped_byte_anywhere_reads_outside_the_file(tmp_path: Path) -> None:
    """Offsets, metadata or padding may be hit: each row then is refused or reads as something, and nothing crashes."""
    path = tmp_path / "a.arrow"
    rows = records(3)
    write_shard(path, rows)
    refused = 0
    for position in range(path.stat().st_size):
        flip_byte(path, position)
        try:
            shard = Shard(path)
            for index in range(len(shard)):
                shard.key(index)
                shard.verify_row(index)
        except CorruptShardError:
            refused += 1
        flip_byte(path, position)
    assert refused > sum(len(row.image) for row in rows)


@pytest.mark.parametrize("column", ["key", "image"])
def test_damaged_offsets_are_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.arrow"
    rows = records(3)
    write_shard(path, rows)
    lengths = [len(row.image) if column == "image" else len(row.key.encode()) for row in rows]
    offsets = np.cumsum([0, *lengths]).astype(np.int64 if column == "image" else np.int32)
    start = path.read_bytes().index(offsets.tobytes())
    flip_byte(path, start + offsets.nbytes - 2)  # the last row now ends far behind the file's end
    with pytest.raises(CorruptShardError, match="offsets are damaged"):
        Shard(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_what_is_no_shard_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.arrow"
    write_shard(path, records(10))
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "other": b"something else" * 100}[damage])
    with pytest.raises(CorruptShardError, match=r"a\.arrow cannot be read as a shard.*Restore a\.arrow"):
        Shard(path)


def test_data_set_reads_across_shards(tmp_path: Path) -> None:
    make_data_set(tmp_path)
    dataset = Dataset(tmp_path, "train")
    assert len(dataset) == 9
    assert dataset.labels.tolist() == list(range(9))
    buffer = np.empty((SIZE, SIZE, 3), np.uint8)
    for index in (8, 0, 5, 4, 6, 1):
        dataset.decode_into(index, buffer)
        grey = index == 1
        expected = Image.open(io.BytesIO(jpeg(index, "L" if grey else "RGB"))).convert("RGB")
        # Pillow's libjpeg may differ by rounding; another image differs by far more.
        assert np.abs(buffer.astype(int) - np.asarray(expected)).max() <= 2
        assert dataset.key(index) == f"image {index}"
    for outside in (-1, 9):
        with pytest.raises(IndexError):
            dataset.key(outside)


@pytest.mark.parametrize(
    "buffer",
    [
        np.empty((SIZE + 1, SIZE, 3), np.uint8),
        np.empty((SIZE, SIZE, 3), np.int8),
        np.empty((SIZE, SIZE, 6), np.uint8)[:, :, ::2],
    ],
)
def test_wrong_buffer_is_refused(tmp_path: Path, buffer: np.ndarray) -> None:
    make_data_set(tmp_path)
    with pytest.raises(ValueError, match="buffer must be contiguous uint8"):
        Dataset(tmp_path, "train").decode_into(0, buffer)


def test_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    make_data_set(tmp_path)
    with pytest.raises(UserError, match=r"no split 'validation'; its splits: train"):
        Dataset(tmp_path, "validation")


def test_damaged_image_is_refused_by_decode_and_by_checksums(tmp_path: Path) -> None:
    manifest = make_data_set(tmp_path)
    verify_checksums(tmp_path, manifest)
    path = tmp_path / manifest.splits["train"].shards[2].file
    flip_byte(path, path.read_bytes().index(jpeg(7)) + 400)
    buffer = np.zeros((SIZE, SIZE, 3), np.uint8)
    dataset = Dataset(tmp_path, "train")
    with pytest.raises(CorruptShardError, match=r"train-00002-of-00003\.arrow.* row 1 .*'image 7'.*checksum differs"):
        dataset.decode_into(7, buffer)
    assert not buffer.any()
    dataset.decode_into(6, buffer)
    with pytest.raises(UserError, match=r"1 of 3 shards .*train-00002-of-00003\.arrow has another checksum"):
        verify_checksums(tmp_path, manifest)


def test_one_message_names_every_bad_shard(tmp_path: Path) -> None:
    manifest = make_data_set(tmp_path)
    first, second, third = (tmp_path / shard.file for shard in manifest.splits["train"].shards)
    first.unlink()
    second.write_bytes(second.read_bytes() + b"x")
    flip_byte(third, third.stat().st_size // 2)
    with pytest.raises(UserError) as caught:
        verify_checksums(tmp_path, manifest)
    message = str(caught.value)
    assert f"{first.name} is missing" in message
    assert f"{second.name} has {second.stat().st_size:,} bytes instead of" in message
    assert f"{third.name} has another checksum" in message


def test_checksum_progress_ends_at_the_total(tmp_path: Path) -> None:
    manifest = make_data_set(tmp_path)
    calls: list[tuple[int, int]] = []
    verify_checksums(tmp_path, manifest, lambda done, total: calls.append((done, total)))
    total = sum(shard.bytes for shard in manifest.splits["train"].shards)
    assert len(calls) == 3
    assert calls[-1] == (total, total)


def test_shard_with_other_rows_than_the_manifest_is_refused(tmp_path: Path) -> None:
    manifest = make_data_set(tmp_path)
    info: ShardInfo = manifest.splits["train"].shards[0]
    write_shard(tmp_path / info.file, records(2))
    with pytest.raises(CorruptShardError, match="holds 2 rows, the manifest says 5"):
        Dataset(tmp_path, "train").key(0)
