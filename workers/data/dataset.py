"""A split of a prepared data set as one long array of images, and the check that its files are whole."""

import bisect
import itertools
import mmap
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from configs.errors import UserError
from workers.data.manifest import Manifest
from workers.data.shards import CorruptShardError, Shard, ShardInfo, file_sha256

CHECKSUM_THREADS = 4


class CorruptRecordError(CorruptShardError):
    """An image whose stored bytes are not those that were written, in a shard that can be read otherwise."""

    # Exceptions travel between processes as their arguments, which must therefore be these.
    def __init__(self, file: str, row: int, key: str, reason: str) -> None:
        super().__init__(file, row, key, reason)
        self.file, self.row, self.key, self.reason = file, row, key, reason

    def __str__(self) -> str:
        return (
            f"{self.file}: the image in row {self.row} (key {self.key!r}) is damaged: {self.reason}. Restore "
            f"{Path(self.file).name} from a copy, or make the data set again with `python -m cluster.prepare ... "
            "--overwrite`."
        )


class _Shard(Shard):
    """A shard whose rows can be announced before they are read."""

    def will_need(self, row: int) -> None:
        """Begin to read the row's pages from the disk, without waiting for them."""
        if hasattr(mmap, "MADV_WILLNEED"):
            start, stop = self._image_spans[row].tolist()
            page = start - start % mmap.PAGESIZE
            self._mapping.madvise(mmap.MADV_WILLNEED, page, stop - page)


