"""Parquet files, as Hugging Face lays out image sets, as a source of images."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from configs.errors import UserError
from workers.data.sources.folder import VALIDATION_NAMES
from workers.data.sources.items import Chunk, RangesChunk, SourceItem, cut, stamp_of

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")
PARQUET_NAME = re.compile(r"(?P<split>.+?)-\d+-of-(?P<files>\d+).*\.parquet")
READ_ROWS = 128


class ParquetSource:
    """A Parquet file, or a folder that holds some (`root/*.parquet` or `root/data/*.parquet`).

    The part of a file's name before `-00000-of-00001` is its split. `train` is needed; `validation` (or `valid`, `val`, or
    `test` where there is none of these) becomes `validation`, unless it has no labels. A single file of any name is the training
    set. Keys are "<file's stem>/<row>": the paths inside such files are often null or repeated.

    first_classes: take the images of this many classes only, those with the lowest labels; None: all.

    Raises UserError if there are no such files, or they lack the columns, naming those that are there, or have fewer classes.
    """

    def __init__(self, root: str | Path, first_classes: int | None = None) -> None:
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
        if "validation" in files and _highest_label(files["validation"], self._label) < 0:
            count = len(files.pop("validation"))  # Hugging Face's way to publish a test set without its answers
            self.notes = (
                *self.notes,
                f"left out {count:,} files that would be the validation split: no labels in them",
            )
        self.classes = _class_names(schemas[first], self._label) or _numbered_classes(files["train"], self._label)
        if len(self.classes) < 2:
            raise UserError(f"{given} has one class only: a classifier needs two")
        self.description = f"Parquet files in {given.resolve()}"
        self._kept: dict[str, NDArray[np.int64]] = {}
        """By file: the rows that are taken, where not all are."""
        if first_classes is not None:
            self._keep(first_classes, files)
        self._files = {split: [self._rows_of(path) for path in paths] for split, paths in files.items()}
        self.splits = {split: sum(rows for _, rows in counts) for split, counts in self._files.items()}

    def _keep(self, classes: int, files: dict[str, list[Path]]) -> None:
        if classes > len(self.classes):
            raise UserError(f"{self.root} has {len(self.classes)} classes, fewer than the {classes} asked for")
        self.classes = self.classes[:classes]
        self.description += f", the first {classes} classes"
        for path in (path for paths in files.values() for path in paths):
            labels = pq.read_table(path, columns=[self._label]).column(self._label)
            # Rows without a label are read, so that they are named as bad.
            self._kept[self._name(path)] = np.flatnonzero(pc.fill_null(labels, -1).to_numpy() < classes)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _rows_of(self, path: Path) -> tuple[str, int]:
        """Name, and how many of its rows are taken."""
        name = self._name(path)
        return name, len(self._kept[name]) if name in self._kept else pq.read_metadata(path).num_rows

    def chunks(self, split: str, rows: int) -> Iterator[RangesChunk]:
        """The split, in order of file and row, cut into ranges of `rows`; a range may span files."""
        for chunk in cut(split, self._files[split], rows):
            yield replace(chunk, ranges=tuple(self._range(*one) for one in chunk.ranges)) if self._kept else chunk

    def _range(self, name: str, first: int, last: int) -> tuple[str, int, int]:
        """From places among the rows taken to rows of the file."""
        kept = self._kept[name]
        return name, int(kept[first]), int(kept[last - 1]) + 1

    def stamp(self, chunk: Chunk) -> str:
        """See `Source`."""
        assert isinstance(chunk, RangesChunk)
        return stamp_of(self.root / name for name, _, _ in chunk.ranges)

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's rows. Only their row groups are read, READ_ROWS rows in memory at a time."""
        assert isinstance(chunk, RangesChunk)
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
                    label = labels[index].as_py()
                    if self._kept and label is not None and label >= len(self.classes):
                        continue
                    yield self._item(f"{path.stem}/{row + index}", images[index].as_py(), label)
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
        self.notes = (
            *(f"left out {len(paths):,} files of {name!r}" for name, paths in by_name.items()),
            *(
                f"{split}: {len(paths):,} of {_told(paths):,} files are here"
                for split, paths in files.items()
                if len(paths) < _told(paths)
            ),
        )
        return files


def _told(paths: list[Path]) -> int:
    """How many files there should be, by their names."""
    match = PARQUET_NAME.fullmatch(paths[0].name)
    return int(match["files"]) if match else len(paths)


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
    return tuple(str(number) for number in range(max(0, _highest_label(paths, label)) + 1))


def _highest_label(paths: list[Path], label: str) -> int:
    """-1 if there is none."""
    highest = [pc.max(pq.read_table(path, columns=[label]).column(label)).as_py() for path in paths]
    return max(-1 if value is None else int(value) for value in highest)
