"""Real column workers, feeds, data workers and checkpoints in plain processes. Only what Ray would carry is played.

A reference is the task that makes a batch, or the batch itself where it has come from another process.
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from safetensors.numpy import load_file

from configs.schema import Config
from tests.data import made_up
from tests.whole.paper import Pictures
from tests.workers.played import PlayedWorker
from workers import column_worker
from workers.checkpoint import Checkpoint
from workers.column_worker import ColumnWorker
from workers.data.data_worker import DataWorker
from workers.data.dataset import Dataset
from workers.data.manifest import PIXEL_MEAN_FILE, Manifest
from workers.data.shards import Record, write_shard
from workers.mesh import Mesh
from workers.program import Program

PROCESSES = 4
TIME_LIMIT_SECONDS = 600.0
"""Of one start, whatever else the machine has to do, compilation included."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a run's processes."""

    config: Config
    replicas: int = 1
    processes: int = 2
    """Per replica, for its two columns."""
    items: int | None = None
    """Items after which it is asked to stop: parts of steps and of evaluations."""

    @property
    def mesh(self) -> Mesh:
        columns = self.config.network.columns // self.processes
        return Mesh(
            replicas=self.replicas, processes_per_replica=self.processes, columns_per_process=columns, device="cpu"
        )


class Processes:
    """Those that columns run in, one after the other's run; importing torch takes longer than most runs here."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pool = ProcessPoolExecutor(PROCESSES, context, initializer=_prepare)

    def play(self, start: Start, place: Path, checkpoint: Checkpoint | None, attempt: int) -> list[dict[str, Any]]:
        """What each rank comes to. Raises what a rank has raised."""
        driver = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        asked = [
            self._pool.submit(_column, driver.port, rank, start, str(place), checkpoint, attempt)
            for rank in range(start.mesh.size)
        ]
        return [future.result(TIME_LIMIT_SECONDS) for future in asked]

    def end(self) -> None:
        self._pool.shutdown()


def _prepare() -> None:
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

    def get(reference: Any) -> Any:
        return reference.result() if isinstance(reference, asyncio.Task) else reference

    patch("ray.get", get).start()


def _column(
    port: int, rank: int, start: Start, place: str, checkpoint: Checkpoint | None, attempt: int
) -> dict[str, Any]:
    config, mesh = start.config, start.mesh
    driver = dist.TCPStore("127.0.0.1", port, None, False, timeout=timedelta(seconds=TIME_LIMIT_SECONDS))
    worker = ColumnWorker(config, mesh, rank)
    looks = itertools.count(1)
    stop: Any = SimpleNamespace(is_set=lambda: start.items is not None and next(looks) > start.items)
    worker._stop = stop
    if rank == 0:
        driver.set("store", str(worker.open_store("127.0.0.1")))
    worker.join("127.0.0.1", "127.0.0.1", int(driver.get("store")))
    try:
        first = mesh.first_rank(mesh.replica(rank))
        feeder = None
        if rank == first:
            _open_feed(worker, checkpoint)
            if mesh.processes_per_replica > 1:
                listener = Listener(("127.0.0.1", 0))
                threading.Thread(target=_serve, args=(listener, worker), daemon=True).start()
                driver.set(f"feed {rank}", str(listener.address[1]))
        else:
            feeder = _feeder(Client(("127.0.0.1", int(driver.get(f"feed {first}")))))
        with ExitStack() as stack:
            if config.compute.precision == "fp32":
                for name in ("AlexNet", "Preprocess"):
                    stack.enter_context(patch.object(column_worker, name, _wide(getattr(column_worker, name))))
            result = worker.train(feeder, place, checkpoint, attempt)
        status = worker.status(0, 0)
        dist.barrier()  # nobody needs the feed any more
        if worker._feed:
            worker._feed.close()
    finally:
        dist.destroy_process_group()
    return {
        **result,
        "reports": [report.as_json() for report in status.reports],
        "messages": status.messages,
        "counts": status.feed_counts,
    }


def _wide(kind: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """Made in float64, so that a sum in another order is no difference. The initial weights stay those of float32."""
    return lambda *given, **named: kind(*given, **named).double()


def _open_feed(worker: ColumnWorker, checkpoint: Checkpoint | None) -> None:
    """With two data workers, the second of which takes its time."""
    config, mesh = worker.config, worker.mesh
    splits = Manifest.load(Path(config.data.path)).splits
    program = Program.of(
        config,
        train_rows=splits["train"].rows,
        validation_rows=splits["validation"].rows,
        replica=mesh.replica(worker.rank),
        replicas=mesh.replicas,
    )
    workers = {f"#{number}": PlayedWorker(DataWorker(config, f"#{number}").batch, number / 100) for number in range(2)}
    worker.open_feed(workers, program, checkpoint)


def _serve(listener: Listener, worker: ColumnWorker) -> None:
    """Batches to the other column of the replica, as Ray calls `batch` and carries what it refers to."""
    with listener.accept() as other:
        while True:
            try:
                [reference] = worker.batch(*other.recv())
                other.send(reference.result())
            except EOFError:
                return
            except Exception as error:  # what was asked for is at fault, and its asker is told
                other.send(error)


def _feeder(first: Connection) -> Any:
    def ask(number: int, reader: int) -> list[Any]:
        first.send((number, reader))
        got = first.recv()
        if isinstance(got, Exception):
            raise got
        return [got]

    return SimpleNamespace(batch=SimpleNamespace(remote=ask))


def stored(place: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest checkpoint, read by hand: `state.json`, and the whole network's tensors by name."""
    folder = sorted(place.glob("step-*"))[-1]
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    found: dict[str, dict[int, Any]] = {}
    for file in state["files"]:
        tensors = load_file(folder / file["file"])
        for name, (first, _) in file["rows"].items():
            found.setdefault(name, {})[first] = tensors[name]
    return state, {name: np.concatenate([parts[first] for first in sorted(parts)]) for name, parts in found.items()}


