"""LitData over its own chunks."""

import functools
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.benchmarks.loaders.dataloader import child_pids
from cluster.benchmarks.loaders.material import Material, copy_of
from cluster.benchmarks.loaders.peer import Batch, Peer
from cluster.benchmarks.loaders.plain import Transform

CHUNK_BYTES = "8MB"


class Lightning(Peer):
    @staticmethod
    def write(material: Material) -> None:
        litdata: Any = importlib.import_module("litdata")
        folder = copy_of(material, "litdata")
        litdata.optimize(
            fn=functools.partial(_record, material.folder),
            inputs=list(range(material.images)),
            output_dir=str(folder),
            chunk_bytes=CHUNK_BYTES,
            num_workers=1,
        )

    def open(self, state: Any) -> None:
        litdata: Any = importlib.import_module("litdata")
        transform = Transform(self.material)
        images = litdata.StreamingDataset(
            str(self.material.form("litdata")),
            shuffle=True,
            transform=lambda record: (record["id"], transform(io.BytesIO(record["jpeg"]))),
        )
        self._loader: Any = litdata.StreamingDataLoader(images, batch_size=self.batch, num_workers=self.workers)
        if state is not None:
            self._loader.load_state_dict(state)

    def epoch(self) -> Iterator[Batch]:
        for ids, images in self._loader:
            yield ids.numpy(), images

    def state(self) -> Any:
        return self._loader.state_dict()

    def pids(self) -> list[int]:
        return child_pids()

    def close(self) -> None:
        del self._loader


def _record(folder: Path, number: int) -> dict[str, Any]:
    return {"id": number, "jpeg": Material(folder).file(number).read_bytes()}
