"""CIFAR-10, as its authors publish it for C programs, as a source of images."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from configs.errors import UserError
from workers.data.sources.items import Chunk, RangesChunk, SourceItem, cut, stamp_of
from workers.data.sources.names import last_part, safe
from workers.data.sources.tars import OnProgress, is_plain_file, stream_members

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE  # bytes: the label; then the red, the green and the blue values, row by row
BATCH = re.compile(r"(data_batch_[1-5]|test_batch)\.bin")
TRAIN_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
BATCHES = {"train": TRAIN_BATCHES, "validation": ("test_batch.bin",)}
CLASS_NAMES = "batches.meta.txt"
LONGEST_NAMES = 10_000  # bytes


class Cifar10Source:
    """cifar-10-binary.tar.gz: five batches become the train split, the test batch `validation`.

    Each image is handed on as a PPM file, so nothing is lost before it is stored. Keys are "data_batch_1/17". Each
    chunk reads the archive, of 170 MB, from its start. on_progress: called with bytes of it listed so far, and in all.

    Raises UserError if the archive is damaged (gzip's checksum is checked while listing), or not this one.
    """

    def __init__(self, archive: Path, *, on_progress: OnProgress | None = None) -> None:
        self._path = archive.absolute()
        records: dict[str, int] = {}
        names: list[str] = []
        pickles = False
        for member, opened in stream_members(self._path, to_the_end=True, on_progress=on_progress):
            name = last_part(member.name)
            pickles |= name == "batches.meta"
            if not is_plain_file(member):
                continue
            if name == CLASS_NAMES:
                names = [
                    safe(line)
                    for line in opened().read(LONGEST_NAMES).decode(errors="replace").split("\n")
                    if line.strip()
                ]
            elif BATCH.fullmatch(name):
                if member.size % RECORD or not member.size:
                    raise UserError(f"{self._path}: {name} has {member.size:,} bytes, no multiple of {RECORD}")
                records[name] = member.size // RECORD
        if pickles:
            raise UserError(
                f"{self._path} is the version for Python, whose files can run code when they are read: give "
                "cifar-10-binary.tar.gz"
            )
        needed = {name for batches in BATCHES.values() for name in batches}
        if missing := sorted(needed - set(records)) + ([] if len(names) > 1 else [CLASS_NAMES]):
            raise UserError(
                f"{self._path} is not a whole cifar-10-binary.tar.gz: it lacks {', '.join(missing)}. Fetch it again."
            )
        self.classes = tuple(names)
        self._records = {split: [(name, records[name]) for name in batches] for split, batches in BATCHES.items()}
        self.splits = {split: sum(count for _, count in batches) for split, batches in self._records.items()}
        self.description = f"CIFAR-10 in {self._path.resolve()}"
        self.notes: tuple[str, ...] = ()

    def chunks(self, split: str, rows: int) -> Iterator[RangesChunk]:
        """The split, in order of batch and record, cut into ranges of `rows`; a range may span batches."""
        return cut(split, self._records[split], rows)

    def stamp(self, chunk: Chunk) -> str:
        """See `Source`."""
        return stamp_of([self._path])

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's images, one in memory at a time. Raises UserError if the archive cannot be read."""
        assert isinstance(chunk, RangesChunk)
        for name, first, last in chunk.ranges:  # the archive has its batches in no order
            yield from self._read_records(name, first, last)

    def _read_records(self, name: str, first: int, last: int) -> Iterator[SourceItem]:
        for member, opened in stream_members(self._path):
            if last_part(member.name) == name and is_plain_file(member):
                batch = opened()
                for _ in range(first):  # a stream has no other way forward
                    batch.read(RECORD)
                for number in range(first, last):
                    yield self._item(f"{name.removesuffix('.bin')}/{number}", batch.read(RECORD))
                return

    def _item(self, key: str, record: bytes) -> SourceItem:
        if len(record) < RECORD:
            raise UserError(f"{self._path} changed since it was listed. Run the same command again.")
        label, data = record[0], np.frombuffer(record, np.uint8, offset=1)
        if label >= len(self.classes):
            return SourceItem(key=key, label=label, data=b"", problem=f"its label is {label}")
        pixels = data.reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        return SourceItem(key=key, label=label, data=b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels.tobytes())
