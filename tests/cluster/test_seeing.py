"""What a real run leaves to be seen: log, event file, environment; and what it says when something is really wrong."""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from cluster.plan import DatasetSize, make_plan
from cluster.run_state import read_run
from configs.loader import load
from tests.cluster.runs import SMALL, Run
from tests.cluster.test_tensorboard import scalars


def reports(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def test_log_tells_of_a_whole_run(undisturbed: Run) -> None:
    log = reports(undisturbed)
    first, last = log[0], log[-1]
    assert (first["kind"], first["step"], first["whole_steps"], first["classes"]) == ("start", 0, 30, 10)
    assert first["ranks"] == ["column r0 c0", "column r0 c1"]
    assert (last["kind"], last["ended"], last["step"]) == ("end", "finished", 30)
    assert all(after["time"] >= before["time"] for before, after in itertools.pairwise(log))
    trained = [report for report in log if report["kind"] == "train"]
    assert last["spent"]["images"] == 30 * 200 == sum(report["images"] for report in trained)
    assert all(len(report["by_rank"]["compute_seconds"]) == 2 for report in trained)
    # What is said of a report's ranks and what rank 0 says of itself is the same.
    for report in trained:
        mine = [report["by_rank"][key][0] for key in ("data_wait_seconds", "exchange_wait_seconds", "compute_seconds")]
        assert report["images"] / sum(mine) == pytest.approx(report["images_per_second"])
        assert mine[0] / sum(mine) == pytest.approx(report["data_wait"])
    assert trained[-1]["feeds"][0]["window"] == 5


def test_bytes_exchanged_are_those_of_the_plan(undisturbed: Run) -> None:
    """And 24 bytes per image for loss and rank."""
    config = load(SMALL, [])
    plan = make_plan(config, 0, DatasetSize(train_rows=1200, validation_rows=210, image_size=28, classes=10))
    for report in reports(undisturbed):
        if report["kind"] == "train":
            assert report["by_rank"]["exchanged_bytes"] == [plan.exchanged_bytes + 200 * 24] * 2


def test_a_healthy_run_is_told_nothing(undisturbed: Run) -> None:
    assert not [report for report in reports(undisturbed) if report["kind"] == "verdict"]
    assert "note:" not in undisturbed.text.replace("note: the run asks for", "")


def test_event_file_says_what_the_log_says(undisturbed: Run) -> None:
    [file] = (undisturbed.folder / "events").iterdir()
    found = scalars(file)
    for report in reports(undisturbed):
        if report["kind"] == "train":
            assert found["loss/train", report["step"]] == pytest.approx(report["loss"], rel=1e-6)
        elif report["kind"] == "evaluation":
            assert found["top-1 error/validation", report["step"]] == pytest.approx(report["top1_error"], rel=1e-6)


def test_environment_and_state(undisturbed: Run) -> None:
    state = read_run(undisturbed.folder)
    assert (state.state, state.step) == ("complete", 30)
    assert state.start["versions"]["torch"] and state.start["command"][-1] == "name=undisturbed"
    assert [column["name"] for column in state.start["columns"]] == ["column r0 c0", "column r0 c1"]
    assert "images/s in training steps" in undisturbed.text and "computing" in undisturbed.text


@contextmanager
def now_and_then_stopped(pid: int, *, stopped: float, running: float) -> Iterator[None]:
    """SIGSTOP and SIGCONT in turn, for so many seconds each."""
    over = Event()

    def pulse() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(stopped)
            os.kill(pid, signal.SIGCONT)
            over.wait(running)

    thread = Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


SINK = """
class Failing:
    def __init__(self, folder, config):
        self.file = folder / "from the sink"
    def report(self, report):
        if report["step"] > 3:
            raise RuntimeError("the server is down")
        self.file.write_text(str(report["step"]))
    def close(self):
        pass
"""


def test_starving_run_is_told_so_and_a_failing_sink_leaves_it_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Run
) -> None:
    """Its data worker is stopped most of the time. --quiet leaves notes and result; Ctrl-C is the end of it."""
    (tmp_path / "failing_sink.py").write_text(SINK)
    monkeypatch.setattr("tests.cluster.runs.PROJECT", f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path}")
    arguments = (
        str(SMALL),
        "name=starving",
        "train.steps=3000",
        "train.evaluate_every_epochs=null",
        "checkpoint.every_steps=null",
    )
    run = Run(folder, "starving", arguments=(*arguments, "--quiet", "--sink", "failing_sink:Failing"))
    run.wait_for_step(5)
    [worker] = [child for child in run.descendants() if "DataWorker" in " ".join(child.cmdline())]
    limit = time.monotonic() + 90
    with now_and_then_stopped(worker.pid, stopped=0.5, running=0.05):
        while "waiting for data" not in run.text and time.monotonic() < limit:
            assert run.process.poll() is None, run.text
            time.sleep(0.2)
    run.interrupt()
    assert run.finish(60) == 130, run.text
    lines = [line for line in run.text.splitlines() if line and "they will be shared" not in line]
    assert lines[0] == (
        "note: failing_sink:Failing gets no more reports of this run (RuntimeError: the server is down); the run goes on"
    )
    # Which of the two lines, depends on whether it is stopped more often within batches or between them.
    assert lines[1].startswith("note: ") and "% of the step is waiting for data" in lines[1]
    assert not [line for line in lines if line.startswith(("step ", "mesh ", "column r0"))], "--quiet"
    verdicts = [report["text"] for report in reports(run) if report["kind"] == "verdict"]
    assert f"note: {verdicts[0]}" == lines[1]
    assert (run.folder / "from the sink").read_text() == "3"
    state = read_run(run.folder)
    assert (state.state, state.said[0]["text"]) == ("stopped", verdicts[0])


def test_a_sink_that_is_none_ends_the_run_before_it_begins(folder: Path, undisturbed: Run) -> None:
    run = Run(folder, "no-sink", arguments=(str(SMALL), "name=no-sink", "--sink", "nowhere:Sink"))
    assert run.finish(60) == 2
    assert [line for line in run.text.splitlines() if line.startswith("error: --sink nowhere:Sink cannot be used")]


def test_python_is_the_one_that_is_noted(undisturbed: Run) -> None:
    assert read_run(undisturbed.folder).start["command"][0] == sys.executable
