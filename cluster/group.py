"""The worker group: the actors of one attempt at a run, placed, started, and taken down together.

Start-up, in this order:
 1. a placement group with one bundle per replica, so that a replica's columns sit on one node by construction;
 2. the column workers, in their bundles, and at the same time the data workers of each replica, on its node if there is
    room; each says who and where it is;
 3. rank 0 opens a store, and all ranks join the process group through it;
 4. the first column of each replica opens its feed where the run begins, and all ranks are told to train or evaluate.
"""

import contextlib
from dataclasses import replace
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from alexnet.colour import PixelStatistics
from cluster import own_ray
from cluster.environment import NO_GPUS, column_environment
from cluster.failures import NoRoomError, RunFailed, explain, is_wrong_input
from cluster.paths import absolute
from cluster.plan import Plan
from configs.errors import UserError
from workers.checkpoint import Checkpoint
from workers.column_worker import ColumnWorker
from workers.data.data_worker import DataWorker


class WorkerGroup:
    """All actors of one attempt. Use as a context manager: on the way out everything is killed and given back.

    views: of each image in testing. attempt: number of this one, from 1; a part of the actors' names, which Ray gives once only.
    """

    def __init__(self, plan: Plan, *, views: Literal[1, 10] = 1, attempt: int = 1) -> None:
        self.views, self.attempt = views, attempt
        self.plan = replace(plan, config=replace(plan.config, data=absolute(plan.config.data)))
        self.columns: list[Any] = []
        self.data_workers: list[dict[str, Any]] = []
        self.about: list[dict[str, Any]] = []
        """Of each rank: name, pid, node (its address), device."""
        self.data_pids: dict[str, int] = {}
        self._placement: PlacementGroup | None = None

    def __enter__(self) -> "WorkerGroup":
        try:
            self._start()
        except BaseException:  # Ctrl-C too; it is raised on
            self.shutdown()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def train(self, checkpoints: str, start: Checkpoint | None) -> list[Any]:
        """Begin or continue training; returns one reference per rank, which is ready when that rank has ended.

        checkpoints: absolute folder that all nodes see, or URL.
        """
        self._open_feeds(start)
        return [
            column.train.options(name=f"train {self.plan.mesh.name(rank)}").remote(
                self._feeder(rank), checkpoints, start, self.attempt
            )
            for rank, column in enumerate(self.columns)
        ]

    def evaluate(self, start: Checkpoint, statistics: PixelStatistics) -> list[Any]:
        """Test a checkpoint's network, which was trained on images of these statistics; returns references as `train`."""
        self._open_feeds(start, only_evaluation=True)
        return [
            column.evaluate.options(name=f"evaluate {self.plan.mesh.name(rank)}").remote(
                self._feeder(rank), start, self.views, statistics
            )
            for rank, column in enumerate(self.columns)
        ]

    def stop(self) -> None:
        """Ask all ranks to stop before their next item."""
        for column in self.columns:
            column.stop.remote()

    def shutdown(self) -> None:
        """Kill all actors and give the placement group back. If the run's own Ray is dead, they ended with it."""
        if own_ray.death():
            self.columns, self.data_workers, self._placement = [], [], None
        for actor in [*self.columns, *(w for workers in self.data_workers for w in workers.values())]:
            with contextlib.suppress(Exception):  # an actor that is gone already is no trouble here
                ray.kill(actor)
        if self._placement is not None:
            with contextlib.suppress(Exception):  # the cluster itself may be gone
                remove_placement_group(self._placement)
        self.columns, self.data_workers, self._placement = [], [], None

    def _named(self, who: str) -> str:
        """An actor's name, so that the dashboard's list of actors reads as a picture of the mesh."""
        again = f", attempt {self.attempt}" if self.attempt > 1 else ""
        return f"{self.plan.config.name} {who}{again}"

    def _start(self) -> None:
        plan, cluster = self.plan, self.plan.config.cluster
        gpus = plan.mesh.gpus_per_replica
        bundle = {"CPU": float(plan.mesh.processes_per_replica * cluster.cpus_per_column)}
        if gpus:
            bundle["GPU"] = float(gpus)
        self._placement = placement_group([bundle] * plan.mesh.replicas, strategy="PACK")
        if not self._placement.wait(cluster.start_timeout_seconds):
            raise NoRoomError(self._no_room(f"{plan.mesh.replicas} x {bundle}"))
        column_actor = ray.remote(ColumnWorker)
        for rank in range(plan.mesh.size):
            place = PlacementGroupSchedulingStrategy(
                self._placement, placement_group_bundle_index=plan.mesh.replica(rank)
            )
            # While `train` runs, `status` and `stop` must be answered, and `batch` to each other column of the replica.
            options = column_actor.options(
                name=self._named(plan.mesh.name(rank)),
                num_cpus=cluster.cpus_per_column,
                num_gpus=gpus / plan.mesh.processes_per_replica,
                scheduling_strategy=place,
                max_concurrency=2 + plan.mesh.processes_per_replica,
                runtime_env={"env_vars": column_environment(plan.mesh, rank)},
            )
            self.columns.append(options.remote(plan.config, plan.mesh, rank))
        self._start_data(placement_group_table(self._placement)["bundles_to_node_id"])
        self.about = self._get([column.about.remote() for column in self.columns], "column workers to start")
        # A process's own idea of its address may be another network's; what counts is the one that the cluster knows.
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        for about in self.about:
            about["node"] = addresses[about["node_id"]]
        named = [item for workers in self.data_workers for item in workers.items()]
        pids = self._get([worker.pid.remote() for _, worker in named], "data workers to start")
        self.data_pids = {name: pid for (name, _), pid in zip(named, pids, strict=True)}
        store = self.about[0]["node"]
        [port] = self._get([self.columns[0].open_store.remote(store)], "rank 0's store")
        joining = [c.join.remote(about["node"], store, port) for c, about in zip(self.columns, self.about, strict=True)]
        self._get(joining, "columns to find each other")

    def _start_data(self, nodes: dict[int, str]) -> None:
        """nodes: id of each replica's node."""
        plan, cluster = self.plan, self.plan.config.cluster
        data_actor = ray.remote(DataWorker)
        # A process with an environment of its own starts a second later; without GPUs there is nothing to hide.
        blind = {"env_vars": NO_GPUS} if plan.mesh.device == "cuda" else None
        for replica in range(plan.mesh.replicas):
            # Soft node affinity would wait for ever for a CPU of a node that is full.
            preferred: dict[str, Any] = {
                "label_selector": {"ray.io/node-id": nodes[replica]},
                "fallback_strategy": [{"label_selector": {}}],
            }
            workers = {
                name: data_actor.options(
                    name=self._named(name),
                    num_cpus=cluster.cpus_per_data_worker,
                    max_restarts=-1,
                    max_task_retries=0,
                    runtime_env=blind,
                    **preferred,
                ).remote(plan.config, name)
                for name in (f"data worker r{replica} #{number}" for number in range(cluster.data_worker_count))
            }
            self.data_workers.append(workers)

    def _open_feeds(self, start: Checkpoint | None, *, only_evaluation: bool = False) -> None:
        mesh = self.plan.mesh
        self._get(
            [
                self.columns[mesh.first_rank(replica)].open_feed.remote(
                    self.data_workers[replica], self.plan.program(replica), start, self.views, only_evaluation
                )
                for replica in range(mesh.replicas)
            ],
            "feeds to open",
        )

    def _feeder(self, rank: int) -> Any:
        """The column that has the feed of this one's replica; None: this one has it."""
        first = self.plan.mesh.first_rank(self.plan.mesh.replica(rank))
        return None if rank == first else self.columns[first]

    def _get(self, references: list[Any], what: str) -> list[Any]:
        limit = self.plan.config.cluster.start_timeout_seconds
        try:
            got: list[Any] = ray.get(references, timeout=limit)
        except GetTimeoutError:
            raise NoRoomError(
                self._no_room(f"waited {limit:g} s for {what}")
                + "; if machines are only slow, raise cluster.start_timeout_seconds"
            ) from None
        except RayError as error:  # an actor's death, or what others made of it
            if is_wrong_input(error):
                raise UserError(explain(error)) from None
            raise RunFailed(f"while waiting for {what}: {explain(error)}") from None
        return got

    def _no_room(self, what: str) -> str:
        plan, there, free = self.plan, ray.cluster_resources(), ray.available_resources()
        return (
            f"{what}: the run needs {plan.cpus:g} CPUs and {plan.gpus} GPUs (a replica's columns on one node); the cluster has "
            f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, of which {free.get('CPU', 0):g} and "
            f"{free.get('GPU', 0):g} are free. Use fewer cluster.replicas, cluster.data_workers or cluster.cpus_per_column, "
            "or add nodes"
        )
