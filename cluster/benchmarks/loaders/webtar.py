"""WebDataset over tar files."""

import importlib
import io
import tarfile
from collections.abc import Iterator
from typing import Any

from cluster.benchmarks.loaders.dataloader import child_pids
from cluster.benchmarks.loaders.material import Material, copy_of, shards_of
from cluster.benchmarks.loaders.peer import Batch, Peer
from cluster.benchmarks.loaders.plain import Transform

FILES, BUFFER = 8, 1000


class WebTar(Peer):
    @staticmethod
    def write(material: Material) -> None:
        folder = copy_of(material, "tar")
        for number, part in enumerate(shards_of(enumerate(material.jpegs()), FILES)):
            with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
                for record, jpeg in part:
                    entry = tarfile.TarInfo(f"{record:07d}.jpg")
                    entry.size = len(jpeg)
                    tar.addfile(entry, io.BytesIO(jpeg))

    def open(self, state: Any) -> None:
        webdataset: Any = importlib.import_module("webdataset")
        transform = Transform(self.material)
        tars = sorted(str(path) for path in self.material.form("tar").glob("*.tar"))
        images = (
            webdataset.WebDataset(tars, shardshuffle=len(tars))
            .shuffle(BUFFER)
            .to_tuple("__key__", "jpg")
            .map_tuple(int, lambda jpeg: transform(io.BytesIO(jpeg)))
            .batched(self.batch)
        )
        self._loader: Any = webdataset.WebLoader(images, batch_size=None, num_workers=self.workers)

    def epoch(self) -> Iterator[Batch]:
        yield from self._loader

    def pids(self) -> list[int]:
        return child_pids()

    def close(self) -> None:
        del self._loader
