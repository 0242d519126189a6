"""Shards: what was written is what is read, and damage is refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workers.data.shards import ROWS_PER_BATCH, CorruptShardError, Record, Shard, write_shard


def records(count: int, start: int = 0) -> list[Record]:
    """Records whose images differ in content and length; some keys are not ASCII."""
    rng = np.random.default_rng(start)
    return [
        Record(key=f"クラス/{index}", label=index % 7, image=rng.bytes(20 + int(rng.integers(200))) + b"%d" % index)
        for index in range(start, start + count)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a shard to be written."""
    return tmp_path / "a.arrow"


def flip_byte(path: Path, position: int) -> None:
    """Damage a file without changing its size."""
    with path.open("r+b") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 0x10]))


@pytest.mark.parametrize("count", [1, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH + 3])
def test_rows_come_back_as_written_as_views_that_are_read_only(path: Path, count: int) -> None:
    rows = records(count)
    info = write_shard(path, iter(rows))
    shard = Shard(path)
    assert len(shard) == info.rows == count
    assert shard.labels().tolist() == [row.label for row in rows]
    assert shard.labels().dtype == np.int32
    for index, row in enumerate(rows):
        shard.verify_row(index)
        assert (shard.key(index), shard.label(index)) == (row.key, row.label)
        assert shard.image(index).tobytes() == row.image
    image = Shard(path).image(0)  # outlives the shard object
    assert not image.flags.owndata and not image.flags.writeable
    assert image.tobytes() == rows[0].image


def test_a_shard_appears_only_when_it_is_whole(path: Path) -> None:
    def interrupted() -> Iterator[Record]:
        yield from records(ROWS_PER_BATCH + 1)
        assert not path.exists()
        assert list(path.parent.iterdir())  # part of it is on disk by now
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, interrupted())
    assert not list(path.parent.iterdir())
    with pytest.raises(ValueError, match="no rows"):
        write_shard(path, [])
    assert not list(path.parent.iterdir())


def test_every_flipped_byte_of_an_image_is_found_and_none_anywhere_reads_outside_the_file(path: Path) -> None:
    """Offsets, metadata or padding may be hit: each row then is refused or reads as something, and nothing crashes."""
    rows = records(3)
    write_shard(path, rows)
    start = path.read_bytes().index(rows[1].image)
    refused = 0
    for position in range(path.stat().st_size):
        flip_byte(path, position)
        if start <= position < start + len(rows[1].image):
            shard = Shard(path)
            with pytest.raises(CorruptShardError, match=r"a\.arrow.* row 1 .*クラス/1.*Restore"):
                shard.verify_row(1)
            shard.verify_row(0)
            shard.verify_row(2)
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
def test_damaged_offsets_are_refused(path: Path, column: str) -> None:
    rows = records(3)
    write_shard(path, rows)
    lengths = [len(row.image) if column == "image" else len(row.key.encode()) for row in rows]
    offsets = np.cumsum([0, *lengths]).astype(np.int64 if column == "image" else np.int32)
    start = path.read_bytes().index(offsets.tobytes())
    flip_byte(path, start + offsets.nbytes - 2)  # the last row now ends far behind the file's end
    with pytest.raises(CorruptShardError, match="offsets are damaged"):
        Shard(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_what_is_no_shard_is_refused_by_name(path: Path, damage: str) -> None:
    write_shard(path, records(10))
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "other": b"something else" * 100}[damage])
    with pytest.raises(CorruptShardError, match=r"a\.arrow cannot be read as a shard.*Restore a\.arrow"):
        Shard(path)
