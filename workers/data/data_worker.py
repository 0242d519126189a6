"""The data worker: from a request to a batch of uint8 crops, labels and draws. It keeps no state between requests.

Runs as a Ray actor. It returns the batch (never puts it into the object store itself), so that the caller owns it and the
worker may die; any other worker makes the same batch from the same request.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet.colour import colour_basis
from configs.schema import Config
from workers.data.dataset import Dataset
from workers.data.draws import crop_positions, draw
from workers.data.manifest import Manifest, pixel_statistics
from workers.data.order import Order
from workers.program import Request


class DataWorker:
    """Decodes, crops and draws. `name` is how it is called in messages and in the Ray dashboard."""

    def __init__(self, config: Config, name: str) -> None:
        self.name = name
        self._config = config
        folder = Path(config.data.path)
        self._manifest = Manifest.load(folder)
        self._train = Dataset(folder, "train", self._manifest)
        self._validation = Dataset(folder, "validation", self._manifest)
        self._order = Order(config.train.seed, len(self._train))
        self._crop = config.network.input_size
        self._offsets = crop_positions(config.augment, self._manifest.image_size, self._crop)
        noise = config.augment.colour_noise
        self._basis = None if noise is None else colour_basis(noise, pixel_statistics(self._manifest, folder))

    def __repr__(self) -> str:
        return self.name

    def pid(self) -> int:
        return os.getpid()

    def batch(self, request: Request) -> dict[str, Any]:
        """numpy arrays: images uint8 [B, crop, crop, 3], labels int64 [B], offsets int64 [B, 2]; in training also mirror bool
        [B], keys int64 [B], and with colour noise colour float32 [B, 3] and noisy bool [B].

        Beside them `decoded`, the number of images decoded for it, and `seconds`, the time it took.
        """
        started = time.perf_counter()
        wanted = np.arange(request.start, request.start + request.count, dtype=np.int64)
        made = self._train_batch(wanted) if request.split == "train" else self._validation_batch(wanted)
        return {**made, "decoded": request.count, "seconds": time.perf_counter() - started}

    def _train_batch(self, samples: npt.NDArray[np.int64]) -> dict[str, Any]:
        epochs, positions, rows = self._order.at(samples)
        draws = draw(
            self._config.augment,
            seed=self._config.train.seed,
            epochs=epochs,
            positions=positions,
            offsets_per_axis=self._offsets,
            colour_basis=self._basis,
        )
        batch = {**self._crops(self._train, rows, draws.offsets), "mirror": draws.mirror, "keys": draws.keys}
        if draws.colour is not None:
            batch |= {"colour": draws.colour, "noisy": draws.noisy}
        return batch

    def _validation_batch(self, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        centre = (self._manifest.image_size - self._crop) // 2
        return self._crops(self._validation, rows, np.full((len(rows), 2), centre, np.int64))

    def _crops(self, dataset: Dataset, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> dict[str, Any]:
        crop, size = self._crop, self._manifest.image_size
        images = np.empty((len(rows), crop, crop, 3), np.uint8)
        whole = np.empty((size, size, 3), np.uint8)
        for image, row, (y, x) in zip(images, rows, offsets, strict=True):
            dataset.decode_into(int(row), whole)
            image[:] = whole[y : y + crop, x : x + crop]
        return {"images": images, "labels": dataset.labels[rows].astype(np.int64), "offsets": offsets}
