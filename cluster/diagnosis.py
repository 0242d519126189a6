"""What is written down about a failure before the actors are taken away: logs, stacks, collectives, GPUs.

One folder per attempt, `diagnosis/attempt-3` in the run's folder:
  what.txt            the failure in words, and where each rank was
  NODE-logs.txt       the last lines that the actors there wrote
  NODE-stacks.txt     after a hang: Python and native stacks of the actors there (py-spy)
  NODE-gpus.txt       nvidia-smi, where there is one
  collectives-N.json  after a hang: rank N's last collectives (torch's flight recorder)
"""

import contextlib
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.group import WorkerGroup
from cluster.outcomes import Failure

DEATH_SECONDS = 2.0
"""How long a dead actor's neighbours are looked at: a new attempt waits for it."""
HANG_SECONDS = 20.0


def diagnose(folder: Path, failure: Failure, group: WorkerGroup, where: str) -> None:
    """Write down what can be had within seconds. A folder that cannot be written is no reason not to go on.

    where: each rank was when last heard. Nodes and actors that do not answer are left out.
    """
    end = time.monotonic() + (HANG_SECONDS if failure.kind == "hang" else DEATH_SECONDS)
    files = {"what.txt": f"{failure.kind}: {failure.what}\nranks: {where}\nfailure: {failure}\n"}
    asked = _ask_nodes(group, stacks=failure.kind == "hang")
    if failure.kind == "hang":
        asked |= {f"collectives-{rank}.json": column.collectives.remote() for rank, column in enumerate(group.columns)}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=max(0.0, end - time.monotonic()))
    for name, reference in asked.items():
        if reference not in ready:
            continue
        with contextlib.suppress(Exception):  # an actor or node that is gone has no more to say
            told = ray.get(reference)
            files |= (
                {f"{name}-{what}.txt": text for what, text in told.items()} if isinstance(told, dict) else {name: told}
            )
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
        for log in sorted(logs.glob(f"worker-*-{pid}.*")):
            with contextlib.suppress(OSError):
                text = log.read_text(encoding="utf-8", errors="replace")
                found["logs"] += f"== pid {pid}, {log.name}\n{text[-20_000:]}\n" if text else ""
        if stacks:
            # Without stopping the process, which may be stopped already.
            found["stacks"] += f"== pid {pid}, {_state(pid)}\n"
            found["stacks"] += (
                _output("py-spy", "dump", "--nonblocking", "--pid", str(pid)) or "no stacks: is py-spy there?\n"
            )
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
