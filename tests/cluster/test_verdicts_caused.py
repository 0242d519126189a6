"""A run that is made ill in three ways and says so: a learning rate of 0, a column that is slowed down, and then stopped.

Starvation is caused in test_seeing.py, where a healthy run is told nothing, too.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.run_state import read_run
from tests.cluster.runs import SMALL, Run
from tests.cluster.test_seeing import now_and_then_stopped, reports

SETTINGS = (
    "schedule.stages.0.weights=0",
    "schedule.stages.0.biases=0",
    "schedule.stages.1.weights=0",
    "network.classifier.init_std=0.001",  # the loss begins at ln(10), and stays
    "train.steps=1000000",
    "train.batch_size=20",
    "train.report_every_steps=50",
    "train.evaluate_every_epochs=null",
    "checkpoint.every_steps=null",
    "fault.hang_timeout_seconds=600",
)
LIMIT_SECONDS = 240.0


def wait_for(run: Run, words: str) -> str:
    """The line of `run` that has these words, as soon as it is there."""
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        assert run.process.poll() is None, run.text
        for line in run.text.splitlines():
            if words in line:
                return line
        time.sleep(0.2)
    raise AssertionError(f"nothing of {words!r} within {LIMIT_SECONDS:g} s:\n{run.text}")


@pytest.mark.slow
def test_a_run_that_is_ill_says_of_what(folder: Path) -> None:
    run = Run(folder, "ill", arguments=(str(SMALL), "name=ill", "--quiet", *SETTINGS))
    run.wait_for_step(100, seconds=LIMIT_SECONDS)
    [column] = [one["pid"] for one in read_run(run.folder).start["columns"] if one["name"] == "column r0 c1"]
    with now_and_then_stopped(column, stopped=0.1, running=0.1):
        slow = wait_for(run, "is slower than")
        stuck = wait_for(run, "ln(classes)")
    assert slow.startswith("note: column 1 is slower than column 0 by ")
    assert stuck == (
        "note: the loss has stood at ln(classes) = 2.30 for 1,000 steps, as if the network saw nothing: the learning rate is 0 "
        "(schedule)"
    )
    assert "no progress" not in run.text
    os.kill(column, signal.SIGSTOP)
    try:
        halted = wait_for(run, "no progress for")
    finally:
        os.kill(column, signal.SIGCONT)
    assert "no progress for 1:0" in halted and "a report comes every" in halted
    wait_for(run, "note: it goes on")
    run.interrupt()
    assert run.finish(90) == 130, run.text
    said = [report["text"] for report in reports(run) if report["kind"] == "verdict"]
    for line in (slow, stuck, halted, "note: it goes on"):
        assert line.removeprefix("note: ") in said
