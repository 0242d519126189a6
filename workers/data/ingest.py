"""One chunk of a source becomes one shard, and what the training set's statistics need is counted on the way.

Sums are kept in integers, so the statistics are exact and do not depend on the order in which chunks arrive.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import UserError
from workers.data.images import BadImage, to_square, to_stored_jpeg
from workers.data.manifest import Encoding, Quarantined, Triple
from workers.data.shards import Record, ShardInfo, write_shard
from workers.data.sources import Chunk, SourceItem


class Source(Protocol):
    """What is asked of a source of images; see `workers.data.sources`. Must be picklable."""

    description: str
    """Kind and place, for the manifest."""
    classes: tuple[str, ...]
    """Class names; labels are indices into them."""
    splits: dict[str, int]
    """Images in each split: `train`, and `validation` if there is one."""
    notes: tuple[str, ...]
    """What was left out while listing, in words for the user."""

    def chunks(self, split: str, rows: int) -> Iterator[Chunk]:
        """The split cut into ranges of `rows` images; the last may be shorter."""

    def read(self, chunk: Chunk) -> Iterator[SourceItem]:
        """The chunk's images in order, in bounded memory. Raises UserError if the source cannot be read."""

    def stamp(self, chunk: Chunk) -> str:
        """Another one once the files that the chunk is read from have changed."""


@dataclass(kw_only=True)
class PixelSums:
    """Sums over images, as stored. int64 holds them up to 10^9 images of 256 x 256."""

    images: int = 0
    pixels: NDArray[np.int64]
    """[size, size, 3]."""
    products: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 3), np.int64))
    """[3, 3]: over all pixels, channel times channel."""

    def add_image(self, image: NDArray[np.uint8]) -> None:
        """image: [size, size, 3]."""
        values = image.reshape(-1, 3).astype(np.float64)
        self.images += 1
        self.pixels += image.astype(np.int64)  # NumPy adds what is of one type many times faster
        # A float64 holds these integers exactly: they stay below 2^53 for images of up to 2^37 pixels.
        self.products += (values.T @ values).astype(np.int64)

    def add(self, other: "PixelSums") -> None:
        """Add the sums over other images of the same size."""
        self.images += other.images
        self.pixels += other.pixels
        self.products += other.products


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What became of a chunk."""

    chunk: Chunk
    info: ShardInfo | None
    """None if no image of the chunk was good: there is no file then."""
    quarantined: tuple[Quarantined, ...]
    sums: PixelSums
    labels: NDArray[np.int64]
    """[classes]: stored images of each class."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of the training set; see `Manifest` for the fields."""

    pixel_mean: NDArray[np.float32]
    rgb_mean: Triple
    rgb_covariance: tuple[Triple, Triple, Triple]
    rgb_eigenvalues: Triple
    rgb_eigenvectors: tuple[Triple, Triple, Triple]


def make_shard(
    source: Source,
    chunk: Chunk,
    out: Path,
    file: str,
    size: int,
    quality: int,
    *,
    encoding: Encoding = "jpeg",
    apply_orientation: bool = False,
) -> ChunkResult:
    """Read the chunk, bring every image to `size`, and write the good ones to `out`/`file` in order.

    The bytes of the file depend on the source and these settings alone. Bad images are left out and listed with the reason.
    Raises UserError if the source cannot be read at all, OSError if the shard cannot be written.
    """
    sums = PixelSums(pixels=np.zeros((size, size, 3), np.int64))
    labels = np.zeros(len(source.classes), np.int64)
    quarantined: list[Quarantined] = []

    def records() -> Iterator[Record]:
        for item in source.read(chunk):
            try:
                if item.problem:
                    raise BadImage(item.problem)
                if encoding == "raw":
                    pixels = to_square(item.data, size, apply_orientation=apply_orientation)
                    image = pixels.tobytes()
                else:
                    stored = to_stored_jpeg(item.data, size, quality, apply_orientation=apply_orientation)
                    pixels, image = stored.pixels, stored.jpeg
            except BadImage as error:
                quarantined.append(Quarantined(split=chunk.split, key=item.key, reason=error.reason))
                continue
            sums.add_image(pixels)
            labels[item.label] += 1
            yield Record(key=item.key, label=item.label, image=image)

    rows = records()
    first = next(rows, None)
    info = None if first is None else write_shard(out / file, itertools.chain([first], rows))
    read = sums.images + len(quarantined)
    if read != len(chunk):
        raise UserError(
            f"the source changed while it was read: {read} images where {len(chunk)} were listed "
            f"({chunk.split} {chunk.start}..{chunk.stop - 1}). Run the same command again."
        )
    return ChunkResult(chunk=chunk, info=info, quarantined=tuple(quarantined), sums=sums, labels=labels)


def combine(results: Iterable[ChunkResult]) -> Statistics:
    """Statistics over the images of all `results`, which must be those of the train split."""
    total: PixelSums | None = None
    for result in results:
        if total is None:
            total = PixelSums(pixels=np.zeros_like(result.sums.pixels))
        total.add(result.sums)
    if total is None or total.images == 0:
        raise ValueError("statistics need at least one image")
    return statistics(total)


def statistics(sums: PixelSums) -> Statistics:
    """Mean image, and mean, covariance and principal components of the colours of all pixels."""
    size = sums.pixels.shape[0]
    count = sums.images * size * size
    # Python's integers: count * products exceeds 64 bits, and the difference below would lose digits as floats.
    channel = [int(value) for value in sums.pixels.sum(axis=(0, 1))]
    covariance = np.array(
        [[(count * int(sums.products[i, j]) - channel[i] * channel[j]) / count**2 for j in range(3)] for i in range(3)]
    )
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    # An eigenvector's sign is arbitrary; fixed here, so that the manifest does not depend on the LAPACK at hand.
    largest = np.take_along_axis(eigenvectors, np.abs(eigenvectors).argmax(axis=0)[None], axis=0)
    eigenvectors = eigenvectors * np.where(largest < 0, -1.0, 1.0)
    return Statistics(
        pixel_mean=(sums.pixels / sums.images).astype(np.float32),
        rgb_mean=_triple(np.array([value / count for value in channel])),
        rgb_covariance=_matrix(covariance),
        rgb_eigenvalues=_triple(eigenvalues),
        rgb_eigenvectors=_matrix(eigenvectors),
    )


def _triple(values: NDArray[np.float64]) -> Triple:
    first, second, third = values.tolist()
    return first, second, third


def _matrix(values: NDArray[np.float64]) -> tuple[Triple, Triple, Triple]:
    first, second, third = (_triple(row) for row in values)
    return first, second, third