class Dataset:
    """Random access to the images of one split. Shards are opened on first use; threads may share the object.

    folder: of the prepared data set. manifest: if it has been loaded already. fetch: called with each shard before it is
    opened, to bring it into the folder.
    Raises UserError if there is no data set, or it has no such split.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        manifest: Manifest | None = None,
        fetch: Callable[[ShardInfo], object] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.split = split
        self.manifest = manifest or Manifest.load(self.folder)
        if split not in self.manifest.splits:
            there = ", ".join(self.manifest.splits)
            raise UserError(
                f"the data set at {self.folder} has no split {split!r}; its splits: {there}. Prepare it again from "
                "a source that has one (`python -m cluster.prepare folder` can set a fraction aside)."
            )
        self._fetch = fetch
        self._infos = self.manifest.splits[split].shards
        self._first_rows = [0, *itertools.accumulate(info.rows for info in self._infos)]
        self._shards: list[_Shard | None] = [None] * len(self._infos)

    @property
    def image_size(self) -> int:
        """Side of every image in pixels."""
        return self.manifest.image_size

    def __len__(self) -> int:
        return self._first_rows[-1]

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class index of every row, [rows]. Opens every shard."""
        parts = [self._shard(number).labels() for number in range(len(self._infos))]
        return np.concatenate([*parts, np.empty(0, np.int32)])

    def label(self, index: int) -> int:
        """Class index of a row. Opens no other shard than the row's."""
        shard, row = self._locate(index)
        return shard.label(row)

    def key(self, index: int) -> str:
        """Name of the image in its source."""
        shard, row = self._locate(index)
        return shard.key(row)

    def jpeg(self, index: int) -> NDArray[np.uint8]:
        """The stored JPEG, or pixels where they are stored raw, [bytes]: a read-only view, unchecked."""
        shard, row = self._locate(index)
        return shard.image(row)

    def will_need(self, indices: Iterable[int]) -> None:
        """Begin to read these images from the disk, all side by side. A page fault would read 4 KiB, and wait for it, five
        times for each image."""
        for index in indices:
            shard, row = self._locate(index)
            shard.will_need(row)

    def pixels(self, index: int, scratch_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image, uint8 [size, size, 3], RGB: `scratch_HWC` with a JPEG decoded into it, or a view of pixels stored raw.

        scratch_HWC: uint8, contiguous, [size, size, 3]. Raises CorruptRecordError if the stored bytes are not those written.
        """
        size = self.image_size
        shape, flags = scratch_HWC.shape, scratch_HWC.flags
        # The decoder fills whatever buffer is large enough, so a wrong one would go unnoticed.
        if scratch_HWC.dtype != np.uint8 or shape != (size, size, 3) or not flags.c_contiguous:
            raise ValueError(
                f"the buffer must be contiguous uint8 [{size}, {size}, 3], not {scratch_HWC.dtype} {list(shape)}"
            )
        shard, row = self._locate(index)
        try:
            shard.verify_row(row)
        except CorruptShardError:
            raise self._corrupt(shard, row, "its checksum differs") from None
        stored = shard.image(row)
        if self.manifest.encoding == "raw":
            if stored.size != scratch_HWC.size:
                raise self._corrupt(shard, row, f"it has {stored.size:,} bytes instead of {scratch_HWC.size:,}")
            return stored.reshape(shape)
        try:
            decoded = simplejpeg.decode_jpeg(stored, "RGB", buffer=scratch_HWC, strict=True)
        except ValueError as error:
            raise self._corrupt(shard, row, f"it cannot be decoded ({error})") from None
        if decoded.shape != shape:
            raise self._corrupt(shard, row, f"it is {decoded.shape[1]}x{decoded.shape[0]} pixels")
        return scratch_HWC

    def decode_into(self, index: int, buffer_HWC: NDArray[np.uint8]) -> None:
        """Put an image into `buffer_HWC` (uint8, contiguous, [size, size, 3], RGB). Grey becomes RGB.

        Raises CorruptRecordError, and leaves the buffer as it was, if the stored bytes are not those written.
        """
        pixels = self.pixels(index, buffer_HWC)
        if pixels is not buffer_HWC:
            buffer_HWC[...] = pixels

    def shards_of(self, indices: Iterable[int]) -> list[ShardInfo]:
        """All shards: those of these rows first, in their order, then the others."""
        numbers = dict.fromkeys(self._number(index) for index in indices)
        return [self._infos[number] for number in numbers | dict.fromkeys(range(len(self._infos)))]

    @staticmethod
    def _corrupt(shard: Shard, row: int, reason: str) -> CorruptRecordError:
        return CorruptRecordError(str(shard.path), row, shard.key(row), reason)

    def _number(self, index: int) -> int:
        """Of the row's shard."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return bisect.bisect_right(self._first_rows, index) - 1

    def _locate(self, index: int) -> tuple[_Shard, int]:
        number = self._number(index)
        return self._shard(number), index - self._first_rows[number]

    def _shard(self, number: int) -> _Shard:
        shard = self._shards[number]
        if shard is None:
            # Two threads may both open it; either object will do.
            info = self._infos[number]
            if self._fetch is not None:
                self._fetch(info)
            shard = _Shard(self.folder / info.file)
            if len(shard) != info.rows:
                raise CorruptShardError(
                    f"{shard.path} holds {len(shard)} rows, the manifest says {info.rows}. Restore it from a copy, "
                    "or make the data set again with `python -m cluster.prepare ... --overwrite`."
                )
            self._shards[number] = shard
        return shard


def verify_checksums(
    folder: str | Path, manifest: Manifest, progress: Callable[[int, int], None] | None = None
) -> None:
    """Read every shard once and compare its size and SHA-256 with the manifest's.

    progress: called with (bytes done, bytes in all) after each shard.
    Raises UserError that names every shard that is missing or differs, and what to do.
    """
    folder = Path(folder)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    total = sum(shard.bytes for shard in shards)
    done = 0
    problems: dict[str, str] = {}
    # hashlib and file reads release the GIL, so threads are enough.
    with ThreadPoolExecutor(CHECKSUM_THREADS) as pool:
        futures = {pool.submit(_shard_problem, folder, shard): shard for shard in shards}
        try:
            for future in as_completed(futures):
                shard = futures[future]
                if problem := future.result():
                    problems[shard.file] = problem
                done += shard.bytes
                if progress:
                    progress(done, total)
        except BaseException:  # Ctrl-C must not wait for the remaining gigabytes
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if problems:
        named = "; ".join(f"{file} {problems[file]}" for file in sorted(problems))
        raise UserError(
            f"{len(problems)} of {len(shards)} shards in {folder} are damaged: {named}. Restore them from a copy, "
            "or make the data set again with `python -m cluster.prepare ... --overwrite`."
        )


def _shard_problem(folder: Path, shard: ShardInfo) -> str:
    path = folder / shard.file
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return f"has {size:,} bytes instead of {shard.bytes:,}"
        return "" if file_sha256(path) == shard.sha256 else "has another checksum"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
