"""What every contender of `bench data` does, and how many are known. Importing this loads none of their libraries."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.benchmarks.loaders.material import Material

Batch = tuple[npt.NDArray[np.int64], Any]
"""Ids of the records [B], and their pixels as a torch tensor: float32 [B, 3, 224, 224], or uint8 [B, 224, 224, 3] crops."""


class Peer:
    """A loader over the material: JPEGs of 256 x 256 in, shuffled and augmented batches out."""

    def __init__(self, material: Material, *, batch: int, workers: int, **options: Any) -> None:
        """batch: images. workers: processes that decode; 0: this one does. options: the contender's own."""
        self.material, self.batch, self.workers, self.options = material, batch, workers, options

    @staticmethod
    def write(material: Material) -> None:
        """Make the material's form that this library reads, once, before any process of it starts."""

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """What must run as long as the process does, and is not counted as the loader's start."""
        yield

    def open(self, state: Any) -> None:
        """Make the loader, at the start or, where `state` is what an earlier one's `state` gave, where that one was."""
        raise NotImplementedError

    def epoch(self) -> Iterator[Batch]:
        """The next pass over the images, or what is left of the one that was interrupted."""
        raise NotImplementedError

    def state(self) -> Any:
        """Where it is, as something that can be pickled. None: the library has no such thing."""
        return None

    def pids(self) -> list[int]:
        """The processes that decode."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the loader; `open` may follow."""


FOLDER = "cluster.benchmarks.loaders"
PEERS = {
    "ours": (f"{FOLDER}.ours", "Ours", "", ""),
    "DataLoader": (f"{FOLDER}.dataloader", "Plain", "torch", "torch"),
    "persistent": (f"{FOLDER}.dataloader", "Persistent", "torch", "torch"),
    "torchdata": (f"{FOLDER}.dataloader", "Stateful", "torchdata", "torchdata"),
    "Ray Data": (f"{FOLDER}.raydata", "RayData", "pandas", "ray[data]"),
    "WebDataset": (f"{FOLDER}.webtar", "WebTar", "webdataset", "webdataset"),
    "Mosaic": (f"{FOLDER}.mosaic", "Mosaic", "streaming", "mosaicml-streaming"),
    "LitData": (f"{FOLDER}.lightning", "Lightning", "litdata", "litdata"),
}
"""Module and class of each, the module that must be there for it, and what pip calls that."""


def missing(name: str) -> str:
    """What to install for a peer; empty if it is there."""
    _, _, needed, install = PEERS[name]
    return install if needed and importlib.util.find_spec(needed) is None else ""


def peer_class(module: str, name: str) -> type[Peer]:
    found: type[Peer] = getattr(importlib.import_module(module), name)
    return found
