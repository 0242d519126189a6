"""What is written down about a failure before the actors are taken away: logs, stacks, collectives, GPUs.

One folder per attempt, `diagnosis/attempt-3` in the run's folder:
  what.txt            the failure in words, and where each rank was
  NODE-logs.txt       the last lines that the actors there wrote
  NODE-stacks.txt     after a hang: Python and native stacks of the actors there (py-spy)
  NODE-gpus.txt       nvidia-smi, where there is one
  collectives-N.json  after a hang: rank N's last collectives (torch's flight recorder)
"""

import contextlib
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.group import WorkerGroup
from cluster.outcomes import Failure

NODE_SECONDS = {"hang": 20.0, "death": 120.0}
"""How long a node may take to answer, by what happened; after a hang the others wait for it."""
ACTOR_SECONDS = 1.0
"""And an actor, which may be stopped, when all nodes have answered."""


def diagnose(folder: Path, failure: Failure, group: WorkerGroup, where: str) -> Thread:
    """Write down what can be had within seconds. A folder that cannot be written is no reason not to go on.

    where: each rank was when last heard. Nodes and actors that do not answer are left out. After a hang this returns when all is
    seen; after a death, which leaves nothing to see but logs, at once, and the returned thread goes on.
    """
    _write(folder, {"what.txt": f"{failure.kind}: {failure.what}\nranks: {where}\nfailure: {failure}\n"})
    hung = failure.kind == "hang"
    nodes = _ask_nodes(group, stacks=hung)
    ranks = {
        f"collectives-{rank}.json": column.collectives.remote() for rank, column in enumerate(group.columns) if hung
    }
    seconds = NODE_SECONDS["hang" if hung else "death"]
    thread = Thread(target=_collect, args=(folder, nodes, ranks, seconds), name="diagnosis", daemon=True)
    thread.start()
    if hung:
        thread.join()
    return thread


def _collect(folder: Path, nodes: dict[str, Any], ranks: dict[str, Any], node_seconds: float) -> None:
    for asked, seconds in ((nodes, node_seconds), (ranks, ACTOR_SECONDS)):
        ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds) if asked else ([], [])
        for name, reference in asked.items():
            if reference in ready:
                with contextlib.suppress(Exception):  # an actor or node that is gone has no more to say
                    told = ray.get(reference)
                    _write(
                        folder,
                        {f"{name}-{what}.txt": text for what, text in told.items()} if asked is nodes else {name: told},
                    )


def _write(folder: Path, files: dict[str, str]) -> None:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            if text:
                (folder / name).write_text(text, encoding="utf-8")


def _ask_nodes(group: WorkerGroup, *, stacks: bool) -> dict[str, Any]:
    """A task on each node of a column: what its processes wrote, and where they stand."""
    pids: dict[tuple[str, str], list[int]] = {}
    for about in group.about:
        pids.setdefault((about["node_id"], about["node"]), []).append(about["pid"])
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    return {
        address: look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            found, stacks
        )
        for (node, address), found in pids.items()
    }


def _look(pids: list[int], stacks: bool) -> dict[str, str]:
    """Runs on the node of these processes."""
    internals: Any = ray._private.worker
    logs = Path(internals._global_node.get_logs_dir_path())
    found = {"logs": "", "stacks": "", "gpus": _output("nvidia-smi") or ""}
    for pid in pids:
        # What the actor printed, and what Ray's part of its process noted.
        for log in sorted([*logs.glob(f"worker-*-{pid}.*"), *logs.glob(f"python-core-worker-*_{pid}.log")]):
            with contextlib.suppress(OSError):
                text = log.read_text(encoding="utf-8", errors="replace")
                found["logs"] += f"== pid {pid}, {log.name}\n{text[-20_000:]}\n" if text else ""
        if stacks:
            state = _state(pid)
            # py-spy stops the process while it looks; it would wait for ever for one that is stopped already.
            how = ["--nonblocking"] if "stopped" in state else []
            stacks_of = _output("py-spy", "dump", *how, "--pid", str(pid)) or "no stacks: is py-spy there?\n"
            found["stacks"] += f"== pid {pid}, {state}\n{stacks_of}"
    return found


def _state(pid: int) -> str:
    """As the kernel has it: running, sleeping, stopped ..."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("State:"):
                return line
    return "gone"


def _output(*command: str) -> str | None:
    """What a program prints, errors too; None if there is no such program, or it takes too long."""
    import shutil
    import subprocess
    import sys

    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout + done.stderr
