"""torch.utils.data.DataLoader over files, and torchdata's StatefulDataLoader, which adds where it is."""

import importlib
import multiprocessing
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cluster.benchmarks.loaders.material import Material
from cluster.benchmarks.loaders.peer import Batch, Peer
from cluster.benchmarks.loaders.plain import transformation


class Files(Dataset[tuple[int, Tensor]]):
    def __init__(self, material: Material, *, crops_only: bool = False) -> None:
        self._paths = [material.file(number) for number in range(material.images)]
        self._transform = transformation(material, crops_only=crops_only)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, self._transform(self._paths[index])


class Plain(Peer):
    """Option `crops_only`: uint8 crops and nothing more."""

    persistent = False
    """Whether workers stay from one epoch to the next; by default they end."""

    def open(self, state: Any) -> None:
        files = Files(self.material, crops_only=bool(self.options.get("crops_only")))
        keep = self.persistent and self.workers > 0
        self._loader: Any = DataLoader(
            files, batch_size=self.batch, shuffle=True, num_workers=self.workers, persistent_workers=keep
        )

    def epoch(self) -> Iterator[Batch]:
        for ids, images in self._loader:
            yield ids.numpy(), images

    def pids(self) -> list[int]:
        return child_pids()

    def close(self) -> None:
        del self._loader


class Persistent(Plain):
    """Its workers stay, and begin the next epoch without a start."""

    persistent = True


class Stateful(Plain):
    def open(self, state: Any) -> None:
        torchdata: Any = importlib.import_module("torchdata.stateful_dataloader")
        files = Files(self.material)
        self._loader = torchdata.StatefulDataLoader(
            files, batch_size=self.batch, shuffle=True, num_workers=self.workers
        )
        if state is not None:
            self._loader.load_state_dict(state)

    def state(self) -> Any:
        return self._loader.state_dict()


def child_pids() -> list[int]:
    """Loader processes of this one, oldest first."""
    return sorted(process.pid for process in multiprocessing.active_children() if process.pid)
