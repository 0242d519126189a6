"""The data worker: from a request to a batch of uint8 crops, labels and draws. It keeps nothing between requests but
a diary, which says when it made the last ones.

Runs as a Ray actor. It returns the batch (never puts it into the object store itself), so that the caller owns it and the
worker may die; any other worker makes the same batch from the same request.

A training image whose record is damaged never shifts the others: another one, which follows from the place alone, stands in
for it. In testing there is no standing in, for the error rate would be that of other images.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.colour import colour_basis
from configs.schema import Config
from workers.data.cache import open_data
from workers.data.dataset import CorruptRecordError, Dataset
from workers.data.draws import crop_positions, draw, first_offset
from workers.data.manifest import Manifest, pixel_statistics
from workers.data.order import I64, Order
from workers.program import Request

MOST_SUBSTITUTES = 20
"""For one place; where so many in a row are damaged, hardly any image is whole."""
DIARY_BATCHES = 256
"""Of which it is remembered when they were made."""
LOOK_AHEAD = 16_384
"""Images of the stream, from the first request on, whose shards are brought into a cache before the others."""

Substitute = Callable[[int, int], int]
"""From the number of an image in its batch, and of the attempt, to a row."""


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A damaged training image, and what stood in for it."""

    row: int
    """In the training set."""
    key: str
    file: str
    """Its shard."""
    reason: str
    by: str
    """Key of the image in its place."""


