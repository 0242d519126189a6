"""A run whose supervision is real and whose columns are played (actors.py), on the Ray of this process."""

import io
import json
import os
import pickle
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from rich.console import Console

from cluster.attempts import Attempts
from cluster.console import RunConsole
from cluster.group import WorkerGroup
from cluster.outcomes import Finished, Outcome, Stopped
from cluster.plan import DatasetSize, Plan, make_plan
from cluster.reporting import Reporting
from cluster.run_folder import RunFolder
from cluster.signals import StopSignals
from configs.loader import load
from tests.cluster.actors import SCRIPT
from tests.cluster.runs import SMALL

Act = tuple[Any, ...]
SIZE = DatasetSize(train_rows=1200, validation_rows=210, image_size=28, classes=10)
COMMON = "network.columns=1 fault.backoff_seconds=0 cluster.cpus_per_data_worker=0.01 cluster.start_timeout_seconds=60"


class PlayedGroup(WorkerGroup):
    """Without data workers."""

    def train(self, checkpoints: str, start: Any) -> list[Any]:
        step: Any = start.step if start else 0  # a checkpoint's class would make each process import torch
        return super().train(checkpoints, step)

    def _start_data(self, nodes: dict[int, str]) -> None:
        self.data_workers = [{} for _ in range(self.plan.mesh.replicas)]


class PlayedAttempts(Attempts):
    """taken: what others hold of the cluster, for `seconds`, while room is looked for; by the attempt's number."""

    taken: Mapping[int, Mapping[str, float]]
    seconds: float
    _others: PlacementGroup | None = None

    def _shape(self, *, first: bool) -> Plan:
        if taken := self.taken.get(self.number):
            self._others = placement_group([dict(taken)])
            assert self._others.wait(60)
            threading.Timer(self.seconds, self.others_leave).start()
        return super()._shape(first=first)

    def _attempt(self, plan: Plan) -> Outcome:
        self.others_leave()
        return super()._attempt(plan)

    def others_leave(self) -> None:
        if (others := self._others) is not None:
            self._others = None
            remove_placement_group(others)


class Play:
    """acts: of each attempt; those that follow have none, and end at once."""

    def __init__(
        self,
        folder: Path,
        *acts: Sequence[Act],
        settings: str = "",
        gpus: int = 0,
        taken: Mapping[int, Mapping[str, float]] | None = None,
        taken_seconds: float = 30.0,
    ) -> None:
        config = load(SMALL, [f"runs_folder={folder / 'runs'}", *COMMON.split(), *settings.split()])
        self.run, plan = RunFolder(config), make_plan(config, gpus, SIZE)
        self.run.open()
        self.run.path.joinpath(SCRIPT).write_bytes(pickle.dumps((os.getpid(), acts)))
        self._out, self.signals = io.StringIO(), StopSignals()
        console = RunConsole(100, rich=Console(file=self._out, width=1000))
        self.reporting = Reporting(self.run, plan, console, start_step=0, sinks={})
        self.attempts = PlayedAttempts(self.run, plan, self.signals, console, self.reporting, 1)
        self.attempts.taken, self.attempts.seconds = taken or {}, taken_seconds

    def perform(self) -> Finished | Stopped:
        with self.signals, self.reporting:
            try:
                return self.attempts.train()
            finally:
                self.attempts.others_leave()

    @property
    def text(self) -> str:
        return self._out.getvalue()

    def log(self, *kinds: str) -> list[dict[str, Any]]:
        entries = map(json.loads, self.run.log.read_text().splitlines())
        return [entry for entry in entries if entry["kind"] in kinds]
