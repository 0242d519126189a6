"""Tables and lines of `python -m cluster.runs`."""

import shlex
import time
from pathlib import Path

from rich.table import Table

from cluster.console import clock, errors_line, print_plan, print_table
from cluster.run_state import RunState, find_runs, read_run, settings_of
from cluster.totals import total_lines
from configs.errors import UserError
from workers import json_lines
from workers.data.storage import is_url
from workers.reports import RestartReport, VerdictReport, WarningReport

SAID = 5
"""So many of a run's newest warnings and verdicts are shown."""


def list_runs(folder: str, *, as_json: bool) -> int:
    """One line per run in a folder; returns 0. Raises UserError if there is no such folder."""
    runs = [read_run(path) for path in find_runs(Path(folder))]
    if as_json:
        for run in runs:
            print(json_lines.dumps(run.as_json()))
        return 0
    if not runs:
        print(f"no runs in {folder}; `python -m cluster.train` makes one")
        return 0
    table = Table()
    for heading, right in (
        ("run", False), ("state", False), ("step", True), ("loss", True), ("top-1 error", True), ("images/s", True),
        ("heard", True), ("where", False),
    ):  # fmt: skip
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    now = time.time()
    for run in runs:
        table.add_row(run.path.name, run.state, *_numbers(run), _ago(run, now), _where(run))
    print_table(table)
    return 0


def show_run(name: str, *, as_json: bool) -> int:
    """All that is known of one run, a folder or a name in runs/; returns 0. Raises UserError if there is none."""
    path = next((each for each in (Path(name), Path("runs", name)) if (each / "config.yaml").is_file()), None)
    if path is None:
        raise UserError(f"there is no run {name} here, nor in runs/; `python -m cluster.runs` lists runs")
    run = read_run(path)
    if as_json:
        print(json_lines.dumps({**run.as_json(), "config": settings_of(path)}, indent=1))
    else:
        print_plan(_lines(run))
    return 0


def _lines(run: RunState) -> list[tuple[str, str]]:
    settings, now = settings_of(run.path), time.time()
    lines = [("run", str(run.path)), ("state", run.state + (f": {run.why}" if run.why else ""))]
    if run.start:
        lines += [
            ("started", f"{run.start['started']} on {run.start['host']}, pid {run.start['pid']}"),
            ("command", shlex.join(run.start["command"])),
            ("commit", run.start["commit"] or "no checkout"),
        ]
        lines += [("", f"{one['name']}: {one['device']} on {one['node']}") for one in run.start["columns"]]
    lines += [("step", _steps(run)), *_eta(run)]
    if run.last_seconds is not None:
        lines.append(("heard", f"{_ago(run, now)} ago"))
    if run.train:
        lines.append(("training", f"{errors_line(run.train)}  {run.train.images_per_second:,.0f} images/s"))
    if run.evaluation:
        lines.append(("validation", f"{errors_line(run.evaluation)}  after step {run.evaluation.step:,}"))
    if run.end and run.end.spent:
        lines += total_lines(run.end.spent, run.end.time - (run.begun or run.end).time)
    lines += [("said", _said(report)) for report in run.said[-SAID:]]
    lines += [("checkpoint", str(path)) for path in run.checkpoints] or [
        ("checkpoint", run.place if is_url(run.place) else "none")
    ]
    lines.append(("data", str(settings.get("data", {}).get("path"))))
    if run.state in ("stopped", "failed"):
        lines.append(("go on", "the same command goes on from the last checkpoint"))
    return lines


def _said(report: WarningReport | VerdictReport | RestartReport) -> str:
    text = f"restarted: {report.cause}" if isinstance(report, RestartReport) else report.text
    return f"after step {report.step:,}: {text}"


def _eta(run: RunState) -> list[tuple[str, str]]:
    """When a running run is done, at the speed since its last start."""
    if run.state != "running" or run.train is None or run.begun is None:
        return []
    done, since = run.train.step - run.begun.step, run.train.time - run.begun.time
    if done <= 0 or since <= 0 or not run.whole_steps:
        return []
    left = (run.whole_steps - run.train.step) * since / done
    return [("ETA", f"{clock(left)}, at {time.strftime('%Y-%m-%d %H:%M', time.localtime(time.time() + left))}")]


def _steps(run: RunState) -> str:
    return f"{run.step:,}" + (f" of {run.whole_steps:,}" if run.whole_steps else "")


def _numbers(run: RunState) -> tuple[str, str, str, str]:
    """Step; the newest loss in training; the top-1 error of the last evaluation, or in training; the speed."""
    tested, trained = run.evaluation, run.train
    error = f"{tested.top1_error:.1%}" if tested else f"{trained.top1_error:.1%} (train)" if trained else ""
    return (
        _steps(run),
        f"{trained.loss:.3f}" if trained else "",
        error,
        f"{trained.images_per_second:,.0f}" if trained else "",
    )


def _ago(run: RunState, now: float) -> str:
    if run.last_seconds is None:
        return "never"
    seconds = max(0.0, now - run.last_seconds)
    days = int(seconds // 86_400)
    return f"{days} day{'s' if days > 1 else ''}" if days else clock(seconds)


def _where(run: RunState) -> str:
    nodes = {one["node"] for one in run.start.get("columns", [])}
    host = str(run.start.get("host", ""))
    others = sorted(nodes - {"127.0.0.1"})
    return f"{host} ({', '.join(others)})" if others else host
