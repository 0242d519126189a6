"""Tiny ImageNet, as Stanford's CS231n publishes it, as a source of images."""

import functools
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import UserError
from workers.data.sources.items import Chunk, Listing, PackedChunk, SourceItem, stamp_of
from workers.data.sources.names import in_words, is_hidden, is_image, parts, safe
from workers.data.sources.tars import LARGEST_IMAGE, unreadable

ANNOTATIONS = "val/val_annotations.txt"
WORDS = "words.txt"
TOP = ("train", "val", "test", WORDS, "wnids.txt")
LARGEST_TEXT = 2**26  # bytes; the real ones have less than three MB
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


class TinyImageNetSource:
    """tiny-imagenet-200.zip: train/CLASS/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt.

    Labels follow the sorted WordNet IDs of the classes, images the sorted names of their files. Class names are the
    WordNet ID and the first of its words in words.txt, as in "n01443537 goldfish". Test images have no published
    labels and are left out. Images are read in place.

    first_classes: take the images of this many classes only, those with the lowest WordNet IDs; None: all.

    Raises UserError if the archive is damaged, has fewer classes, or its validation images are not those of its annotations.
    """

    def __init__(self, archive: Path, first_classes: int | None = None) -> None:
        self._path = archive.absolute()  # workers may run in another folder
        _, found = self._opened()
        images = [key for key in sorted(found) if is_image(key)]
        train = [(key, key.split("/")[1]) for key in images if key.startswith("train/") and key.count("/") > 1]
        wnids = sorted({wnid for _, wnid in train})
        if len(wnids) < 2 or ANNOTATIONS not in found:
            raise UserError(
                f"{self._path} holds {len(wnids)} training classes and {'a' if ANNOTATIONS in found else 'no'} "
                f"{ANNOTATIONS}: give tiny-imagenet-200.zip as downloaded"
            )
        if first_classes is not None and first_classes > len(wnids):
            raise UserError(f"{self._path} has {len(wnids)} classes, fewer than the {first_classes} asked for")
        validation = self._annotated([key for key in images if key.startswith("val/")], set(wnids))
        wnids = wnids[:first_classes]
        words = dict(line.split("\t", 1) for line in self._lines(WORDS) if "\t" in line) if WORDS in found else {}
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        self.classes = tuple(f"{wnid} {safe(words.get(wnid, '').split(',')[0].strip())}".rstrip() for wnid in wnids)
        self._listings = {
            split: Listing(
                keys=[key for key, wnid in listed if wnid in labels],
                table=np.array([(found[key].CRC, labels[wnid]) for key, wnid in listed if wnid in labels], np.int64),
            )
            for split, listed in (("train", train), ("validation", validation))
        }
        self.splits = {split: len(listing) for split, listing in self._listings.items()}
        self.description = f"Tiny ImageNet in {self._path.resolve()}"
        if first_classes is not None:
            self.description += f", the first {first_classes} classes"
        unlabelled = sum(key.startswith("test/") for key in images)
        self.notes = in_words(Counter({"test images, which have no labels": unlabelled} if unlabelled else {}))

    def chunks(self, split: str, rows: int) -> Iterator[PackedChunk]:
        """The split cut into ranges of `rows` images."""
        return self._listings[split].chunks(split, rows)

    def stamp(self, chunk: Chunk) -> str:
        """See `Source`."""
        return stamp_of([self._path])

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's images, one in memory at a time. Raises UserError if the archive cannot be read."""
        assert isinstance(chunk, PackedChunk)
        archive, found = self._opened()
        for key, (checksum, label) in chunk.rows():
            info = found.get(key)
            if info is None or checksum != info.CRC:
                raise UserError(f"{self._path} changed since it was listed. Run the same command again.")
            data, problem = b"", ""
            if info.file_size > LARGEST_IMAGE:
                problem = f"it has {info.file_size:,} bytes: no photograph"
            else:
                try:
                    data = archive.read(info)
                except DAMAGE as error:
                    problem = f"damaged in the archive: {error}"
                except OSError as error:
                    raise unreadable(str(self._path), error) from None
            yield SourceItem(key=key, label=label, data=data, problem=problem)

    def __getstate__(self) -> dict[str, Any]:
        # Chunks carry the names of their images: a task does not need those of all.
        return {**self.__dict__, "_listings": {}}

    def _annotated(self, images: list[str], wnids: set[str]) -> list[tuple[str, str]]:
        """(key, WordNet ID) of the validation images."""
        told = dict(line.split("\t")[:2] for line in self._lines(ANNOTATIONS) if "\t" in line)
        there = {key.split("/")[-1] for key in images}
        if odd := sorted(there ^ set(told)):
            raise UserError(
                f"{self._path}: {len(odd):,} validation images are in {ANNOTATIONS} or in the archive, but not in both: "
                f"{', '.join(odd[:5])}. Fetch it again."
            )
        if not images:
            raise UserError(f"{self._path} holds no validation images. Fetch it again.")
        if unknown := sorted(set(told.values()) - wnids):
            raise UserError(f"{self._path}: no training images of {', '.join(unknown[:5])}, which {ANNOTATIONS} names")
        return [(key, told[key.split("/")[-1]]) for key in images]

    def _lines(self, key: str) -> list[str]:
        """Of a text file in the archive."""
        archive, found = self._opened()
        try:
            if found[key].file_size > LARGEST_TEXT:
                raise ValueError(f"{key} has {found[key].file_size:,} bytes")
            text = archive.read(found[key]).decode(errors="replace")
        except DAMAGE as error:
            raise _damaged(self._path, error) from None
        return text.splitlines()

    def _opened(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        try:
            return _open(self._path, self._path.stat().st_mtime_ns)
        except DAMAGE as error:
            raise _damaged(self._path, error) from None
        except OSError as error:
            raise unreadable(str(self._path), error) from None


@functools.lru_cache(maxsize=1)
def _open(path: Path, changed: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive and its files by key, kept open: reading the list of 120,000 takes longer than reading a chunk.

    changed: when, in ns, so that another file at the same place is opened anew.
    """
    archive = zipfile.ZipFile(path)
    files = {}
    for info in archive.infolist():
        path_parts = [safe(part) for part in parts(info.filename)]
        if info.is_dir() or any(map(is_hidden, path_parts)):
            continue
        if path_parts and path_parts[0] not in TOP:
            path_parts = path_parts[1:]  # the folder that all lies in
        files["/".join(path_parts)] = info
    return archive, files


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a whole zip archive: {error}. Fetch it again.")
