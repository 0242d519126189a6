"""Real faults in real runs: whatever dies or hangs, the run goes on by itself and ends with the weights of an undisturbed one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.cluster.runs import Run, alive, losses


def test_a_dead_column_is_replaced(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "dead-column")
    run.wait_for_step(8)
    pid = run.pid_of("column r0 c1")
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    [failure] = run.reports("failure")
    assert failure["what"].startswith(f"column r0 c1 (pid {pid} on ") and "was killed" in failure["what"]
    assert failure["time"] - killed < 60, "it was noticed by the limit for hangs, of 120 s"
    assert [(attempt["number"], attempt["step"] >= 5) for attempt in run.reports("attempt")] == [(1, False), (2, True)]
    said = [line for line in run.text.splitlines() if "died" in line]
    assert len(said) == 1, run.text
    assert "trying again: failure 1 of 5 since the last checkpoint" in run.text
    assert "Traceback" not in run.text
    logs = list((run.folder / "diagnosis" / "attempt-1").glob("*-logs.txt"))
    assert logs and (run.folder / "diagnosis" / "attempt-1" / "what.txt").read_text().startswith("death: column r0 c1")
    assert (run.result()["attempts"], len(run.result()["failures"])) == (2, 1)


@pytest.mark.ci
def test_a_column_that_hangs_is_found_diagnosed_and_replaced(undisturbed: Run, folder: Path) -> None:
    """In a quick test, with played columns: test_a_hang_counts_as_a_failure."""
    run = Run(folder, "hung-column", "fault.hang_timeout_seconds=6")
    run.wait_for_step(8)
    pid = run.pid_of("column r0 c1")
    os.kill(pid, signal.SIGSTOP)
    stopped = time.time()
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    [failure] = run.reports("failure")
    assert failure["cause"] == "hang"
    assert "column r0 c1 has not answered for" in failure["what"]
    assert 6 < failure["time"] - stopped < 60, "not by the limit that was set"
    seen = {file.name: file.read_text() for file in (run.folder / "diagnosis" / "attempt-1").iterdir()}
    [stacks] = [text for name, text in seen.items() if name.endswith("-stacks.txt")]
    # The one that is stopped, and the one that waits for it, each with Python frames of the loop.
    assert f"pid {pid}, State:\tT (stopped)" in stacks
    assert stacks.count("workers/loop.py") >= 2
    recorded = json.loads(seen["collectives-0.json"])
    assert any("gloo" in entry["profiling_name"] for entry in recorded["gloo"]["entries"])
    assert not os.path.exists(f"/proc/{pid}"), "a stopped process is not to be left behind"


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head that has room for data workers only; nodes for columns are added by the tests."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "node_ip_address": "127.0.0.1"})
    yield cluster
    cluster.shutdown()


@pytest.mark.ci
def test_a_lost_node_leaves_fewer_replicas_until_a_new_one(undisturbed: Run, folder: Path, nodes: Cluster) -> None:
    """In a quick test, with played columns: test_elastic_runs_take_a_divisor_of_their_replicas_and_come_back."""
    _, second = (nodes.add_node(num_cpus=2, node_ip_address="127.0.0.1") for _ in range(2))
    settings = ("cluster.replicas=2", "cluster.cpus_per_data_worker=0.1", "fault.elastic=true", "train.steps=60")
    run = Run(folder, "elastic", "--address", nodes.address, *settings, "checkpoint.every_steps=2")
    run.wait_for_step(6)
    nodes.remove_node(second, allow_graceful=False)
    run.wait_for(lambda: len(run.reports("attempt")) == 2)
    run.wait_for_step(run.reports("attempt")[1]["step"] + 4)
    nodes.add_node(num_cpus=2, node_ip_address="127.0.0.1")
    assert run.finish() == 0, run.text
    assert [attempt["replicas"] for attempt in run.reports("attempt")] == [2, 1, 2]
    assert "there is room for 2 replicas instead of 1" in run.text
    ours, theirs = losses(run), losses(undisturbed)
    # The same images at every step, in float32 sums of another order.
    assert max(abs(ours[step] - theirs[step]) for step in theirs) < 1e-4
    assert ours.keys() == set(range(1, 61))


def columns(run: Run) -> list[psutil.Process]:
    """Those of the last attempt, whose parents are the raylets of their nodes."""
    return [psutil.Process(int(pid)) for pid in re.findall(r"^column r0 c\d: pid (\d+)", run.text, re.MULTILINE)[-2:]]


@pytest.mark.ci
def test_a_node_that_is_to_be_taken_away_is_left_in_time(undisturbed: Run, folder: Path, nodes: Cluster) -> None:
    """In a quick test, with played columns: test_a_node_that_is_leaving_is_left."""
    places = [nodes.add_node(num_cpus=3, node_ip_address="127.0.0.1") for _ in range(2)]
    run = Run(folder, "drained", "--address", nodes.address, "fault.max_failures=0", "train.steps=400")
    run.wait_for_step(10)
    before = columns(run)
    [raylet] = {column.ppid() for column in before}
    [used] = [place.node_id for place in places if place.all_processes["raylet"][0].process.pid == raylet]
    command = ["drain-node", "--address", nodes.address, "--node-id", used, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the spot market", "--deadline-remaining-seconds", "120"]
    subprocess.run([Path(sys.executable).with_name("ray"), *command], check=True, capture_output=True)
    run.wait_for(lambda: len(run.reports("attempt")) == 2)
    assert "is being drained; starting again" in run.text
    run.wait_for_step(run.reports("attempt")[1]["step"] + 1)
    assert not alive(before, 60) and raylet not in {column.ppid() for column in columns(run)}
    run.interrupt()
    assert run.finish(60) == 130, run.text
    assert run.reports("failure") == []
    # Nothing was computed twice: it stopped at a step and saved.
    ours, theirs = losses(run), losses(undisturbed)
    assert [report["step"] for report in run.reports("train")] == list(range(1, len(ours) + 1))
    assert {step: ours[step] for step in theirs} == theirs
