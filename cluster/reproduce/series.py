"""Runs of `python -m cluster.train`, one after the other: each a process of its own, watched by its log, and resumable."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.console import RunConsole, clock
from cluster.failures import RunFailed
from cluster.run_folder import RunFolder
from cluster.run_state import read_log, read_run, that_count
from cluster.signals import Interrupted, StopSignals
from configs.errors import UserError
from configs.loader import load
from workers import json_lines
from workers.reports import CheckpointReport, EndReport, Report, StartReport, TrainReport, from_json

POLL_SECONDS = 0.5
Reports = list[TrainReport]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run: `config` with `settings`, in `folder`, whose name is the run's."""

    config: str
    settings: Sequence[str]
    folder: Path

    @property
    def all_settings(self) -> list[str]:
        return [f"name={self.folder.name}", f"runs_folder={self.folder.parent}", *self.settings]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "cluster.train", self.config, *self.all_settings, "--quiet"]

    def check(self) -> None:
        """Raises UserError if the folder holds a run that would learn something else, whose figures would count as this one's."""
        RunFolder(load(self.config, self.all_settings)).check_same_experiment()


def train_reports(folder: Path) -> Reports:
    """A run's reports of training that count, by step."""
    return that_count(read_log(folder / "log.jsonl"))[0]


def has_diverged(folder: Path) -> bool:
    """Whether a run's last start ended because its loss was no number."""
    last = [report for report in read_log(folder / "log.jsonl") if isinstance(report, StartReport | EndReport)][-1:]
    return any("diverged" in report.why for report in last if isinstance(report, EndReport))


class Series:
    """Says which run of how many is under way, and how long the others will take at the speed so far.

    work: of each run that is still to be done, in any one unit.
    """

    def __init__(self, work: Sequence[float]) -> None:
        self._left, self._count, self._number = sum(work), len(work), 0
        self._done = self._seconds = 0.0

    def train(
        self, run: Wanted, work: float, *, until: Callable[[Reports], bool] = lambda reports: False
    ) -> Literal["finished", "enough", "diverged"]:
        """Train to the end of the run, or until its reports are enough.

        Raises RunFailed if the run fails, but for a loss that is no number; Interrupted if this process is told to stop, when
        the run has saved what it has.
        """
        self._number += 1
        left = f", about {clock(self._left * self._seconds / self._done)} left" if self._done else ""
        print(f"run {self._number} of {self._count}: {run.folder}{left}", flush=True)
        began = time.monotonic()
        how = _train(run, until)
        self._done, self._seconds, self._left = (
            self._done + work,
            self._seconds + time.monotonic() - began,
            self._left - work,
        )
        return how


def _train(run: Wanted, until: Callable[[Reports], bool]) -> Literal["finished", "enough", "diverged"]:
    folder = run.folder
    if (folder / "config.yaml").is_file() and read_run(folder).state == "running":
        raise UserError(f"{folder} is being trained by another process; wait for it, or stop it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    output = folder.with_name(f"{folder.name}.txt")
    seen = _Tail(folder / "log.jsonl")
    seen.read()
    stopped = False
    # A session of its own: Ctrl-C at a terminal comes here alone, and is passed on once.
    with StopSignals() as signals, output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            run.command, env=_environment(), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        signals.gentle = True
        try:
            with RunConsole(0) as console:
                while process.poll() is None:
                    for report in seen.read():
                        if not isinstance(report, CheckpointReport):
                            console.report(report)
                    if not stopped and (signals.requested or until(train_reports(folder))):
                        process.send_signal(signal.SIGINT)
                        stopped = True
                    time.sleep(POLL_SECONDS)
        except BaseException:  # Ctrl-C too; it is raised on
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        if signals.requested:
            raise Interrupted(signals.requested)
    if process.returncode == 0:
        return "finished"
    if stopped:
        return "enough"
    if has_diverged(folder):
        return "diverged"
    told = output.read_text(encoding="utf-8").strip().splitlines()
    raise RunFailed(f"{folder}: {told[-1] if told else f'exit code {process.returncode}'} (all it said is in {output})")


def _environment() -> dict[str, str]:
    """This process's, with the packages that it was started from."""
    project = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))}


class _Tail:
    """What has been added to a log since the last look."""

    def __init__(self, file: Path) -> None:
        self._file, self._at = file, 0

    def read(self) -> list[Report]:
        try:
            with self._file.open("rb") as log:
                log.seek(self._at)
                new = log.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        return from_json(json_lines.parse(whole.splitlines()))