def pictures(folder: Path) -> Pictures:
    """Of a prepared data set."""
    manifest = Manifest.load(folder)
    found = {split: Dataset(folder, split, manifest) for split in manifest.splits}
    pixels = {name: np.zeros((len(of), *[manifest.image_size] * 2, 3), np.uint8) for name, of in found.items()}
    for split, dataset in found.items():
        for row in range(len(dataset)):
            dataset.decode_into(row, pixels[split][row])
    return Pictures(
        pixels=pixels,
        labels={split: dataset.labels for split, dataset in found.items()},
        mean_SSC=manifest.pixel_mean(folder),
        eigenvalues=manifest.rgb_eigenvalues,
        eigenvectors=manifest.rgb_eigenvectors,
    )


def make_pictures(folder: Path, *, size: int, rows: dict[str, int], classes: int) -> Pictures:
    """Noise around a colour of each class's own, stored raw in shards of 8 rows, with made-up statistics in the manifest."""
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True)
    pixels, labels, splits, colours = {}, {}, {}, generator.integers(40, 216, (classes, 3))
    for split, count in rows.items():
        labels[split] = np.arange(count) * 3 % classes
        noise = generator.integers(-40, 41, (count, size, size, 3))
        pixels[split] = (colours[labels[split]][:, None, None] + noise).astype(np.uint8)
        rows_of = enumerate(zip(labels[split].tolist(), pixels[split], strict=True))
        records = [Record(key=f"{split} {row}", label=label, image=image.tobytes()) for row, (label, image) in rows_of]
        shards = range(0, count, 8)
        infos = [write_shard(folder / f"{split}-{first}.arrow", records[first : first + 8]) for first in shards]
        splits[split] = made_up.split_of(infos)
    mean = generator.uniform(90, 150, (size, size, 3)).astype(np.float32)
    np.save(folder / PIXEL_MEAN_FILE, mean)
    made_up.manifest(
        size,
        [],
        encoding="raw",
        classes=tuple(f"class {number}" for number in range(classes)),
        splits=splits,
        rgb_mean=tuple(mean.mean(axis=(0, 1), dtype=np.float64).tolist()),
        rgb_eigenvalues=(100.0, 900.0, 5000.0),
        rgb_eigenvectors=tuple(map(tuple, np.linalg.qr(generator.normal(size=(3, 3)))[0].tolist())),
    ).write(folder)
    return replace(pictures(folder), pixels=pixels, labels=labels)
