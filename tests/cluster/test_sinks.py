"""Sinks: each report reaches every sink; one that fails or hangs is left out with one line, and nobody waits for it."""

import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from cluster import sinks
from cluster.run_state import read_log
from cluster.sinks import JsonLines, Sinks, find_sinks, make_sinks
from configs.errors import UserError
from tests.cluster.runs import PROJECT
from workers.reports import Report, VerdictReport, WarningReport


class Kept:
    """Keeps steps of reports; hangs, or fails, at one of them."""

    def __init__(self, *, fails_at: int | None = None, hangs_at: int | None = None) -> None:
        self.steps, self.closed = list[int](), 0
        self.release = threading.Event()
        self._fails_at, self._hangs_at = fails_at, hangs_at

    def report(self, report: Report) -> None:
        if report.step == self._fails_at:
            raise OSError("no space\nleft")
        if report.step == self._hangs_at:
            self.release.wait(30)
        self.steps.append(report.step)

    def close(self) -> None:
        self.closed += 1
        if self._fails_at == -1:
            raise ValueError("not open")


def test_reports_reach_all_in_order_and_all_are_closed() -> None:
    told: list[str] = []
    now, later = Kept(), Kept()
    both = Sinks({"now": now}, {"later": later}, told.append)
    for step in range(100):
        both.report(WarningReport(step=step, text=""))
        assert now.steps[-1] == step
    both.close()
    assert now.steps == later.steps == list(range(100))
    assert (now.closed, later.closed, told) == (1, 1, [])


@pytest.mark.parametrize("behind", [False, True])
def test_one_that_fails_is_left_out_with_one_line(behind: bool) -> None:
    told: list[str] = []
    failing, other = Kept(fails_at=2), Kept()
    first, second = {"failing": failing}, {"other": other}
    both = Sinks(second, first, told.append) if behind else Sinks(first | second, {}, told.append)
    for step in range(5):
        both.report(WarningReport(step=step, text=""))
    both.close()
    assert failing.steps == [0, 1] and other.steps == [0, 1, 2, 3, 4]
    assert told == ["note: failing gets no more reports of this run (OSError: no space left); the run goes on"]


@pytest.mark.parametrize(
    ("hangs_at", "why"),
    [(1, "10 reports are waiting for it"), (19, "it did not take the last reports within 0.2 s")],
)
def test_one_that_hangs_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch, hangs_at: int, why: str) -> None:
    monkeypatch.setattr(sinks, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(sinks, "MOST_WAITING", 10 if hangs_at == 1 else 1000)
    told: list[str] = []
    hanging, other = Kept(hangs_at=hangs_at), Kept()
    both = Sinks({"other": other}, {"hanging": hanging}, told.append)
    for step in range(20):
        both.report(WarningReport(step=step, text=""))
    assert other.steps == list(range(20)) and (len(told) == 1) == (hangs_at == 1)
    both.close()
    hanging.release.set()
    assert told == [f"note: hanging gets no more reports of this run (TimeoutError: {why}); the run goes on"]


def test_a_close_that_fails_is_told() -> None:
    told: list[str] = []
    Sinks({"now": Kept(fails_at=-1)}, {"later": Kept(fails_at=-1)}, told.append).close()
    assert sorted(line.split(" gets")[0] for line in told) == ["note: later", "note: now"]


def test_log_goes_on_when_it_can_be_written_again(small_disk: Path) -> None:
    told: list[str] = []
    file, filler = small_disk / "log.jsonl", small_disk / "filler"
    log = JsonLines(file, told.append)
    log.report(WarningReport(step=1, text=""))
    with filler.open("wb") as full:
        os.posix_fallocate(full.fileno(), 0, shutil.disk_usage(small_disk).free)
    for step in (2, 3, 4):
        log.report(WarningReport(step=step, text="x" * 10_000))
    assert told == [f"note: {file} misses reports of this run (No space left on device); the run goes on"]
    filler.unlink()
    for step in (5, 6):
        log.report(WarningReport(step=step, text=""))
    assert [report.step for report in read_log(file)] == [1, 5, 6]
    assert told[1:] == [f"note: {file} can be written again; it misses 3 report(s)"]


VERDICT = {"kind": "verdict", "step": 7, "text": "slow", "time": 2.0}


class Others:
    """As other people write them."""

    given: ClassVar[list[Any]] = []

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.given.append((folder, config))

    def report(self, report: dict[str, Any]) -> None:
        self.given.append(report)

    def close(self) -> None:
        self.given.append("closed")


def test_others_sinks_are_made_with_folder_and_config_and_are_given_plain_data(tmp_path: Path) -> None:
    name = f"{__name__}:Others"
    [(found, sink)] = make_sinks(find_sinks([name]), tmp_path, {"name": "a"}).items()
    sink.report(VerdictReport(step=7, text="slow", time=2.0))
    sink.close()
    assert (found, Others.given) == (name, [(tmp_path, {"name": "a"}), VERDICT, "closed"])
    with pytest.raises(UserError, match="--sink json:dumps could not be made"):
        make_sinks(find_sinks(["json:dumps"]), tmp_path, {})


@pytest.mark.parametrize("name", ["no_such_module:Sink", f"{__name__}:NoSuchClass", __name__, ""])
def test_a_sink_that_is_none_is_told_with_what_it_should_be(name: str) -> None:
    with pytest.raises(UserError, match="MODULE:CLASS"):
        find_sinks([name])


def test_the_example_for_mlflow_goes_on_with_the_run_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of MLflow, played here: parameters are refused if they change, and the history of a metric is kept with its run."""
    runs: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {}

    def start_run(run_id: str | None, run_name: str) -> Any:
        mlflow.now = run_id or f"run {len(runs)}"
        runs.setdefault(mlflow.now, ({}, {}))
        return SimpleNamespace(info=SimpleNamespace(run_id=mlflow.now))

    def log_params(params: dict[str, Any]) -> None:
        known = runs[mlflow.now][0]
        assert all(known.setdefault(key, value) == value for key, value in params.items())

    def log_metrics(values: dict[str, float], step: int, timestamp: int) -> None:
        for key, value in values.items():
            runs[mlflow.now][1].setdefault(key, []).append(SimpleNamespace(step=step, value=value))

    client = SimpleNamespace(get_metric_history=lambda run, key: runs[run][1].get(key, []))
    mlflow = SimpleNamespace(
        start_run=start_run, log_params=log_params, log_metrics=log_metrics, MlflowClient=lambda: client
    )
    mlflow.set_experiment, mlflow.end_run = lambda name: None, lambda: None
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.syspath_prepend(str(PROJECT / "docs" / "examples"))
    sink = find_sinks(["mlflow_sink:MLflow"])["mlflow_sink:MLflow"]
    for steps, whole in ((range(0, 30, 10), 60), (range(10, 60, 10), 80)):
        made = sink(tmp_path, {"name": "t", "train": {"steps": whole}, "compute": {}})
        for step in steps:
            made.report({"kind": "train", "step": step, "time": 1.0, "loss": float(step)})
        made.close()
    [(_, metrics)] = runs.values()
    assert [one.step for one in metrics["train loss"]] == [0, 10, 20, 30, 40, 50]
