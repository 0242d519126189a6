"""Ray Data over Parquet files of JPEG bytes, the form that its documentation recommends for many small images."""

import contextlib
import importlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from cluster.benchmarks.loaders.material import Material, copy_of, shards_of
from cluster.benchmarks.loaders.peer import Batch, Peer

STORE_BYTES = 2**30
FILES, ROWS_PER_GROUP = 8, 64


class RayData(Peer):
    """Options: `shuffle`, "all" (random_shuffle, the default), "local" (files and a local buffer) or "none"; `crops_only`."""

    @staticmethod
    def write(material: Material) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = copy_of(material, "parquet")
        for number, part in enumerate(shards_of(enumerate(material.jpegs()), FILES)):
            ids, jpegs = zip(*part, strict=True)
            table = pa.table({"id": pa.array(ids, pa.int64()), "jpeg": pa.array(jpegs, pa.binary())})
            pq.write_table(table, folder / f"{number:05d}.parquet", row_group_size=ROWS_PER_GROUP)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        from cluster.ray_session import ray_session

        with ray_session(None, num_cpus=max(1, self.workers), object_store_bytes=STORE_BYTES):
            import ray.data

            ray.data.DataContext.get_current().enable_progress_bars = False
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            yield

    def open(self, state: Any) -> None:
        from cluster.benchmarks.loaders.plain import transformation

        transform = transformation(self.material, crops_only=bool(self.options.get("crops_only")))

        def augment(rows: dict[str, Any]) -> dict[str, Any]:
            images = [transform(io.BytesIO(jpeg)).numpy() for jpeg in rows["jpeg"]]
            return {"id": rows["id"], "images": np.stack(images)}

        how = self.options.get("shuffle", "all")
        rows: Any = importlib.import_module("ray.data").read_parquet(
            str(self.material.form("parquet")), shuffle="files" if how == "local" else None
        )
        if how == "all":
            rows = rows.random_shuffle()
        self._dataset: Any = rows.map_batches(augment, batch_size=self.batch)
        self._buffer = {"local_shuffle_buffer_size": 4 * self.batch} if how == "local" else {}

    def epoch(self) -> Iterator[Batch]:
        import torch

        for rows in self._dataset.iter_batches(batch_size=self.batch, batch_format="numpy", **self._buffer):
            # Arrays from the store are read-only, which torch cannot express: a copy, as iter_torch_batches makes it.
            yield rows["id"], torch.from_numpy(rows["images"].copy())

    def pids(self) -> list[int]:
        """Worker processes that are decoding now; Ray names a process after its task."""
        workers = [process for process in psutil.Process().children(recursive=True) if _does(process, "ray::Map")]
        return sorted(process.pid for process in workers)


def _does(process: psutil.Process, what: str) -> bool:
    try:
        return " ".join(process.cmdline()).startswith(what)
    except psutil.Error:
        return False
