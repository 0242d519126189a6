"""Images of the data set for figure 4: which ones, and a split streamed in blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.cpus import usable_cpus
from cluster.prediction import MOST_THREADS, ahead

if TYPE_CHECKING:
    from configs.schema import Data
    from workers.data.dataset import Dataset
    from workers.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some images of a split."""

    rows_B: NDArray[np.int64]
    images_BSSC: NDArray[np.uint8]
    damaged: int
    """Images that were to be among them and cannot be read."""


def open_split(data: "Data", manifest: "Manifest", split: str) -> "Dataset":
    """From a folder or a URL. Raises UserError."""
    from workers.data.cache import open_data
    from workers.data.dataset import Dataset

    folder, cache = open_data(data)
    return Dataset(folder, split, manifest, cache.fetch if cache else None)


def choose(labels: Sequence[int] | NDArray[np.int32], count: int, seed: int) -> list[int]:
    """Rows of `count` images in a random order that depends on the seed alone; of different classes as far as there are some."""
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    left: list[int] = order
    chosen: list[int] = []
    while left and len(chosen) < count:
        classes, later = set(), []
        for row in left:
            if int(labels[row]) in classes or len(chosen) == count:
                later.append(row)
            else:
                classes.add(int(labels[row]))
                chosen.append(row)
        left = later
    return chosen


def spread(rows: int, among: int | None) -> NDArray[np.int64]:
    """All rows, or `among` of them, evenly spread."""
    if among is None or among >= rows:
        return np.arange(rows)
    return np.arange(among, dtype=np.int64) * rows // among


def images_of(dataset: "Dataset", rows: Sequence[int]) -> NDArray[np.uint8]:
    """uint8 [rows, S, S, 3]. Raises UserError if one is damaged."""
    size = dataset.image_size
    images = np.empty((len(rows), size, size, 3), np.uint8)
    for image, row in zip(images, rows, strict=True):
        dataset.decode_into(row, image)
    return images


def stream(dataset: "Dataset", rows: NDArray[np.int64], batch: int) -> Iterator[Block]:
    """Blocks of at most `batch` images in the rows' order, decoded ahead by threads. Damaged images are counted and left out.

    At most a few blocks are held at once. Raises UserError if a shard cannot be opened.
    """
    from workers.data.dataset import CorruptRecordError

    size = dataset.image_size

    def read(some: NDArray[np.int64]) -> Block:
        images, good = np.empty((len(some), size, size, 3), np.uint8), 0
        taken = []
        dataset.will_need(some.tolist())
        for row in some.tolist():
            try:
                dataset.decode_into(row, images[good])
            except CorruptRecordError:
                continue
            good += 1
            taken.append(row)
        return Block(rows_B=np.array(taken, np.int64), images_BSSC=images[:good], damaged=len(some) - good)

    threads = min(MOST_THREADS, usable_cpus())
    parts = (rows[start : start + batch] for start in range(0, len(rows), batch))
    for _, block in ahead(read, parts, threads=threads, waiting=threads + 1):
        yield block
