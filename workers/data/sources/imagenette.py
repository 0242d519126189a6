"""Imagenette and Imagewoof, as fast.ai publishes them, as a source of images."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from workers.data.sources.items import Chunk, Listing, PackedChunk, SourceItem, stamp_of
from workers.data.sources.names import in_words, is_hidden, is_image, parts, safe
from workers.data.sources.tars import LARGEST_IMAGE, OnProgress, is_plain_file, stream_members

SPLITS = {"train": "train", "val": "validation"}
WORDS = {  # the archive has no words for its classes
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
WNID = re.compile(r"n\d{8}")


class ImagenetteSource:
    """imagenette2*.tgz or imagewoof2*.tgz: train/CLASS/*.JPEG and val/CLASS/*.JPEG below one folder.

    Labels follow the sorted names of the classes, images their order in the archive. A compressed archive cannot be
    read in the middle, so each chunk reads it from its start to the chunk's last image: a few seconds for a few
    hundred MB. on_progress: called with bytes of the archive listed so far, and in all.

    Raises UserError if the archive is damaged (gzip's checksum is checked while listing), or not of this kind.
    """

    def __init__(self, archive: Path, *, on_progress: OnProgress | None = None) -> None:
        self._path = archive.absolute()
        left_out: Counter[str] = Counter()
        found: dict[str, list[tuple[int, int, str, str]]] = {split: [] for split in SPLITS.values()}
        for number, (member, _) in enumerate(stream_members(self._path, to_the_end=True, on_progress=on_progress)):
            place = _place(member.name)
            if member.isdir() or place is None:
                continue
            split, name, key = place
            if not is_plain_file(member):
                left_out["members that are no regular files"] += 1
            elif not is_image(key):
                left_out["files without an image's suffix"] += 1
            else:
                found[split].append((number, member.size, name, key))
        names = sorted({name for _, _, name, _ in found["train"]})
        if len(names) < 2 or not found["validation"]:
            raise UserError(
                f"{self._path} holds {len(names)} training classes and {len(found['validation']):,} validation images: "
                "it should have train/CLASS/*.JPEG and val/CLASS/*.JPEG, as imagenette2-320.tgz has"
            )
        if unknown := {name for _, _, name, _ in found["validation"]} - set(names):
            raise UserError(f"{self._path}: no training images of {', '.join(sorted(unknown)[:5])}. Fetch it again.")
        labels = {name: label for label, name in enumerate(names)}
        self.classes = tuple(f"{name} {WORDS[name]}" if name in WORDS else name for name in names)
        self._listings = {
            split: Listing(
                keys=[key for *_, key in images],
                table=np.array([(number, size, labels[name]) for number, size, name, _ in images], np.int64),
            )
            for split, images in found.items()
        }
        for split, listing in self._listings.items():
            if len(set(listing.keys)) < len(listing):
                twice = Counter(listing.keys).most_common(1)[0][0]
                raise UserError(f"{self._path} holds {twice} of the {split} split twice. Fetch it again.")
        self.splits = {split: len(listing) for split, listing in self._listings.items()}
        self.description = f"Imagenette in {self._path.resolve()}"
        self.notes = in_words(left_out)

    def chunks(self, split: str, rows: int) -> Iterator[PackedChunk]:
        """The split cut into ranges of `rows` images."""
        return self._listings[split].chunks(split, rows)

    def stamp(self, chunk: Chunk) -> str:
        """See `Source`."""
        return stamp_of([self._path])

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's images, one in memory at a time. Raises UserError if the archive cannot be read."""
        assert isinstance(chunk, PackedChunk)
        rows = chunk.rows()
        row = next(rows, None)
        for number, (member, opened) in enumerate(stream_members(self._path)):
            if row is None:
                return
            key, (wanted, size, label) = row
            if number < wanted:
                continue
            if member.size != size or not is_plain_file(member):
                break
            if member.size > LARGEST_IMAGE:
                yield SourceItem(key=key, label=label, data=b"", problem=f"it has {member.size:,} bytes: no photograph")
            else:
                yield SourceItem(key=key, label=label, data=opened().read())
            row = next(rows, None)
        if row is not None:
            raise UserError(f"{self._path} changed since it was listed. Run the same command again.")

    def __getstate__(self) -> dict[str, Any]:
        # Chunks carry their images' places: a task does not need those of all.
        return {**self.__dict__, "_listings": {}}


def _place(name: str) -> tuple[str, str, str] | None:
    """(split, class, key) of FOLDER/train/CLASS/IMAGE; None for anything else."""
    path = [safe(part) for part in parts(name)]
    for depth, part in enumerate(path[:2]):
        if part in SPLITS and len(path) >= depth + 3 and not any(map(is_hidden, path[depth:])):
            return SPLITS[part], path[depth + 1], "/".join(path[depth + 1 :])
    return None
