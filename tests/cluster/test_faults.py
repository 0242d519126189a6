"""Real faults in real runs: whatever dies or hangs, the run goes on by itself and ends with the weights of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.cluster.runs import SMALL, Run


def entries(run: Run, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return [entry for entry in found if entry["kind"] == kind]


def test_a_dead_column_is_replaced(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "dead-column")
    run.wait_for_step(8)
    pid = run.pid_of("column r0 c1")
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    [failure] = entries(run, "failure")
    assert failure["what"].startswith(f"column r0 c1 (pid {pid} on ") and "was killed" in failure["what"]
    # A death is noticed at once; more than this is no slow machine but a wait for a time limit.
    assert failure["time"] - killed < 10
    assert [(attempt["number"], attempt["step"] >= 5) for attempt in entries(run, "attempt")] == [(1, False), (2, True)]
    said = [line for line in run.text.splitlines() if "died" in line]
    assert len(said) == 1, run.text
    assert "trying again: failure 1 of 5 since the last checkpoint" in run.text
    assert "Traceback" not in run.text
    logs = list((run.folder / "diagnosis" / "attempt-1").glob("*-logs.txt"))
    assert logs and (run.folder / "diagnosis" / "attempt-1" / "what.txt").read_text().startswith("death: column r0 c1")
    assert (run.result()["attempts"], len(run.result()["failures"])) == (2, 1)


def test_a_column_that_hangs_is_found_diagnosed_and_replaced(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "hung-column", "fault.hang_timeout_seconds=6")
    run.wait_for_step(8)
    pid = run.pid_of("column r0 c1")
    os.kill(pid, signal.SIGSTOP)
    stopped = time.time()
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    [failure] = entries(run, "failure")
    assert failure["cause"] == "hang"
    assert "column r0 c1 has not answered for" in failure["what"]
    assert 6 < failure["time"] - stopped < 20
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
    try:
        yield cluster
    finally:
        cluster.shutdown()
        assert not ray.is_initialized()


def test_a_lost_node_leaves_fewer_replicas_and_a_new_one_brings_them_back(
    undisturbed: Run, folder: Path, nodes: Cluster
) -> None:
    first, second = (nodes.add_node(num_cpus=2, node_ip_address="127.0.0.1") for _ in range(2))
    assert first.unique_id != second.unique_id
    settings = ("cluster.replicas=2", "cluster.cpus_per_data_worker=0.1", "fault.elastic=true", "train.steps=60")
    arguments = (str(SMALL), "name=elastic", "--address", nodes.address, *settings, "checkpoint.every_steps=2")
    run = Run(folder, "elastic", arguments=arguments)
    run.wait_for_step(6)
    nodes.remove_node(second, allow_graceful=False)
    run.wait_for(lambda: len(entries(run, "attempt")) == 2)
    run.wait_for_step(entries(run, "attempt")[1]["step"] + 4)
    nodes.add_node(num_cpus=2, node_ip_address="127.0.0.1")
    assert run.finish() == 0, run.text
    assert [attempt["replicas"] for attempt in entries(run, "attempt")] == [2, 1, 2]
    assert "there is room for 2 replicas instead of 1" in run.text
    losses = {report["step"]: report["loss"] for report in entries(run, "train")}
    theirs = {report["step"]: report["loss"] for report in entries(undisturbed, "train")}
    # The same images at every step, in float32 sums of another order.
    assert max(abs(losses[step] - theirs[step]) for step in theirs) < 1e-4
    assert losses.keys() == set(range(1, 61))


def test_a_node_that_is_to_be_taken_away_is_left_in_time(undisturbed: Run, folder: Path, nodes: Cluster) -> None:
    places = [nodes.add_node(num_cpus=3, node_ip_address="127.0.0.1") for _ in range(2)]
    arguments = (str(SMALL), "name=drained", "--address", nodes.address, "fault.max_failures=0", "train.steps=400")
    run = Run(folder, "drained", arguments=arguments)
    run.wait_for_step(10)
    [used] = {
        node for node, free in _free_cpus(nodes.address).items() if free < 3 and node in {p.node_id for p in places}
    }
    command = ["drain-node", "--address", nodes.address, "--node-id", used, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the spot market", "--deadline-remaining-seconds", "120"]
    subprocess.run([Path(sys.executable).with_name("ray"), *command], check=True, capture_output=True)
    run.wait_for(lambda: len(entries(run, "attempt")) == 2)
    assert "is being drained; starting again" in run.text
    run.wait_for_step(entries(run, "attempt")[1]["step"] + 1)
    assert _free_cpus(nodes.address).get(used, 3) == 3, "it is free, or has left already"
    run.interrupt()
    assert run.finish(60) == 130, run.text
    assert entries(run, "failure") == []
    # Nothing was computed twice: it stopped at a step and saved.
    steps = [report["step"] for report in entries(run, "train")]
    assert steps == list(range(1, len(steps) + 1))
    losses = {report["step"]: report["loss"] for report in entries(undisturbed, "train")}
    ours = {report["step"]: report["loss"] for report in entries(run, "train")}
    assert {step: ours[step] for step in losses} == losses


def _free_cpus(address: str) -> dict[str, float]:
    """Of each living node, by id."""
    ask = f"import json, ray; ray.init({address!r}, logging_level=50, log_to_driver=False); "
    ask += "free = ray._private.state.available_resources_per_node(); "
    ask += (
        "print(json.dumps({n['NodeID']: free.get(n['NodeID'], {}).get('CPU', 0) for n in ray.nodes() if n['Alive']}))"
    )
    done = subprocess.run([sys.executable, "-c", ask], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
