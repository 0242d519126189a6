"""The archives of ILSVRC2012 and ILSVRC2010 as they are downloaded, as a source of images."""

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from workers.data.sources.devkit import Devkit, read_devkit
from workers.data.sources.items import Chunk, Listing, PackedChunk, SourceItem, stamp_of
from workers.data.sources.names import in_words, is_hidden, is_image, last_part, safe
from workers.data.sources.tars import LARGEST_IMAGE, ArchiveFile, Member, OnProgress, OpenArchive

CLASS_ARCHIVE = re.compile(r"(?P<wnid>n\d{8})\.tar")
NUMBERED_IMAGE = re.compile(r"ILSVRC\d{4}_(?:val|test)_(?P<number>\d+)\.JPEG", re.IGNORECASE)
NO_FILES = "members that are no regular files"
NO_IMAGES = "files without an image's suffix"
THREADS = 16
NAMED = 5

_Result = TypeVar("_Result")


class ImageNetSource:
    """A training archive (a tar of one tar per class), a flat tar of validation images, and the development kit.

    train, validation: uncompressed tars, as ILSVRC publishes them; which year's is seen by their contents. devkit:
    its archive, or the folder that it was unpacked to. patch: ILSVRC2010's patch_images.tar, whose images replace
    those of the same name. truth: ground truth to take instead of the validation set's; with it, `validation` may be
    ILSVRC2010's test images. on_progress: called with bytes of `train` listed so far, and in all.

    Label n is the n-th of the sorted WordNet IDs (see `devkit.read_devkit`). Training images come by class, in the
    order in which they lie in the archive; validation images by number. Keys are "n01440764/n01440764_18.JPEG" and
    "ILSVRC2012_val_00000001.JPEG". Listing reads headers only; reading an image is one read at its place.

    Raises UserError if an archive is damaged or cut off, or holds other classes or other numbers of images than the
    development kit says.
    """

    def __init__(
        self,
        *,
        train: Path,
        devkit: Path,
        validation: Path | None = None,
        patch: Path | None = None,
        truth: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        given = [path for path in (train, validation, patch) if path]
        self._archives = [ArchiveFile.at(path) for path in given]
        kit = read_devkit(devkit, truth)
        self.classes = kit.classes
        if len(self.classes) < 2:
            raise UserError(f"{devkit} knows one class only: a classifier needs two")
        self._left_out: Counter[str] = Counter()
        with contextlib.ExitStack() as stack:
            opened = iter(
                [stack.enter_context(archive.opened(number)) for number, archive in enumerate(self._archives)]
            )
            self._listings = {"train": self._list_train(next(opened), kit, on_progress)}
            if validation:
                self._listings["validation"] = self._list_numbered(next(opened), kit)
            patched = self._patch(next(opened)) if patch else ()
        self.splits = {split: len(listing) for split, listing in self._listings.items()}
        paths = ", ".join(str(archive.path.resolve()) for archive in self._archives)
        self.description = f"{kit.contest} in {paths}"
        self.notes = (*in_words(self._left_out), *patched)

    def chunks(self, split: str, rows: int) -> Iterator[PackedChunk]:
        """The split cut into ranges of `rows` images."""
        return self._listings[split].chunks(split, rows)

    def stamp(self, chunk: Chunk) -> str:
        """See `Source`."""
        return stamp_of(archive.path for archive in self._archives)

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's images, one in memory at a time. Raises UserError if an archive cannot be read."""
        assert isinstance(chunk, PackedChunk)
        with contextlib.ExitStack() as stack:
            opened: dict[int, OpenArchive] = {}
            for key, (number, offset, size, label) in chunk.rows():
                if number not in opened:
                    opened[number] = stack.enter_context(self._archives[number].opened(number))
                if size > LARGEST_IMAGE:
                    yield SourceItem(key=key, label=label, data=b"", problem=f"it has {size:,} bytes: no photograph")
                else:
                    yield SourceItem(key=key, label=label, data=opened[number].read(offset, size))

    def __getstate__(self) -> dict[str, Any]:
        # Chunks carry their images' places: a task does not need those of all.
        return {**self.__dict__, "_listings": {}}

    def _list_train(self, archive: OpenArchive, kit: Devkit, on_progress: OnProgress | None) -> Listing:
        inner = self._class_archives(archive, kit)
        total, done = sum(member.size for member in inner), 0
        keys: list[str] = []
        tables = []
        listed = _map_in_threads(lambda label: _list_class(archive, inner[label], label, kit), range(len(inner)))
        with contextlib.closing(listed):  # its threads must have ended before the archive is closed
            for label, (names, table, left_out) in enumerate(listed):
                expected = kit.train_images[label]
                if len(names) != expected:
                    raise UserError(
                        f"{archive.path}: {inner[label].name} holds {len(names):,} images, where the development kit "
                        f"says {expected:,}. Fetch the archive again, or the kit that belongs to it."
                    )
                keys += names
                tables.append(table)
                self._left_out.update(left_out)
                done += inner[label].size
                if on_progress:
                    on_progress(done, total)
        return Listing(keys=keys, table=np.concatenate(tables))

    def _class_archives(self, archive: OpenArchive, kit: Devkit) -> list[Member]:
        """The inner archive of every class, by label."""
        found: dict[str, Member] = {}
        for name, member in self._files(archive):
            match = CLASS_ARCHIVE.fullmatch(name)
            if not match:
                self._left_out[f"files of {archive.path.name} that are no class's archive"] += 1
            elif match["wnid"] in found:
                raise UserError(f"{archive.path} holds {name} twice. Fetch it again.")
            else:
                found[match["wnid"]] = member
        if not found:
            raise UserError(
                f"{archive.path} holds no archives named n01440764.tar and the like: give {kit.contest}'s training "
                "archive as downloaded, or, if it is unpacked, use `python -m cluster.prepare folder`"
            )
        if unknown := sorted(set(found) - set(kit.labels)):
            raise UserError(
                f"{archive.path}: {len(unknown):,} classes are not in the development kit of {kit.contest}: "
                f"{_some(unknown)}. Give the kit that belongs to the archive."
            )
        if missing := sorted(set(kit.labels) - set(found)):
            raise UserError(
                f"{archive.path}: {len(missing):,} of {len(kit.labels):,} classes are missing: {_some(missing)}. "
                "Fetch the archive again."
            )
        return [found[wnid] for wnid in kit.labels]

    def _list_numbered(self, archive: OpenArchive, kit: Devkit) -> Listing:
        found: dict[int, tuple[str, Member]] = {}
        for name, member in self._files(archive):
            match = NUMBERED_IMAGE.fullmatch(name)
            if not match:
                self._left_out[f"files of {archive.path.name} that are no numbered images"] += 1
            elif int(match["number"]) in found:
                raise UserError(f"{archive.path} holds {name} twice. Fetch it again.")
            else:
                found[int(match["number"])] = (name, member)
        labels = kit.validation_labels
        if sorted(found) != list(range(1, len(labels) + 1)):
            missing = sorted(set(range(1, len(labels) + 1)) - set(found))
            detail = f"; missing are number {_some(map(str, missing))}" if missing and found else ""
            raise UserError(
                f"{archive.path} holds {len(found):,} numbered images, where the ground truth has {len(labels):,}"
                f"{detail}. Fetch the archive again, or the development kit that belongs to it."
            )
        rows = [(*archive.place(found[number][1]), labels[number - 1]) for number in sorted(found)]
        return Listing(keys=[found[number][0] for number in sorted(found)], table=np.array(rows, np.int64))

    def _patch(self, archive: OpenArchive) -> tuple[str, ...]:
        """Replace the places of images that `archive` holds too."""
        places = {name: archive.place(member) for name, member in self._files(archive) if is_image(name)}
        replaced = 0
        for listing in self._listings.values():
            for row, key in enumerate(listing.keys):
                if place := places.get(key.split("/")[-1]):
                    listing.table[row, :3] = place
                    replaced += 1
        return (f"replaced {replaced:,} images by those of {archive.path.name}",)

    def _files(self, archive: OpenArchive) -> Iterator[tuple[str, Member]]:
        """(last part of the name, member) of the regular files; counts what else there is."""
        return _regular_files(archive.members(), self._left_out)


def _list_class(
    archive: OpenArchive, inner: Member, label: int, kit: Devkit
) -> tuple[list[str], NDArray[np.int64], Counter[str]]:
    """Keys, table (see `Listing`) and what was left out, of a class's inner archive."""
    left_out: Counter[str] = Counter()
    wnid = kit.classes[label].split()[0]
    where = f"{archive.path}: {wnid}.tar"
    names, rows = [], []
    for name, member in _regular_files(archive.members(inner), left_out):
        if is_image(name):
            names.append(f"{wnid}/{name}")
            rows.append((*archive.place(member), label))
        else:
            left_out[NO_IMAGES] += 1
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{where} holds {twice} twice. Fetch the archive again.")
    return names, np.array(rows, np.int64).reshape(-1, 4), left_out


def _regular_files(members: Iterator[Member], left_out: Counter[str]) -> Iterator[tuple[str, Member]]:
    for member in members:
        name = safe(last_part(member.name))
        if member.kind == "file" and name and not is_hidden(name):
            yield name, member
        elif member.kind == "other":
            left_out[NO_FILES] += 1


def _map_in_threads(function: Callable[[int], _Result], numbers: range) -> Generator[_Result, None, None]:
    """function(number) of each, in order, in as many threads as are faster than one.

    Listing waits for headers that lie 100 kB apart. Network storage and SSDs answer many such reads at a time; a
    single hard disk answers one after the other, and slower if they come from all over it. So a class is listed by
    one thread, the next THREADS by as many, and the rest in the way that was faster per class.
    """
    first, second, rest = numbers[:1], numbers[1 : 1 + THREADS], numbers[1 + THREADS :]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            started = time.monotonic()
            yield from [function(number) for number in first]
            alone = time.monotonic() - started
            started = time.monotonic()
            yield from list(pool.map(function, second))
            together = (time.monotonic() - started) / max(1, len(second))
            yield from pool.map(function, rest) if together < alone else map(function, rest)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # do not begin what nobody waits for


def _some(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - NAMED:,} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
