"""Class folders as a source of images."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UserError
from workers.data.sources.items import Chunk, SourceItem, stamp_of
from workers.data.sources.names import in_words, is_hidden, is_image, utf8

VALIDATION_NAMES = ("validation", "valid", "val", "test")  # the first that is there becomes the validation split
LAYOUTS = "the layouts are SOURCE/train/CLASS/*.jpg with SOURCE/validation/CLASS/*.jpg, and SOURCE/CLASS/*.jpg"


@dataclass(frozen=True, kw_only=True)
class FolderChunk(Chunk):
    """A chunk with its files."""

    files: tuple[tuple[str, int], ...]
    """(path relative to the source's root, label)."""


class FolderSource:
    """`root/train/<class>/**` with `root/validation|valid|val|test/<class>/**`, or `root/<class>/**`.

    In the second layout, and where there is no validation folder, `validation_fraction` of the images become the
    validation split. Which ones depends on a hash of each image's path alone, so adding a file moves no other.
    Hidden files and files without an image's suffix are left out; so are links that lead out of `root`.

    Raises UserError if there is no such folder, no image, only one class, or a validation class without training
    images.
    """

    def __init__(self, root: str | Path, validation_fraction: float = 0.1) -> None:
        self.root = Path(root).absolute()  # workers may run in another folder
        if not self.root.is_dir():
            raise UserError(f"no folder at {self.root}: give the folder that holds the class folders")
        if not 0 <= validation_fraction < 1:
            raise UserError(f"the validation fraction is {validation_fraction}: it must be at least 0 and below 1")
        self._left_out: Counter[str] = Counter()
        if (self.root / "train").is_dir() and _subfolders(self.root / "train"):
            there = [name for name in VALIDATION_NAMES if (self.root / name).is_dir()]
            folders = {"train": "train", **({"validation": there[0]} if there else {})}
        else:
            folders = {"train": "."}
        listed = {split: self._list_classes(self.root / folder) for split, folder in folders.items()}
        labels = {name: label for label, name in enumerate(self._checked_classes(listed))}
        self.classes = tuple(utf8(name) for name in labels)
        self._files = {
            split: [(file, labels[name]) for name in sorted(classes) for file in classes[name]]
            for split, classes in listed.items()
        }
        if "validation" not in listed and validation_fraction > 0:
            everything = self._files["train"]
            held = [_hash_fraction(name) < validation_fraction for name, _ in everything]
            self._files["train"] = [file for file, out in zip(everything, held, strict=True) if not out]
            self._files["validation"] = [file for file, out in zip(everything, held, strict=True) if out]
        self.splits = {split: len(files) for split, files in self._files.items()}
        if not all(self.splits.values()):
            raise UserError(f"{self.root} has too few images for two splits: add images, or change the fraction")
        self.description = f"class folders in {self.root.resolve()}"
        self.notes = in_words(self._left_out)

    def chunks(self, split: str, rows: int) -> Iterator[FolderChunk]:
        """The split, in order of class and path, cut into ranges of `rows` files."""
        files = self._files[split]
        for start in range(0, len(files), rows):
            part = tuple(files[start : start + rows])
            yield FolderChunk(split=split, start=start, stop=start + len(part), files=part)

    def stamp(self, chunk: Chunk) -> str:
        """See `Source`."""
        assert isinstance(chunk, FolderChunk)
        return stamp_of(self.root / name for name, _ in chunk.files)

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's files, one at a time. A file that cannot be read becomes an item with a problem."""
        assert isinstance(chunk, FolderChunk)
        for name, label in chunk.files:
            try:
                data, problem = (self.root / name).read_bytes(), ""
            except OSError as error:
                data, problem = b"", f"cannot be read: {error.strerror}"
            yield SourceItem(key=utf8(name), label=label, data=data, problem=problem)

    def __getstate__(self) -> dict[str, Any]:
        # Chunks carry their files: a task does not need the list of all of them.
        return {**self.__dict__, "_files": {}}

    def _list_classes(self, folder: Path) -> dict[str, list[str]]:
        """Class name -> paths of its images relative to the root, both sorted. Leaves out folders without images."""
        if self._leads_out(folder):
            raise UserError(f"{folder} is a link out of {self.root}: give the folder that it leads to")
        listed = {}
        for name in _subfolders(folder):
            if self._leads_out(folder / name):
                self._left_out[f"folders that are links out of {self.root}"] += 1
            elif files := self._list_images(folder / name):
                listed[name] = files
            else:
                self._left_out["folders without images"] += 1
        if not listed:
            loose = any(is_image(entry.name) for entry in os.scandir(folder) if entry.is_file())
            found = "images lie in it directly, with no class folders" if loose else "no images below it"
            raise UserError(f"{folder} cannot be used: {found}. Make one folder per class; {LAYOUTS}.")
        return listed

    def _list_images(self, folder: Path) -> list[str]:
        files = []
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not is_hidden(name)]
            for path in (Path(parent, name) for name in names if not is_hidden(name)):
                if not is_image(path.name):
                    self._left_out["files without an image's suffix"] += 1
                elif self._leads_out(path):
                    self._left_out[f"files that are links out of {self.root}"] += 1
                elif path.is_file():
                    files.append(path.relative_to(self.root).as_posix())
                else:
                    self._left_out["broken links, or no regular files"] += 1
        return sorted(files)

    def _leads_out(self, path: Path) -> bool:
        return path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve())

    def _checked_classes(self, listed: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
        classes = tuple(sorted(listed["train"]))
        if len(classes) < 2:
            raise UserError(
                f"{self.root} has images of one class only ({classes[0]}): a classifier needs two; {LAYOUTS}."
            )
        if unknown := sorted(set(listed.get("validation", ())) - set(classes)):
            raise UserError(
                f"{self.root}: {len(unknown)} classes of the validation folder have no training images: "
                f"{', '.join(unknown[:10])}. Rename or remove these folders, or add training images."
            )
        return classes


def _raise(error: OSError) -> NoReturn:
    """os.walk would pass over a folder that it may not read."""
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        _raise(error)


def _hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48
