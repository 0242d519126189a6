"""The column worker: the Ray actor that owns one column of one replica (or all columns, on a single GPU) and trains it."""

import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import ray
import torch
import torch.distributed as dist

from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics
from alexnet.compiled import NotCompiledWarning
from alexnet.counter import VERSION as DRAWS_VERSION
from alexnet.exchange import ColumnExchange, NoExchange
from alexnet.layout import channels_last
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.precision import set_precision
from alexnet.schedule import make_schedule
from alexnet.step import Step
from configs.schema import Config
from workers.batches import Batches
from workers.checkpoint import Checkpoint, load
from workers.data.cache import local_folder
from workers.data.feed import Feed
from workers.data.manifest import Manifest, pixel_statistics
from workers.data.storage import is_url
from workers.groups import Groups, flight_records, use_interface
from workers.hosted_feed import HostedFeed
from workers.init_from import init_from
from workers.interfaces import interface_of
from workers.loop import Loop
from workers.mesh import Mesh
from workers.profiling import Profiling, Trace
from workers.program import Program
from workers.progress import Progress, ProgressTeller
from workers.reports import ColumnReport, WarningReport

MOST_UNTOLD = 1000
"""Reports in a checkpoint, of about 1 kB each, if the driver stands still; else those of a second or two."""


@dataclass(frozen=True)
class Status:
    """A column's answer to how it is doing; `messages` and `feed_counts` (see `Feed.status`) where it has the feed."""

    progress: Progress
    reports: list[ColumnReport]
    messages: list[str]
    feed_counts: dict[str, Any]


