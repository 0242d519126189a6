"""What a real run leaves to be seen: log, event file, environment; and what it says when something is really wrong."""

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from cluster.plan import DatasetSize, make_plan
from cluster.run_state import read_run
from configs.loader import load
from tests.cluster.runs import SMALL, Run
from tests.cluster.test_metrics import scalars


def test_log_tells_of_a_whole_run(undisturbed: Run) -> None:
    log = undisturbed.reports()
    first, last = log[0], log[-1]
    assert (first["kind"], first["step"], first["whole_steps"], first["classes"]) == ("start", 0, 30, 10)
    assert first["ranks"] == ["column r0 c0", "column r0 c1"]
    assert (last["kind"], last["ended"], last["step"]) == ("end", "finished", 30)
    assert all(after["time"] >= before["time"] for before, after in itertools.pairwise(log))
    trained = undisturbed.reports("train")
    assert last["spent"]["images"] == 30 * 200 == sum(report["images"] for report in trained)
    assert trained[-1]["feeds"][0]["window"] == 5
    data = DatasetSize(train_rows=1200, validation_rows=210, image_size=28, classes=10)
    planned = make_plan(load(SMALL, []), 0, data).exchanged_bytes
    keys = ("data_wait_seconds", "exchange_wait_seconds", "compute_seconds")
    for report in trained:
        by_rank = report["by_rank"]
        assert len(by_rank["compute_seconds"]) == 2
        # And 24 bytes per image for loss and rank.
        assert by_rank["exchanged_bytes"] == [planned + 200 * 24] * 2
        # What is said of a report's ranks and what rank 0 says of itself is the same.
        mine = [by_rank[key][0] for key in keys]
        assert report["images"] / sum(mine) == pytest.approx(report["images_per_second"])
        assert mine[0] / sum(mine) == pytest.approx(report["data_wait"])
    saved = undisturbed.reports("checkpoint")
    # After every fifth step, but where an evaluation is due (12, 24, 30) only after that.
    assert [report["step"] for report in saved] == [5, 10, 12, 15, 20, 24, 25, 30]
    for report in saved:
        assert 0 <= report["waited_seconds"] <= report["stopped_seconds"] and report["commit_seconds"] > 0
        assert Path(report["folder"]).name == f"step-{report['step']:08d}-a1"
    # A healthy run is told nothing.
    assert not undisturbed.reports("verdict")
    assert "note:" not in undisturbed.text.replace("note: the run asks for", "")


def test_event_file_environment_and_state_say_what_the_log_says(undisturbed: Run) -> None:
    [file] = (undisturbed.folder / "events").iterdir()
    found = scalars(file)
    for kind, tag, name in (("train", "loss/train", "loss"), ("evaluation", "top-1 error/validation", "top1_error")):
        for report in undisturbed.reports(kind):
            assert found[tag, report["step"]] == pytest.approx(report[name], rel=1e-6)
    state = read_run(undisturbed.folder)
    assert (state.state, state.step) == ("complete", 30)
    command = state.start["command"]
    assert state.start["versions"]["torch"] and (command[0], command[-1]) == (sys.executable, "name=undisturbed")
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


@pytest.mark.ci
def test_starving_run_is_told_so_and_a_failing_sink_leaves_it_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Run
) -> None:
    """Its data worker is stopped most of the time. --quiet leaves notes and result; Ctrl-C is the end of it."""
    (tmp_path / "failing_sink.py").write_text(SINK)
    monkeypatch.setattr("tests.cluster.runs.PROJECT", f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path}")
    settings = ("train.steps=3000", "train.evaluate_every_epochs=null", "checkpoint.every_steps=null")
    sink = ("--quiet", "--sink", "failing_sink:Failing")
    run = Run(folder, "starving", arguments=(str(SMALL), "name=starving", *settings, *sink))
    run.wait_for_step(5)
    [worker] = [child for child in run.descendants() if "DataWorker" in " ".join(child.cmdline())]
    with now_and_then_stopped(worker.pid, stopped=0.5, running=0.05):
        run.wait_for(lambda: "waiting for data" in run.text)
    run.interrupt()
    assert run.finish(60) == 130, run.text
    lines = [line for line in run.text.splitlines() if line and "they will be shared" not in line]
    assert lines[0] == (
        "note: failing_sink:Failing gets no more reports of this run (RuntimeError: the server is down); the run goes on"
    )
    # Which of the two lines, depends on whether it is stopped more often within batches or between them.
    assert lines[1].startswith("note: ") and "% of the step is waiting for data" in lines[1]
    assert not [line for line in lines if line.startswith(("step ", "mesh ", "column r0"))], "--quiet"
    verdicts = [report["text"] for report in run.reports("verdict")]
    assert f"note: {verdicts[0]}" == lines[1]
    assert (run.folder / "from the sink").read_text() == "3"
    state = read_run(run.folder)
    assert (state.state, state.said[0].as_json()["text"]) == ("stopped", verdicts[0])
    # A sink that is none ends the run before it begins.
    run = Run(folder, "no-sink", arguments=(str(SMALL), "name=no-sink", "--sink", "nowhere:Sink"))
    assert run.finish(60) == 2
    assert [line for line in run.text.splitlines() if line.startswith("error: --sink nowhere:Sink cannot be used")]


ILL = (
    "schedule.stages.0.weights=0", "schedule.stages.0.biases=0", "schedule.stages.1.weights=0",
    "network.classifier.init_std=0.001",  # the loss begins at ln(10), and stays
    "train.steps=1000000", "train.batch_size=20", "train.report_every_steps=50", "train.evaluate_every_epochs=null",
    "checkpoint.every_steps=null", "fault.hang_timeout_seconds=600",
)  # fmt: skip


@pytest.mark.ci
def test_a_run_that_is_ill_says_of_what(folder: Path) -> None:
    """A learning rate of 0, a column that is slowed down, and then stopped."""

    def told(words: str) -> str:
        """The line that has these words, as soon as it is there."""
        run.wait_for(lambda: words in run.text, 300)
        return next(line for line in run.text.splitlines() if words in line)

    run = Run(folder, "ill", arguments=(str(SMALL), "name=ill", "--quiet", *ILL))
    run.wait_for_step(100, seconds=300)
    [column] = [one["pid"] for one in read_run(run.folder).start["columns"] if one["name"] == "column r0 c1"]
    with now_and_then_stopped(column, stopped=0.1, running=0.1):
        slow, stuck = told("is slower than"), told("ln(classes)")
    assert slow.startswith("note: column 1 is slower than column 0 by ")
    assert stuck == (
        "note: the loss has stood at ln(classes) = 2.30 for 1,000 steps, as if the network saw nothing: the learning rate is 0 "
        "(schedule)"
    )
    assert "no progress" not in run.text
    os.kill(column, signal.SIGSTOP)
    try:
        halted = told("no progress for")
    finally:
        os.kill(column, signal.SIGCONT)
    assert "no progress for 1:0" in halted and "a report comes every" in halted
    told("note: it goes on")
    run.interrupt()
    assert run.finish(90) == 130, run.text
    said = [report["text"] for report in run.reports("verdict")]
    assert {line.removeprefix("note: ") for line in (slow, stuck, halted, "it goes on")} <= {*said}
