"""Shards: files of a few thousand labelled images that any row can be read from without reading the others.

A shard is an uncompressed Arrow IPC file, memory-mapped. The kernel's page cache is the only cache, shared by all
data workers of a machine. Where each image lies in the file is kept as two int64 arrays (16 bytes a row), so reading
a row costs one slice and touches only the pages of that image.
"""

import hashlib
import mmap
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from configs.errors import UserError
from workers.data.files import whole_file

ROWS_PER_BATCH = 512
BYTES_PER_BATCH = 32 * 2**20  # of images; raw ones of 256x256 would be 100 MB otherwise
SUFFIX = ".arrow"

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("image", pa.large_binary(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)


class CorruptShardError(UserError):
    """A shard whose bytes are not those that were written."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of a shard."""

    key: str
    """Names the image in its source."""
    label: int
    """Class index."""
    image: bytes
    """JPEG that decodes to exactly size x size RGB, or these size * size * 3 bytes themselves (encoding "raw")."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """What the manifest knows about a shard."""

    file: str
    """Name inside the data set's folder."""
    rows: int
    bytes: int
    """Size of the file."""
    sha256: str
    """Of the whole file, in hex."""


def write_shard(path: Path, rows: Iterable[Record]) -> ShardInfo:
    """Write `rows` (streamed, a record batch in memory at a time) to `path`, which appears only when it is whole.

    The same rows give the same bytes. Raises ValueError if there are no rows, OSError if the disk refuses. Whatever `rows`
    raises comes through; no file is left behind then.
    """
    count = 0
    with whole_file(path) as file:
        with ipc.new_file(file, SCHEMA) as writer:
            for batch in _record_batches(rows):
                writer.write_batch(batch)
                count += batch.num_rows
        if count == 0:
            raise ValueError(f"no rows for the shard {path.name}")
    return ShardInfo(file=path.name, rows=count, bytes=path.stat().st_size, sha256=file_sha256(path))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record_batches(rows: Iterable[Record]) -> Iterator[pa.RecordBatch]:
    batch: list[Record] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += len(row.image)
        if len(batch) == ROWS_PER_BATCH or held >= BYTES_PER_BATCH:
            yield _record_batch(batch)
            batch, held = [], 0
    if batch:
        yield _record_batch(batch)


def _record_batch(rows: list[Record]) -> pa.RecordBatch:
    return pa.record_batch(
        [
            pa.array([row.key for row in rows], pa.string()),
            pa.array([row.label for row in rows], pa.int32()),
            pa.array([row.image for row in rows], pa.large_binary()),
            pa.array([zlib.crc32(row.image) for row in rows], pa.uint32()),
        ],
        schema=SCHEMA,
    )


class Shard:
    """A shard opened for reading. Views that it hands out keep the mapping alive; there is nothing to close.

    Raises CorruptShardError if the file is missing or is not a whole shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # Rows are read in random order: the default read-ahead would fetch about six times what is used.
            if hasattr(mmap, "MADV_RANDOM"):
                self._mapping.madvise(mmap.MADV_RANDOM)
            self._bytes: NDArray[np.uint8] = np.frombuffer(self._mapping, np.uint8)
            buffer = pa.py_buffer(self._mapping)
            reader = ipc.open_file(pa.BufferReader(buffer))
            if reader.schema != SCHEMA:
                raise ValueError(f"its columns are {reader.schema.names}")
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            self._index_rows(batches, buffer.address)
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = "it is missing" if isinstance(error, FileNotFoundError) else str(error)
            raise CorruptShardError(f"{path} cannot be read as a shard: {reason}. {_remedy(path)}") from None

    def _index_rows(self, batches: list[pa.RecordBatch], mapping_address: int) -> None:
        """Keep where each key and image lies, as positions in the file: NumPy needs no Arrow object per row."""
        labels, checksums, image_spans, key_spans = [], [], [], []
        for batch in batches:
            key, label, image, crc32 = batch.columns
            labels.append(_values(label, np.dtype(np.int32)))
            checksums.append(_values(crc32, np.dtype(np.uint32)))
            image_spans.append(self._spans(image, np.dtype(np.int64), mapping_address))
            key_spans.append(self._spans(key, np.dtype(np.int32), mapping_address))
            columns = (labels[-1], checksums[-1], image_spans[-1], key_spans[-1])
            if any(len(column) != batch.num_rows for column in columns):
                raise ValueError("its columns differ in length")
        self._labels: NDArray[np.int32] = np.concatenate([*labels, np.empty(0, np.int32)])
        self._labels.setflags(write=False)
        self._crc32: NDArray[np.uint32] = np.concatenate([*checksums, np.empty(0, np.uint32)])
        nothing = np.empty((0, 2), np.int64)
        self._image_spans: NDArray[np.int64] = np.concatenate([*image_spans, nothing])
        self._key_spans: NDArray[np.int64] = np.concatenate([*key_spans, nothing])

    def _spans(self, array: pa.Array, offset_type: np.dtype, mapping_address: int) -> NDArray[np.int64]:
        """[rows, 2]: the first byte of each value in the file, and the one after its last."""
        _, offsets_buffer, data = array.buffers()
        if offsets_buffer is None or data is None:
            raise ValueError("its row offsets are missing")
        offsets = np.frombuffer(offsets_buffer, offset_type)[array.offset : array.offset + len(array) + 1]
        start = data.address - mapping_address
        # Compressed batches are unpacked elsewhere in memory.
        if not 0 <= start <= len(self._bytes) - data.size:
            raise ValueError("its record batches are compressed")
        spans = np.stack([offsets[:-1], offsets[1:]], axis=1).astype(np.int64)
        # One flipped bit in an offset must not make us read outside the mapping, or another row's bytes unseen.
        if len(spans) and (spans.min() < 0 or spans.max() > data.size or (np.diff(spans) < 0).any()):
            raise ValueError("its row offsets are damaged")
        return spans + start

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self) -> NDArray[np.int32]:
        """Class indices, [rows], read-only."""
        return self._labels

    def label(self, row: int) -> int:
        """Class index of a row."""
        return int(self._labels[row])

    def key(self, row: int) -> str:
        """Name of the row's image in its source."""
        start, stop = self._key_spans[row]
        return self._bytes[start:stop].tobytes().decode("utf-8", "replace")

    def image(self, row: int) -> NDArray[np.uint8]:
        """The row's stored bytes, [bytes]: a read-only view of the mapped file, not a copy."""
        start, stop = self._image_spans[row]
        return self._bytes[start:stop]

    def crc32(self, row: int) -> int:
        """What the CRC-32 of the row's image was when it was written."""
        return int(self._crc32[row])

    def verify_row(self, row: int) -> None:
        """Compare the row's image with its checksum. Raises CorruptShardError."""
        if zlib.crc32(self.image(row).data) != self.crc32(row):
            raise CorruptShardError(
                f"{self.path}: the image in row {row} (key {self.key(row)!r}) is damaged: its checksum differs. "
                f"{_remedy(self.path)}"
            )


def _values(array: pa.Array, value_type: np.dtype) -> np.ndarray:
    """The column as a view of the mapping."""
    if array.buffers()[1] is None:
        raise ValueError("a column has no values")
    return np.frombuffer(array.buffers()[1], value_type)[array.offset : array.offset + len(array)]


def _remedy(path: Path) -> str:
    return (
        f"Restore {path.name} from a copy, or make the data set again with `python -m cluster.prepare ... --overwrite`."
    )
