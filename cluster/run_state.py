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
from workers import json_lines
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
    train: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    begun: dict[str, Any] = field(default_factory=dict)
    """The log's report of the last start."""
    end: dict[str, Any] = field(default_factory=dict)
    """How that start ended."""
    said: list[dict[str, Any]] = field(default_factory=list)
    """Warnings, verdicts and restarts since that start."""
    last_seconds: float | None = None
    """When the log was last written to, since 1970."""
    place: str = ""
    """Folder or URL of its checkpoints."""
    checkpoints: list[Path] = field(default_factory=list)
    """Those that are there; of a URL, which is not asked, none."""

    @property
    def step(self) -> int:
        found: int = max(report.get("step", 0) for report in (self.begun, self.train, self.evaluation))
        return found

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "step": self.step, "path": str(self.path), "checkpoints": [*map(str, self.checkpoints)]}


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
    for report in read_log(log):
        kind, before = report["kind"], run.last_seconds
        if kind == "start":
            run.begun, run.end, run.said, gaps = report, {}, [], []
        elif kind == "train":
            run.train = report
        elif kind == "evaluation":
            run.evaluation = report
        elif kind in ("warning", "verdict", "restart"):
            run.said.append(report)
        elif kind == "end":
            run.end = report
        run.last_seconds = report.get("time", before)
        if before is not None and run.last_seconds is not None and kind != "start":
            gaps.append(run.last_seconds - before)
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
        return ENDED[run.end["ended"]], run.end["why"]
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


def read_log(log: Path) -> list[dict[str, Any]]:
    """All reports that can be read."""
    return [report for report in json_lines.read(log) if "kind" in report]


def that_count(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a log's reports, those of training and evaluations, by step, each step once.

    What came after the checkpoint from which the next attempt began, that attempt reports anew, maybe at other steps.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for report in reports:
        kind, step = report["kind"], report.get("step", 0)
        if kind in ("start", "restart", "attempt"):
            found = {key: one for key, one in found.items() if key[1] <= step}
        elif kind in ("train", "evaluation"):
            found[kind, step] = report
    return sorted(found.values(), key=lambda report: int(report["step"]))


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