class DataWorker:
    """Decodes, crops and draws. `name` is how it is called in messages and in the Ray dashboard."""

    def __init__(self, config: Config, name: str) -> None:
        self.name = name
        self._config = config
        folder, self._cache = open_data(config.data)
        fetch = self._cache.fetch if self._cache else None
        self._manifest = Manifest.load(folder)
        self._train = Dataset(folder, "train", self._manifest, fetch)
        self._validation = Dataset(folder, "validation", self._manifest, fetch)
        same = config.train.order == "same_every_epoch"
        self._order = Order(config.train.seed, len(self._train), same=same)
        self._crop = config.network.input_size
        self._offsets = crop_positions(config.augment, self._manifest.image_size, self._crop)
        self._first_offset = first_offset(config.augment, self._manifest.image_size, self._crop)
        noise = config.augment.colour_noise
        self._basis = None if noise is None else colour_basis(noise, pixel_statistics(self._manifest, folder))
        self._fetches_ahead = False
        self._diary: deque[tuple[float, float, int]] = deque(maxlen=DIARY_BATCHES)

    def __repr__(self) -> str:
        return self.name

    def pid(self) -> int:
        return os.getpid()

    def diary(self) -> list[tuple[float, float, int]]:
        """Of the last batches: when it began with each, in seconds since 1970, seconds that it took, and images."""
        return list(self._diary)

    def batch(self, request: Request) -> dict[str, Any]:
        """numpy arrays: images uint8 [B, crop, crop, 3], labels int64 [B], offsets int64 [B, 2]; in training also mirror bool
        [B], keys int64 [B], and with colour noise colour float32 [B, 3] and noisy bool [B].

        Beside them `decoded`, the number of images decoded for it, `seconds`, the time it took, and `replaced`, a list of
        `Replaced`. Raises CorruptRecordError for a damaged validation image, CorruptShardError for a shard that cannot be read.
        """
        started = time.perf_counter()
        self._fetch_ahead(request)
        wanted = _wanted(request)
        made = self._train_batch(wanted) if request.split == "train" else self._centres(wanted)
        return self._done(made, request, started)

    def views_batch(self, request: Request) -> dict[str, Any]:
        """Whole validation images, from which views are cut on the device: images uint8 [B, size, size, 3], labels int64 [B];
        beside them `decoded`, `seconds` and `replaced` (empty), as in `batch`.

        Raises ValueError for a request of training images.
        """
        if request.split != "validation":
            raise ValueError(f"views are for testing, not for {request}")
        started = time.perf_counter()
        self._fetch_ahead(request)
        rows, size = _wanted(request), self._manifest.image_size
        made = self._read(self._validation, rows, np.zeros((len(rows), 2), np.int64), size)
        del made["offsets"]
        return self._done(made, request, started)

    def _done(self, made: dict[str, Any], request: Request, started: float) -> dict[str, Any]:
        seconds = time.perf_counter() - started
        self._diary.append((time.time() - seconds, seconds, request.count))
        return {**made, "decoded": request.count, "seconds": seconds}

    def _train_batch(self, samples: I64) -> dict[str, Any]:
        epochs, positions, rows = self._order.at(samples)
        draws = draw(
            self._config.augment,
            seed=self._config.train.seed,
            epochs=epochs,
            positions=positions,
            offsets_per_axis=self._offsets,
            first=self._first_offset,
            colour_basis=self._basis,
        )

        def substitute(number: int, attempt: int) -> int:
            return self._order.substitute(int(epochs[number]), int(positions[number]), attempt)

        batch = self._read(self._train, rows, draws.offsets, self._crop, substitute)
        batch |= {"mirror": draws.mirror, "keys": draws.keys}
        if draws.colour is not None:
            batch |= {"colour": draws.colour, "noisy": draws.noisy}
        return batch

    def _centres(self, rows: I64) -> dict[str, Any]:
        centre = (self._manifest.image_size - self._crop) // 2
        return self._read(self._validation, rows, np.full((len(rows), 2), centre, np.int64), self._crop)

    def _read(
        self, dataset: Dataset, rows: I64, offsets: I64, side: int, substitute: Substitute | None = None
    ) -> dict[str, Any]:
        """Squares of `side` pixels at `offsets` of these rows, and their labels. substitute: None if there is none."""
        size = self._manifest.image_size
        images = np.empty((len(rows), side, side, 3), np.uint8)
        labels = np.empty(len(rows), np.int64)
        scratch = np.empty((size, size, 3), np.uint8)
        replaced: list[Replaced] = []
        dataset.will_need(rows.tolist())
        for number, (row, (y, x)) in enumerate(zip(rows.tolist(), offsets.tolist(), strict=True)):
            try:
                used, pixels = row, dataset.pixels(row, scratch)
            except CorruptRecordError as error:
                if substitute is None:
                    raise
                used, pixels = _stand_in(dataset, scratch, number, row, error, substitute, replaced)
            images[number] = pixels[y : y + side, x : x + side]
            labels[number] = dataset.label(used)
        return {"images": images, "labels": labels, "offsets": offsets, "replaced": replaced}

    def _fetch_ahead(self, request: Request) -> None:
        """On the first request, begin to bring shards into the cache: those that are needed first, first."""
        if self._cache is None or self._fetches_ahead:
            return
        self._fetches_ahead = True
        first, second = self._train, self._validation
        rows: list[int] = []
        if request.split == "train":
            count = min(LOOK_AHEAD, len(first))
            rows = self._order.at(np.arange(request.start, request.start + count, dtype=np.int64))[2].tolist()
        else:
            first, second = second, first
        self._cache.fetch_ahead([*first.shards_of(rows), *second.shards_of([])])


def _stand_in(
    dataset: Dataset,
    scratch: npt.NDArray[np.uint8],
    number: int,
    row: int,
    error: CorruptRecordError,
    substitute: Substitute,
    replaced: list[Replaced],
) -> tuple[int, npt.NDArray[np.uint8]]:
    """The row that stands in for a damaged one, and its pixels; adds to `replaced`. Raises the last error if many are damaged."""
    damaged = {row: error}
    for attempt in range(MOST_SUBSTITUTES):
        other = substitute(number, attempt)
        try:
            pixels = dataset.pixels(other, scratch)
        except CorruptRecordError as another:
            damaged[other] = error = another
            continue
        by = dataset.key(other)
        replaced += [
            Replaced(row=bad, key=why.key, file=why.file, reason=why.reason, by=by) for bad, why in damaged.items()
        ]
        return other, pixels
    raise error


def _wanted(request: Request) -> I64:
    return np.arange(request.start, request.start + request.count, dtype=np.int64)