class ColumnWorker:
    """Owns columns of the network on one device. `train` or `evaluate` runs for long; the other methods answer meanwhile.

    Start-up: rank 0 opens a store (`open_store`), every rank joins it (`join`), then all are told to train or evaluate.
    """

    def __init__(self, config: Config, mesh: Mesh, rank: int) -> None:
        self.config, self.mesh, self.rank = config, mesh, rank
        self.name = mesh.name(rank)
        self._profiling: Profiling | None = None
        self._store: dist.TCPStore | None = None
        self._reports: list[ColumnReport] = []
        """Those that the driver may not have seen yet."""
        self._reports_gone = 0
        self._progress = ProgressTeller()
        self._stop = threading.Event()
        self._feed: HostedFeed | None = None
        self._started = time.monotonic()

    def __repr__(self) -> str:
        return self.name

    def about(self) -> dict[str, Any]:
        """Who this is: name, process, Ray's id of the node, and the device that it computes on."""
        device = (
            torch.cuda.get_device_name()
            if self.mesh.device == "cuda"
            else f"{self.config.cluster.cpus_per_column} CPU thread(s)"
        )
        return {
            "name": self.name,
            "pid": os.getpid(),
            "node_id": ray.get_runtime_context().get_node_id(),
            "device": device,
        }

    def open_store(self, own: str) -> int:
        """Open the store through which the ranks find each other, at this node's address; returns its port. Rank 0 only.

        This process keeps it alive.
        """
        self._store = dist.TCPStore(own, 0, is_master=True, wait_for_workers=False, timeout=self._start_timeout())
        return self._store.port

    def join(self, own: str, address: str, port: int) -> None:
        """Join the process groups.

        own: this node's address in the cluster. address, port: of rank 0's store.
        """
        interface = interface_of(own)
        if interface:
            use_interface(interface)
        store = self._store or dist.TCPStore(address, port, is_master=False, timeout=self._start_timeout())
        timeout = timedelta(seconds=self.config.cluster.collective_timeout_seconds)
        saving = timedelta(seconds=self.config.checkpoint.save_timeout_seconds)
        self.groups = Groups.join(self.mesh, self.rank, store, timeout, saving)

    def open_feed(
        self,
        data_workers: dict[str, Any],
        program: Program,
        start: Checkpoint | None,
        views: Literal[1, 10] = 1,
        only_evaluation: bool = False,
    ) -> None:
        """Begin to have batches made, from where `start` was saved. Of a replica's columns, the first one does this for all.

        data_workers: actor handles by name. views: of each image in testing. only_evaluation: nothing but the validation set.
        """
        self._feed = HostedFeed(
            Feed(
                f"feed r{self.mesh.replica(self.rank)}",
                data_workers,
                window=self.config.cluster.window,
                readers=self.mesh.processes_per_replica,
                max_corrupt_records=self.config.data.max_corrupt_records,
                whole_images=views == 10,
            )
        )
        step, evaluated = (start.step, start.evaluated) if start else (0, False)
        self._feed.open(program, step, evaluated, only_evaluation)

    def batch(self, number: int, reader: int) -> list[Any]:
        """Batch `number` of the feed here, as [reference], for another column. Blocks until it is made."""
        assert self._feed is not None, f"{self.name} has opened no feed"
        return self._feed.get(number, reader)

    def train(self, feeder: Any, checkpoints: str, start: Checkpoint | None, attempt: int = 1) -> dict[str, Any]:
        """Train from `start` (or from the beginning) to the end of the program, or until asked to stop.

        feeder: handle of the replica's column that has opened the feed, at the same place; None: this one has.
        checkpoints: folder that all nodes see, or URL.
        attempt: at the run, from 1; part of the checkpoints' names.
        Returns `ended`, "finished" or "stopped"; `step`; and `errors` of the last evaluation.
        """
        return self._run(feeder, start, train=True, checkpoints=checkpoints, attempt=attempt)

    def evaluate(
        self, feeder: Any, start: Checkpoint, views: Literal[1, 10], statistics: PixelStatistics
    ) -> dict[str, Any]:
        """Test the network of a checkpoint on the validation set, by the centre or ten views; returns as `train`.

        statistics: of the images that the network was trained on, which need not be this data set's.
        """
        return self._run(feeder, start, train=False, checkpoints=start.place, views=views, statistics=statistics)

    def status(self, reports_seen: int, messages_seen: int) -> Status:
        """How far it is, and what is new since."""
        messages, counts = self._feed.status(messages_seen) if self._feed else ([], {})
        # A call that was given up may come after a later one, and has nothing to say any more.
        if (seen := reports_seen - self._reports_gone) > 0:
            del self._reports[:seen]
            self._reports_gone = reports_seen
        return Status(self._progress.read(), list(self._reports), messages, counts)

    def untold(self) -> list[ColumnReport]:
        """The newest of the reports that the driver may not have."""
        return self._reports[-MOST_UNTOLD:]

    def collectives(self) -> str:
        """What this process's process groups did last (torch's flight recorders), as JSON: {"gloo": ..., "nccl": ...}."""
        return flight_records(self.mesh.device)

    def trace(self) -> Trace | None:
        """Of the steps that were profiled; None if there is none."""
        return self._profiling.trace if self._profiling else None

    def stop(self) -> None:
        """Ask for a stop before the next item; all ranks agree on which that is."""
        self._stop.set()

    def _run(
        self,
        feeder: Any,
        start: Checkpoint | None,
        *,
        train: bool,
        checkpoints: str,
        attempt: int = 1,
        views: Literal[1, 10] = 1,
        statistics: PixelStatistics | None = None,
    ) -> dict[str, Any]:
        # The number of threads belongs to the thread that computes, and an actor's methods run on several.
        torch.set_num_threads(self.config.cluster.cpus_per_column)
        set_precision(self.config.compute.precision)
        config, device = self.config, torch.device(self.mesh.device)
        folder = local_folder(config.data)
        manifest = Manifest.load(folder)
        alone = self.mesh.processes_per_replica == 1
        model = AlexNet(
            config.network,
            first_column=self.mesh.first_column(self.rank),
            columns=self.mesh.columns_per_process,
            exchange=NoExchange() if alone else ColumnExchange(self.groups.column),
            seed=config.train.seed,
            fused=config.compute.fused,
            compiled=config.compute.compile,
        ).to(device)
        if config.compute.channels_last:
            model = channels_last(model)
        optimizer = PaperSGD(model, config.optimizer, fused=config.compute.fused) if train else None
        schedule = make_schedule(config.schedule)
        if start:
            load(start, model, optimizer)
            schedule.load(start.state["schedule"])
        began = None if start else init_from(config.train, model)
        init_record = start.state.get("init_from") if start else began and began.record
        statistics, crop = statistics or pixel_statistics(manifest, folder), config.network.input_size
        last = config.compute.channels_last
        preprocess = Preprocess(config.augment, statistics, crop, channels_last=last).to(device)
        program = Program.of(
            config,
            train_rows=manifest.splits["train"].rows,
            validation_rows=manifest.splits["validation"].rows,
            replica=self.mesh.replica(self.rank),
            replicas=self.mesh.replicas,
        )
        loop = Loop(
            config=config,
            mesh=self.mesh,
            rank=self.rank,
            program=program,
            step=Step(model, preprocess, optimizer, self.groups.replica, config.compute.precision),
            schedule=schedule,
            batches=Batches(self._getter(feeder), device),
            group=self.groups.control,
            save_group=self.groups.save,
            checkpoints=checkpoints,
            attempt=attempt,
            facts={
                "dataset": manifest.fingerprint,
                "draws_version": DRAWS_VERSION,
                "seed": config.train.seed,
                "init_from": init_record,
            },
            report=self._report,
            untold=self.untold,
            asked_to_stop=self._stop.is_set,
            progress=self._progress,
            on_first_step=self._be_less_patient,
            start=start,
            views=views,
        )
        self._profiling = loop.profiling
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(
                category, NotCompiledWarning
            ):  # people should read it, and an actor's own output is not shown
                self._report(WarningReport(step=loop.steps_done, text=str(message)))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = tell
        try:
            ended, errors = loop.train() if train else loop.evaluate()
        finally:
            warnings.showwarning = show
            loop.batches.close()
            loop.profiling.close()
        return {"ended": ended, "step": loop.steps_done, "errors": errors}

    def _getter(self, feeder: Any) -> Callable[[int], dict[str, Any]]:
        """What fetches a batch's arrays by its number: from the feed in this process, or in the replica's first column's."""
        reader = self.mesh.place(self.rank)

        def get(number: int) -> dict[str, Any]:
            [reference] = self.batch(number, reader) if feeder is None else ray.get(feeder.batch.remote(number, reader))
            arrays: dict[str, Any] = ray.get(reference)  # views into the object store
            return arrays

        return get

    def _be_less_patient(self) -> None:
        """From here on little is compiled any more, and whoever waits for long waits for somebody who hangs.

        The supervisor, which looks for that after `fault.hang_timeout_seconds`, should see it first: it asks everybody where they
        are. This limit is for ranks that it cannot reach any more.
        """
        if is_url(self.config.data.path):
            return  # another replica may wait for its cache
        limit = timedelta(seconds=2 * self.config.fault.hang_timeout_seconds)
        if limit < timedelta(seconds=self.config.cluster.collective_timeout_seconds):
            self.groups.be_less_patient(limit)

    def _report(self, report: ColumnReport) -> None:
        self._reports.append(replace(report, seconds=time.monotonic() - self._started))

    def _start_timeout(self) -> timedelta:
        return timedelta(seconds=self.config.cluster.start_timeout_seconds)
