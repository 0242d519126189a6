"""What every source hands out: images, and the chunks in which they are read."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SourceItem:
    """One image as it lies in the source."""

    key: str
    """Unique within its split."""
    label: int
    data: bytes
    """The picture file; empty if there is a problem."""
    problem: str = ""
    """Why the image could not be read, if it could not."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A contiguous range of the images of one split: what becomes one shard."""

    split: str
    start: int
    """First image, counted within the split."""
    stop: int
    """One past the last."""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class RangesChunk(Chunk):
    """A chunk of files that hold many images each."""

    ranges: tuple[tuple[str, int, int], ...]
    """(file, first row, one past the last)."""


def cut(split: str, files: Sequence[tuple[str, int]], rows: int) -> Iterator[RangesChunk]:
    """Cut (file, rows in it) into chunks of `rows` images; a chunk may span files, and the last may be shorter."""
    total = sum(count for _, count in files)
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        ranges, file_start = [], 0
        for name, count in files:
            first, last = max(start, file_start), min(stop, file_start + count)
            if first < last:
                ranges.append((name, first - file_start, last - file_start))
            file_start += count
        yield RangesChunk(split=split, start=start, stop=stop, ranges=tuple(ranges))


@dataclass(frozen=True, kw_only=True)
class PackedChunk(Chunk):
    """A chunk of an archive. Packed, because the driver holds the chunks of a million images at once."""

    keys: str
    """One per line."""
    table: bytes
    """int64 [images, columns]: what the source needs to find each image, and its label."""

    def rows(self) -> Iterator[tuple[str, list[int]]]:
        """(key, columns) of each image."""
        table = np.frombuffer(self.table, np.int64).reshape(len(self), -1)
        return zip(self.keys.split("\n"), table.tolist(), strict=True)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one split in order."""

    keys: Sequence[str]
    """Without line breaks."""
    table: NDArray[np.int64]
    """[images, columns]."""

    def __len__(self) -> int:
        return len(self.keys)

    def chunks(self, split: str, rows: int) -> Iterator[PackedChunk]:
        """Cut into ranges of `rows` images; the last may be shorter."""
        for start in range(0, len(self), rows):
            part = slice(start, min(start + rows, len(self)))
            keys = "\n".join(self.keys[part])
            yield PackedChunk(split=split, start=start, stop=part.stop, keys=keys, table=self.table[part].tobytes())


def stamp_of(paths: Iterable[Path]) -> str:
    """SHA-256, in hex, of the files' sizes and times of change: another one where a file was replaced."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"missing\n")
    return digest.hexdigest()
