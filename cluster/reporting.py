"""All that hears a run's reports in the driver: the log and other sinks, the console, the verdicts, and the totals."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from cluster.console import RunConsole
from cluster.failures import RunFailed
from cluster.metrics import RayMetrics
from cluster.plan import Plan
from cluster.provenance import note_actors
from cluster.run_folder import RunFolder
from cluster.run_state import read_log
from cluster.sinks import JsonLines, MakeSink, Sink, Sinks, make_sinks
from cluster.tensorboard import TensorBoard
from cluster.totals import Totals
from cluster.verdicts import Setting
from cluster.watch import Watch
from configs.errors import UserError
from configs.loader import to_dict
from workers import reports

LOOK_SECONDS = 5.0
"""How often it is looked whether a run has come to a halt."""


class Reporting:
    """Use as a context manager around all attempts at a run: `report` and `note` are what a supervisor calls.

    Nothing here runs per step: only per report, and every few seconds. The log ends with how the run ended: `end` says so, or the
    exception that leaves the context.

    start_step: updates made before. changed: settings, in words, that differ from those of the last start. sinks: other people's,
    as `find_sinks` finds them; raises UserError if one cannot be made.
    """

    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        console: RunConsole,
        *,
        start_step: int,
        changed: Sequence[str] = (),
        sinks: Mapping[str, MakeSink],
    ) -> None:
        self._run, self._plan, self._console = run, plan, console
        self._step, self._changed = start_step, list(changed)
        self._ranks = tuple(plan.mesh.name(rank) for rank in range(plan.mesh.size))
        self._watch = Watch(_setting(plan))
        self._lock = threading.Lock()  # reports and looks come from two threads
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look, name="watch", daemon=True)
        self.totals = Totals()
        self.feeds: list[dict[str, Any]] = []
        """The feeds' counters, which the supervisor keeps up to date."""
        at_once: dict[str, Sink] = {"the log": JsonLines(run.log, self.note)}
        behind: dict[str, Sink] = {"TensorBoard's file": TensorBoard(run.events, self._ranks, read_log(run.log))}
        behind |= make_sinks(sinks, run.path, to_dict(plan.config))
        at_once["Ray's metrics"] = RayMetrics(plan.config.name, plan.mesh)
        self._sinks = Sinks(at_once, behind, self.note)

    def __enter__(self) -> "Reporting":
        config = self._plan.config
        self._give(
            reports.StartReport(
                step=self._step,
                whole_steps=self._plan.program().total_steps,
                batch_size=config.train.batch_size,
                classes=config.network.classes,
                ranks=self._ranks,
                changed=self._changed,
            )
        )
        self._looking.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            told = isinstance(error, RunFailed | UserError)
            ended: reports.Ended = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            why = (
                str(error) if told else "stopped at once" if ended == "stopped" else f"{type(error).__name__}: {error}"
            )
            self.end(ended, self._step, why)
        self._ended.set()
        self._sinks.close()

    def placed(self, about: list[dict[str, Any]]) -> None:
        """The columns have been started. about: as `WorkerGroup.about`."""
        try:
            note_actors(self._run.path, about)
        except OSError as error:
            self.note(f"note: environment.json could not be written ({error}); the run goes on")

    def report(self, report: reports.Report) -> None:
        """Take a report of rank 0."""
        if isinstance(report, reports.TrainReport):
            report = replace(report, feeds=[dict(feed) for feed in self.feeds])
        if isinstance(report, reports.CheckpointReport):
            self._run.saved = report.folder
        self._step = report.step
        self.totals.add(report)
        self._give(report)

    def note(self, text: str) -> None:
        """Take a line that people should read once."""
        self._console.note(text)

    def began(self, number: int, step: int, replicas: int, untold: Sequence[reports.Report] = ()) -> None:
        """An attempt at the run begins after `step`.

        untold: the reports in its checkpoint, which a driver, or the column that made them, may have taken along as it died.
        """
        logged = {_identity(report) for report in read_log(self._run.log)} if untold else set()
        for report in untold:
            if _identity(report) not in logged:
                self.report(report)
        self._console.restarted()
        self._step = step
        self._give(reports.AttemptReport(step=step, number=number, replicas=replicas))

    def failed(self, number: int, cause: str, what: str) -> None:
        """It has failed; people have been told."""
        self._give(reports.FailureReport(step=self._step, number=number, cause=cause, what=what))

    def restarted(self, cause: str, step: int) -> None:
        """The columns begin again after `step`. cause: in a word or two, for it becomes a tag of a metric."""
        self._step = step
        self._give(reports.RestartReport(step=step, cause=cause))

    def end(self, ended: reports.Ended, step: int, why: str = "") -> None:
        """Only the first call counts."""
        if not self._ended.is_set():
            self._ended.set()
            self._give(reports.EndReport(step=step, ended=ended, why=why, spent=self.totals.as_json()))

    def _give(self, report: reports.Report) -> None:
        with self._lock:
            report = replace(report, time=time.time())
            self._sinks.report(report)
            self._console.report(report)
            self._say(self._watch.hear(report))

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            with self._lock:
                self._say(self._watch.look(time.time()))

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            self.note(f"note: {line}")
            self._sinks.report(reports.VerdictReport(step=self._step, text=line, time=time.time()))


def _identity(report: reports.Report) -> tuple[Any, ...]:
    """`seconds` since its column's start, to the last bit, tells a report from one of another attempt, or of the same step."""
    return report.kind, report.step, report.seconds if isinstance(report, reports.ColumnReport) else None


def _setting(plan: Plan) -> Setting:
    config, program = plan.config, plan.program()
    return Setting(
        mesh=plan.mesh,
        classes=config.network.classes,
        data_workers=config.cluster.data_worker_count,
        cpus_per_data_worker=config.cluster.cpus_per_data_worker,
        steps_per_epoch=program.train_rows / program.batch_size,
        validation_images=-(-program.validation_rows // program.replicas),
        evaluates_after=program.evaluates_after,
    )
