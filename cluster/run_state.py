"""What has become of a run, from its folder alone: running, complete, stopped or failed, and how far it came.

In this order, the first that applies:
 1. the process of its last start runs on this machine: running;
 2. the log of its last start ends with how it ended: complete, stopped or failed;
 3. there is a result, and nothing in the log is newer: complete (a log of older versions does not say how it ended);
 4. its process was on another machine, and its log has grown lately: running, as far as one can see from here;
 5. failed: its process is gone without a word.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cluster.provenance import is_alive, read_starts
from configs.errors import UserError
from workers import json_lines, reports
from workers.checkpoint_store import place_in
from workers.data.storage import is_url

State = Literal["running", "complete", "stopped", "failed"]
ENDED: dict[str, State] = {"finished": "complete", "stopped": "stopped", "failed": "failed"}
STOCK = "stock"
"""In place of ranks, in the log of a run of `python -m cluster.reproduce stock`."""
LATELY_SECONDS = 600.0
"""A log of another machine's that has grown since is growing; longer where its reports are rarer."""


@dataclass(kw_only=True)
class RunState:
    """path: the run's folder. why: of the state, in words, where that is not plain. Reports are the log's last of their kind."""

    path: Path
    state: State
    why: str = ""
    start: dict[str, Any] = field(default_factory=dict)
    """Last entry of `environment.json`."""
    train: reports.TrainReport | None = None
    evaluation: reports.EvaluationReport | None = None
    begun: reports.StartReport | None = None
    """The log's report of the last start."""
    end: reports.EndReport | None = None
    """How that start ended."""
    said: list[reports.WarningReport | reports.VerdictReport | reports.RestartReport] = field(default_factory=list)
    """Warnings, verdicts and restarts since that start."""
    last_seconds: float | None = None
    """When the log was last written to, since 1970."""
    place: str = ""
    """Folder or URL of its checkpoints."""
    checkpoints: list[Path] = field(default_factory=list)
    """Those that are there; of a URL, which is not asked, none."""

    @property
    def step(self) -> int:
        return max((report.step for report in (self.begun, self.train, self.evaluation) if report), default=0)

    @property
    def whole_steps(self) -> int:
        """0 if it is not known."""
        return self.begun.whole_steps if self.begun else 0

    def as_json(self) -> dict[str, Any]:
        last = {name: getattr(self, name) for name in ("train", "evaluation", "begun", "end")}
        plain = {name: report.as_json() if report else {} for name, report in last.items()}
        plain |= {"path": str(self.path), "checkpoints": [*map(str, self.checkpoints)]}
        return {**vars(self), "step": self.step, **plain, "said": [report.as_json() for report in self.said]}


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs in a folder, by name. Raises UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}; runs are in runs/ of the folder where `python -m cluster.train` was started, "
            "unless runs_folder says otherwise"
        )
    return sorted(path.parent for path in folder.glob("*/config.yaml"))


def read_run(path: Path, now: float | None = None) -> RunState:
    """now: seconds since 1970 (default: this moment). Raises UserError if there is no run there."""
    if not (path / "config.yaml").is_file():
        raise UserError(
            f"{path} is not the folder of a run (it has no config.yaml); `python -m cluster.runs` lists runs"
        )
    log, starts = path / "log.jsonl", read_starts(path)
    run = RunState(path=path, state="failed", start=starts[-1] if starts else {})
    gaps: list[float] = []
    logged = read_log(log)
    trained, tested = that_count(logged)
    run.train, run.evaluation = trained[-1] if trained else None, tested[-1] if tested else None
    for report in logged:
        before, run.last_seconds = run.last_seconds, report.time
        if before is not None:
            gaps.append(report.time - before)
        match report:
            case reports.StartReport():
                run.begun, run.end, run.said, gaps = report, None, [], []
            case reports.WarningReport() | reports.VerdictReport() | reports.RestartReport():
                run.said.append(report)
            case reports.EndReport():
                run.end = report
    if log.is_file():
        run.last_seconds = log.stat().st_mtime
    run.place = _place(path)
    if not is_url(run.place):
        run.checkpoints = sorted(state.parent for state in Path(run.place).glob("step-*/state.json"))
    run.state, run.why = _judge(run, max(gaps, default=0.0), time.time() if now is None else now)
    return run


def _place(path: Path) -> str:
    """Where its checkpoints lie, as far as its config can be read."""
    try:
        settings = settings_of(path)
        return place_in(settings["checkpoint"]["folder"], path, settings["name"])
    except (UserError, KeyError, TypeError):
        return place_in(None, path, path.name)


def _judge(run: RunState, longest_gap: float, now: float) -> tuple[State, str]:
    alive = is_alive(run.start) if run.start else False
    if alive:
        return "running", "" if run.train else "starting"
    if run.end:
        return ENDED[run.end.ended], run.end.why
    result = read_result(run.path)
    if result is not None and result.get("step", -1) >= run.step:
        return "complete", ""
    silent = now - (run.last_seconds or 0.0)
    if alive is None and silent < max(LATELY_SECONDS, 5 * longest_gap):
        return "running", f"by its log; its process is on {run.start['host']}"
    if not run.start:
        return "failed", "its log ends without a word"
    what = f"process {run.start['pid']} on {run.start['host']}"
    if alive is None:
        return "failed", f"its log has not grown for long, and {what} cannot be seen from here"
    return "failed", f"{what} is gone without a word: killed, or the machine went down"


def read_log(log: Path) -> list[reports.Report]:
    """All reports that can be read."""
    return reports.from_json(json_lines.read(log))


def that_count(
    logged: Iterable[reports.Report],
) -> tuple[list[reports.TrainReport], list[reports.EvaluationReport]]:
    """Of a log's reports, those of training and of evaluations, each step once.

    What came after the checkpoint from which the next attempt began, that attempt reports anew, maybe at other steps.
    """
    trained: dict[int, reports.TrainReport] = {}
    tested: dict[int, reports.EvaluationReport] = {}
    for report in logged:
        match report:
            case reports.StartReport() | reports.RestartReport() | reports.AttemptReport():
                trained = {step: one for step, one in trained.items() if step <= report.step}
                tested = {step: one for step, one in tested.items() if step <= report.step}
            case reports.TrainReport():
                trained[report.step] = report
            case reports.EvaluationReport():
                tested[report.step] = report
    return [trained[step] for step in sorted(trained)], [tested[step] for step in sorted(tested)]


def read_result(path: Path) -> dict[str, Any] | None:
    """A run's `result.json`; None if it has not come to its end, or that cannot be read."""
    try:
        found = json_lines.loads((path / "result.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def settings_of(path: Path) -> dict[str, Any]:
    """A run's config as it stands in its folder. Raises UserError if it is damaged."""
    try:
        settings = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path / 'config.yaml'} is damaged: {error}") from None
    return settings if isinstance(settings, dict) else {}
