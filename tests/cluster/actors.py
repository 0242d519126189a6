"""Stand-ins for a run's actors, without torch: a column plays the acts that a test has written for its attempt."""

import json
import os
import pickle
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from configs.schema import Config
from tests.cluster.reports import train as report_of
from workers.mesh import Mesh
from workers.progress import ProgressTeller
from workers.reports import CheckpointReport, ColumnReport

SCRIPT = "script.pickle"
"""In the run's folder: the driver's pid, and of each attempt a list of acts, (method, argument ...)."""


class PlayedColumn:
    """Its acts are its public methods from `save` on. What concerns one rank leaves the others waiting, as a collective does."""

    def __init__(self, config: Config, mesh: Mesh, rank: int) -> None:
        self._name, self._rank = mesh.name(rank), rank
        self._folder = Path(config.runs_folder, config.name)
        self._driver, self._attempts = pickle.loads((self._folder / SCRIPT).read_bytes())
        self._reports: list[ColumnReport] = []
        self._progress = ProgressTeller()
        self._asked_to_stop, self._stopped = threading.Event(), False
        self._taken, self._withheld = 0, False

    def about(self) -> dict[str, Any]:
        node = ray.get_runtime_context().get_node_id()
        return {"name": self._name, "pid": os.getpid(), "node_id": node, "device": "none"}

    def open_store(self, own: str) -> int:
        return 0

    def join(self, own: str, address: str, port: int) -> None: ...

    def open_feed(self, *arguments: Any) -> None: ...

    def status(self, reports_seen: int, messages_seen: int) -> Any:
        self._taken = reports_seen
        reports = [] if self._withheld else self._reports[reports_seen:]
        told = [f"{self._name} has a feed"][messages_seen:]
        return SimpleNamespace(progress=self._progress.read(), reports=reports, messages=told, feed_counts={})

    def stop(self) -> None:
        self._asked_to_stop.set()

    def train(self, feeder: Any, checkpoints: str, step: int, attempt: int) -> dict[str, Any]:
        self._step, self._attempt = step, attempt
        for act, *arguments in self._attempts[attempt - 1] if attempt <= len(self._attempts) else []:
            self._progress.begin(act)
            getattr(self, act)(*arguments)
        return {"ended": "stopped" if self._stopped else "finished", "step": self._step, "errors": {}}

    def save(self, step: int) -> None:
        self._step = step
        if self._rank == 0:
            folder = self._folder / "checkpoints" / f"step-{step:08d}-a{self._attempt}-before-evaluation"
            folder.mkdir(parents=True)
            state = {
                "step": step,
                "attempt": self._attempt,
                "evaluated": False,
                "version": 1,
                "shapes": {},
                "files": [],
                "reports": [report.as_json() for report in self._reports],
            }
            (folder / "state.json").write_text(json.dumps(state))
            self._reports.append(CheckpointReport(step=step, folder=str(folder)))

    def train_step(self, step: int) -> None:
        self._reports.append(replace(report_of(step), seconds=time.monotonic()))

    def wait_until_taken(self) -> None:
        """All that was reported until now; later reports are not handed over any more."""
        while self._rank == 0 and self._taken < len(self._reports):
            self.work(0.05)
        self._withheld = True

    def die(self, rank: int) -> None:
        if self._rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        self.hang()

    def fail(self, rank: int, error: Exception) -> None:
        if self._rank == rank:
            raise error
        self.hang()

    def hang(self) -> None:
        threading.Event().wait()

    def signal(self, number: int) -> None:
        """Send it to the driver."""
        if self._rank == 0:
            os.kill(self._driver, number)

    def wait_until_asked(self) -> None:
        """To stop."""
        while not self._asked_to_stop.is_set():
            self.work(0.05)

    def stop_when_asked(self) -> None:
        self.wait_until_asked()
        self._stopped = True

    def work(self, seconds: float) -> None:
        """Whatever is asked."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._progress.begin("working")
            time.sleep(0.05)
