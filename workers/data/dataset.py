"""A split of a prepared data set as one long array of images, and the check that its files are whole."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from configs.errors import UserError
from workers.data.manifest import Manifest
from workers.data.shards import CorruptShardError, Shard, ShardInfo, file_sha256

CHECKSUM_THREADS = 4


class Dataset:
    """Random access to the images of one split. Shards are opened on first use; threads may share the object.

    folder: of the prepared data set. manifest: if it has been loaded already.
    Raises UserError if there is no data set, or it has no such split.
    """

    def __init__(self, folder: str | Path, split: str, manifest: Manifest | None = None) -> None:
        self.folder = Path(folder)
        self.split = split
        self.manifest = manifest or Manifest.load(self.folder)
        if split not in self.manifest.splits:
            there = ", ".join(self.manifest.splits)
            raise UserError(
                f"the data set at {self.folder} has no split {split!r}; its splits: {there}. Prepare it again from "
                "a source that has one (`python -m cluster.prepare folder` can set a fraction aside)."
            )
        self._infos = self.manifest.splits[split].shards
        self._first_rows = np.cumsum([0, *(info.rows for info in self._infos)])
        self._shards: list[Shard | None] = [None] * len(self._infos)

    @property
    def image_size(self) -> int:
        """Side of every image in pixels."""
        return self.manifest.image_size

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Class index of every row, [rows], read-only. Opens every shard."""
        parts = [self._shard(number).labels() for number in range(len(self._infos))]
        labels = np.concatenate([*parts, np.empty(0, np.int32)])
        labels.setflags(write=False)
        return labels

    def key(self, index: int) -> str:
        """Name of the image in its source."""
        shard, row = self._locate(index)
        return shard.key(row)

    def jpeg(self, index: int) -> NDArray[np.uint8]:
        """The stored JPEG, [bytes]: a read-only view, unchecked."""
        shard, row = self._locate(index)
        return shard.image(row)

    def decode_into(self, index: int, buffer_HWC: NDArray[np.uint8]) -> None:
        """Decode an image into `buffer_HWC` (uint8, contiguous, [size, size, 3], RGB). Grey becomes RGB.

        Raises CorruptShardError, and leaves the buffer as it was, if the stored bytes are not those written.
        """
        size = self.image_size
        shape, flags = buffer_HWC.shape, buffer_HWC.flags
        # The decoder fills whatever buffer is large enough, so a wrong one would go unnoticed.
        if buffer_HWC.dtype != np.uint8 or shape != (size, size, 3) or not flags.c_contiguous:
            raise ValueError(
                f"the buffer must be contiguous uint8 [{size}, {size}, 3], not {buffer_HWC.dtype} {list(shape)}"
            )
        shard, row = self._locate(index)
        shard.verify_row(row)
        try:
            decoded = simplejpeg.decode_jpeg(shard.image(row), "RGB", buffer=buffer_HWC, strict=True)
        except ValueError as error:
            raise self._unusable(shard, row, str(error)) from None
        if decoded.shape != shape:
            raise self._unusable(shard, row, f"it is {decoded.shape[1]}x{decoded.shape[0]} pixels")

    @staticmethod
    def _unusable(shard: Shard, row: int, reason: str) -> CorruptShardError:
        return CorruptShardError(
            f"{shard.path}: the image in row {row} (key {shard.key(row)!r}) is not as `python -m cluster.prepare` "
            f"writes it: {reason}. Make the data set again with --overwrite."
        )

    def _locate(self, index: int) -> tuple[Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._first_rows, index, side="right")) - 1
        return self._shard(number), index - int(self._first_rows[number])

    def _shard(self, number: int) -> Shard:
        shard = self._shards[number]
        if shard is None:
            # Two threads may both open it; either object will do.
            info = self._infos[number]
            shard = Shard(self.folder / info.file)
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
