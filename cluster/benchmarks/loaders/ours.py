"""Our data path: the data worker alone in this process, and the whole of it as in training, on Ray."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.benchmarks.loaders.peer import Batch, Peer
from cluster.environment import COLUMN_ENVIRONMENT
from workers.data.data_worker import DataWorker
from workers.data.manifest import pixel_statistics
from workers.program import Program, Request

STORE_BYTES = 512 * 2**20


class InProcess(Peer):
    """A data worker without Ray. Option `crops_only`: without what the column does on its device.

    Images end in the layout that the columns compute in, channels_last, which is the one that they are decoded to.
    """

    def open(self, state: Any) -> None:
        self._worker = DataWorker(self.material.config(), "data worker")
        self._images = self.material.images
        self._column = None if self.options.get("crops_only") else preprocess(self)
        self._done = 0

    def epoch(self) -> Iterator[Batch]:
        import torch

        for _ in range(self._images // self.batch):
            made = self._worker.batch(Request(split="train", start=self._done, count=self.batch))
            self._done += self.batch
            tensors = {
                name: torch.from_numpy(made[name]) for name in ("images", "offsets", "mirror", "colour", "noisy")
            }
            yield (
                made["labels"],
                tensors["images"] if self._column is None else self._column(*tensors.values()),
            )


class Ours(Peer):
    """Data workers as actors and the feed, read as a column reads them, and the column's part on this CPU."""

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        from cluster.ray_session import ray_session

        # This process computes as a column does and has the environment of one; actors that Ray starts shall not inherit it.
        for name in COLUMN_ENVIRONMENT:
            os.environ.pop(name, None)
        with ray_session(None, num_cpus=self.workers, object_store_bytes=STORE_BYTES) as self._ray:
            self._column = preprocess(self)
            yield

    def open(self, state: Any) -> None:
        """state: batches consumed; the whole state there is."""
        import torch

        from workers.batches import Batches
        from workers.data.feed import Feed
        from workers.hosted_feed import HostedFeed

        ray, config = self._ray, self.material.config()
        config = replace(config, cluster=replace(config.cluster, data_workers=self.workers))
        # As in cluster/group.py.
        self._workers = {
            name: ray.remote(DataWorker).options(num_cpus=1, max_restarts=-1, max_task_retries=0).remote(config, name)
            for name in (f"data worker #{number}" for number in range(self.workers))
        }
        feed = Feed("feed", self._workers, window=config.cluster.window, readers=1)
        self._feed = HostedFeed(feed)
        program = Program(
            batch_size=self.batch,
            test_batch_size=self.batch,
            replicas=1,
            replica=0,
            train_rows=self.material.images,
            validation_rows=0,
            total_steps=10**9,
            evaluation_every=None,
        )
        self._step = state or 0
        self._feed.open(program, self._step, False)
        self._batches = Batches(lambda number: ray.get(self._feed.get(number, 0)[0]), torch.device("cpu"))

    def epoch(self) -> Iterator[Batch]:
        per_epoch = self.material.images // self.batch
        for _ in range(per_epoch - self._step % per_epoch):
            batch = next(self._batches)
            self._step += 1
            images = self._column(batch.images_BHWC, batch.offsets_B2, batch.mirror_B, batch.colour_BC, batch.noisy_B)
            yield np.asarray(batch.labels_B), images

    def state(self) -> Any:
        return self._step

    def pids(self) -> list[int]:
        return list(self._ray.get([worker.pid.remote() for worker in self._workers.values()]))

    def close(self) -> None:
        self._batches.close()
        self._feed.close()
        for actor in self._workers.values():
            self._ray.kill(actor)


def preprocess(peer: Peer) -> Any:
    """The column's part of augmentation, on the CPU."""
    from alexnet.augment import Preprocess
    from cluster.benchmarks.loaders.material import CROP

    config, manifest = peer.material.config(), peer.material.manifest
    return Preprocess(config.augment, pixel_statistics(manifest, peer.material.folder / "data"), CROP)
