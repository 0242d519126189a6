"""Where images come from: class folders, and Parquet files as Hugging Face lays out image sets.

A source lists its files once, in the driver. Its chunks carry all that is needed to read them, so that a source sent
to a worker need not carry the list of a million files.
"""

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import UserError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"))
VALIDATION_NAMES = ("validation", "val", "test")  # the first that is there becomes the validation split
SYSTEM_FILES = frozenset(("Thumbs.db", "desktop.ini", "__MACOSX"))
LAYOUTS = "the layouts are SOURCE/train/CLASS/*.jpg with SOURCE/validation/CLASS/*.jpg, and SOURCE/CLASS/*.jpg"

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
PARQUET_NAME = re.compile(r"(?P<split>.+?)-\d+-of-\d+.*\.parquet")
READ_ROWS = 128


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
class FolderChunk(Chunk):
    """A chunk with its files."""

    files: tuple[tuple[str, int], ...]
    """(path relative to the source's root, label)."""


@dataclass(frozen=True, kw_only=True)
class ParquetChunk(Chunk):
    """A chunk with its row ranges."""

    ranges: tuple[tuple[str, int, int], ...]
    """(file relative to the source's root, first row, one past the last)."""


class FolderSource:
    """`root/train/<class>/**` with `root/validation|val|test/<class>/**`, or `root/<class>/**`.

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
        self.classes = tuple(_utf8(name) for name in labels)
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
        self.notes = tuple(f"left out {count:,} {what}" for what, count in sorted(self._left_out.items()))

    def chunks(self, split: str, rows: int) -> Iterator[FolderChunk]:
        """The split, in order of class and path, cut into ranges of `rows` files."""
        files = self._files[split]
        for start in range(0, len(files), rows):
            part = tuple(files[start : start + rows])
            yield FolderChunk(split=split, start=start, stop=start + len(part), files=part)

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's files, one at a time. A file that cannot be read becomes an item with a problem."""
        assert isinstance(chunk, FolderChunk)
        for name, label in chunk.files:
            try:
                data, problem = (self.root / name).read_bytes(), ""
            except OSError as error:
                data, problem = b"", f"cannot be read: {error.strerror}"
            yield SourceItem(key=_utf8(name), label=label, data=data, problem=problem)

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
            loose = any(_is_image(entry.name) for entry in os.scandir(folder) if entry.is_file())
            found = "images lie in it directly, with no class folders" if loose else "no images below it"
            raise UserError(f"{folder} cannot be used: {found}. Make one folder per class; {LAYOUTS}.")
        return listed

    def _list_images(self, folder: Path) -> list[str]:
        files = []
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not _is_hidden(name)]
            for path in (Path(parent, name) for name in names if not _is_hidden(name)):
                if not _is_image(path.name):
                    self._left_out["files without an image's suffix"] += 1
                elif self._leads_out(path):
                    self._left_out[f"files that are links out of {self.root}"] += 1
                elif path.is_file():
                    files.append(path.relative_to(self.root).as_posix())
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


