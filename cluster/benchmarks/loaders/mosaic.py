"""Mosaic Streaming over its own shards."""

import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from typing import Any

from cluster.benchmarks.loaders.dataloader import child_pids
from cluster.benchmarks.loaders.material import Material, copy_of
from cluster.benchmarks.loaders.peer import Batch, Peer
from cluster.benchmarks.loaders.plain import Transform

SHARD_BYTES = 2**23


def mosaic() -> Any:
    """The package, also beside a CPU build of torch, for which there is no torchvision on PyPI.

    It imports torchvision for classes that read CIFAR and the like, none of which is used here; where torchvision is not there,
    empty names take its place while it is imported.
    """
    if importlib.util.find_spec("torchvision") is None:
        transformers: Any = importlib.import_module("transformers")
        # It loads these late, and looks for torchvision then; it must not find the names below.
        _ = transformers.BatchEncoding, transformers.BatchFeature
        names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
        modules = {name: types.ModuleType(name) for name in names}
        vars(modules["torchvision.datasets"])["VisionDataset"] = object
        vars(modules["torchvision.transforms.functional"])["to_tensor"] = None
        sys.modules.update(modules)
        try:
            importlib.import_module("streaming")
        finally:
            for name in names:
                del sys.modules[name]
    return importlib.import_module("streaming")


class Mosaic(Peer):
    @staticmethod
    def write(material: Material) -> None:
        folder, columns = copy_of(material, "mds"), {"id": "int", "jpeg": "bytes"}
        with mosaic().MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
            for number, jpeg in enumerate(material.jpegs()):
                writer.write({"id": number, "jpeg": jpeg})

    def open(self, state: Any) -> None:
        streaming: Any = mosaic()
        transform = Transform(self.material)

        class Images(streaming.StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                record = super().__getitem__(at)
                return record["id"], transform(io.BytesIO(record["jpeg"]))

        # What an instance that was killed, or has just been closed, left in shared memory.
        streaming.base.util.clean_stale_shared_memory()
        images = Images(local=str(self.material.form("mds")), shuffle=True, batch_size=self.batch)
        self._loader: Any = streaming.StreamingDataLoader(images, batch_size=self.batch, num_workers=self.workers)
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