class ParquetSource:
    """A Parquet file, or a folder that holds some (`root/*.parquet` or `root/data/*.parquet`).

    The part of a file's name before `-00000-of-00001` is its split. `train` is needed; `validation`, or `test` where
    there is no validation, becomes `validation`. A single file of any name is the training set. Keys are
    "<file's stem>/<row>": the paths inside such files are often null or repeated.

    Raises UserError if there are no such files, or they lack the columns, naming those that are there.
    """

    def __init__(self, root: str | Path) -> None:
        given = Path(root).absolute()
        if not given.exists():
            raise UserError(f"no Parquet file or folder at {given}: give the folder that holds the *.parquet files")
        self.root = given.parent if given.is_file() else given
        self.notes: tuple[str, ...] = ()
        files = {"train": [given]} if given.is_file() else self._files_by_split()
        schemas = {path: _schema(path) for paths in files.values() for path in paths}
        columns = {path: _columns(path, schema) for path, schema in schemas.items()}
        first = files["train"][0]
        self._image, self._label = columns[first]
        if other := [path for path in columns if columns[path] != columns[first]]:
            raise UserError(f"{other[0]} has other column names than {first}: use files of one data set")
        self.classes = _class_names(schemas[first], self._label) or _numbered_classes(files["train"], self._label)
        if len(self.classes) < 2:
            raise UserError(f"{given} has one class only: a classifier needs two")
        self._files = {
            split: [(path.relative_to(self.root).as_posix(), pq.read_metadata(path).num_rows) for path in paths]
            for split, paths in files.items()
        }
        self.splits = {split: sum(rows for _, rows in counts) for split, counts in self._files.items()}
        self.description = f"Parquet files in {given.resolve()}"

    def chunks(self, split: str, rows: int) -> Iterator[ParquetChunk]:
        """The split, in order of file and row, cut into ranges of `rows`; a range may span files."""
        total = self.splits[split]
        for start in range(0, total, rows):
            stop = min(start + rows, total)
            ranges, file_start = [], 0
            for name, count in self._files[split]:
                first, last = max(start, file_start), min(stop, file_start + count)
                if first < last:
                    ranges.append((name, first - file_start, last - file_start))
                file_start += count
            yield ParquetChunk(split=split, start=start, stop=stop, ranges=tuple(ranges))

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's rows. Only their row groups are read, READ_ROWS rows in memory at a time."""
        assert isinstance(chunk, ParquetChunk)
        for name, first, last in chunk.ranges:
            path = self.root / name
            try:
                yield from self._read_rows(path, first, last)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{path} cannot be read: {error}. Fetch the file again.") from None

    def _read_rows(self, path: Path, first: int, last: int) -> Iterator[SourceItem]:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = [0, *itertools.accumulate(sizes)]
            groups = [group for group in range(len(sizes)) if starts[group] < last and starts[group + 1] > first]
            columns = [f"{self._image}.bytes", self._label]
            row = starts[groups[0]]
            for batch in file.iter_batches(READ_ROWS, groups, columns, use_threads=False):
                images, labels = batch.column(self._image).field("bytes"), batch.column(self._label)
                for index in range(max(first - row, 0), min(last - row, batch.num_rows)):
                    yield self._item(f"{path.stem}/{row + index}", images[index].as_py(), labels[index].as_py())
                row += batch.num_rows

    def _item(self, key: str, image: bytes | None, label: int | None) -> SourceItem:
        if label is None or not 0 <= label < len(self.classes):
            problem = f"its label is {label}, not one of 0..{len(self.classes) - 1}"
        else:
            problem = "the row holds no image bytes" if image is None else ""
        return SourceItem(key=key, label=-1 if label is None else label, data=image or b"", problem=problem)

    def _files_by_split(self) -> dict[str, list[Path]]:
        found = sorted(self.root.glob("*.parquet")) or sorted((self.root / "data").glob("*.parquet"))
        if not found:
            raise UserError(f"no *.parquet in {self.root} or {self.root / 'data'}")
        by_name: dict[str, list[Path]] = {}
        for path in found:
            match = PARQUET_NAME.fullmatch(path.name)
            by_name.setdefault(match["split"] if match else path.stem, []).append(path)
        if "train" not in by_name:
            raise UserError(
                f"no training files in {self.root}: their names begin with {', '.join(sorted(by_name))}. "
                "Name them train-00000-of-00001.parquet, validation-00000-of-00001.parquet ..., or give one file."
            )
        files = {"train": by_name.pop("train")}
        if there := [name for name in VALIDATION_NAMES if name in by_name]:
            files["validation"] = by_name.pop(there[0])
        self.notes = tuple(f"left out {len(paths):,} files of {name!r}" for name, paths in by_name.items())
        return files


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over a folder that it may not read


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_FILES


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not _is_hidden(name)


def _hash_fraction(name: str) -> float:
    """A number in [0, 1) that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _utf8(name: str) -> str:
    # File names need not be UTF-8; keys and class names must be.
    return os.fsencode(name).decode("utf-8", "replace")


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a whole Parquet file: {error}. Fetch it again.") from None


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str]:
    """Names of the image and the label column."""
    kinds = {column.name: column.type for column in schema}
    images = [name for name in IMAGE_COLUMNS if name in kinds and _holds_bytes(kinds[name])]
    labels = [name for name in LABEL_COLUMNS if name in kinds and pa.types.is_integer(kinds[name])]
    if images and labels:
        return images[0], labels[0]
    there = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
    raise UserError(
        f"{path} needs an image column ({' or '.join(IMAGE_COLUMNS)}: a struct with a binary field `bytes`) and an "
        f"integer column {' or '.join(LABEL_COLUMNS)}. Its columns: {there}. Rename or convert them."
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    return fields.get("bytes") in (pa.binary(), pa.large_binary())


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """From the metadata that Hugging Face `datasets` writes; empty if there are none."""
    try:
        metadata: Any = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in metadata["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _numbered_classes(paths: list[Path], label: str) -> tuple[str, ...]:
    highest = [pc.max(pq.read_table(path, columns=[label]).column(label)).as_py() or 0 for path in paths]
    return tuple(str(number) for number in range(max(highest) + 1))
