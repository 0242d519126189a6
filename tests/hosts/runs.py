"""Ray on pretend hosts, started as ray_cluster.yaml does, and runs of `python -m cluster.train` on it."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.runs import SMALL
from tests.hosts.hosts import PROJECT, Hosts

STEPS = 400
SETTINGS = (
    f"train.steps={STEPS}", "train.evaluate_every_epochs=10", "checkpoint.every_steps=20", "fault.hang_timeout_seconds=15",
    "cluster.start_timeout_seconds=60", "fault.backoff_seconds=0",
)  # fmt: skip
HEALTH = (
    "RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 "
    "RAY_health_check_failure_threshold=3"
)
COMMON = (
    "unset OMP_NUM_THREADS; export RAY_USAGE_STATS_ENABLED=0 RAY_free_objects_period_milliseconds=0 "
    "RAY_raylet_death_check_interval_milliseconds=200"
)
WORKERS = ("w1", "w2")
DATA_HOST = "w3"
"""It has room for data workers, and none for columns."""


class Cluster:
    """Ray on the hosts, started as ray_cluster.yaml does, and runs on it."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.undisturbed: Run | None = None
        """What others are compared with."""

    def start(self) -> None:
        head = self.hosts.address("head")
        self.shell(
            "head",
            f"{COMMON} {HEALTH}; ray start --head --node-ip-address={head} --port=6379 --include-dashboard=false "
            "--num-cpus=1 --object-store-memory=200000000",
        )
        for worker in (*WORKERS, DATA_HOST):
            self.join(worker)
        self.wait_for_nodes(4)

    def join(self, worker: str) -> None:
        self.shell(
            worker,
            f"{COMMON}; ray start --address={self.hosts.address('head')}:6379 --num-cpus={1 if worker == DATA_HOST else 3} "
            "--object-store-memory=200000000",
        )

    def shell(self, host: str, command: str, seconds: float = 90) -> str:
        return self.hosts.exec(host, "bash", "-c", command, seconds=seconds)

    def wait_for_nodes(self, count: int) -> None:
        ask = "import ray; ray.init(address='auto', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        end = time.monotonic() + 60
        while self.hosts.exec("head", sys.executable, "-c", ask).split()[-1] != str(count):
            assert time.monotonic() < end, f"there are not {count} nodes"


class Run:
    """`python -m cluster.train` on the head."""

    def __init__(self, cluster: Cluster, name: str, *settings: str) -> None:
        self.cluster, self.name, self.settings = cluster, name, settings
        self.path = cluster.folder / "runs" / name
        self.output = cluster.folder / f"{name}-{time.monotonic_ns()}.txt"
        command = (
            f"cd {cluster.folder} && PYTHONPATH={PROJECT} NO_COLOR=1 exec {sys.executable} -m cluster.train {SMALL} "
        )
        command += " ".join((f"name={name}", *SETTINGS, *settings)) + " --address auto"
        with self.output.open("w") as file:
            self.process = cluster.hosts.popen("head", "bash", "-c", command, stdout=file)

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def entries(self, kind: str) -> list[dict[str, Any]]:
        log = self.path / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [entry for line in lines if line.endswith("}") and (entry := json.loads(line))["kind"] == kind]

    def wait_for(self, ready: Callable[[], Any], what: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{self.name}: {what} did not come:\n{self.text}")
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.step() >= step, f"step {step}")

    def step(self) -> int:
        return max((entry["step"] for entry in self.entries("train")), default=0)

    def place(self, actor: str) -> tuple[int, str]:
        """(pid in its host, host) of a column, or (pid, "") of a data worker."""
        found = re.findall(rf"^{re.escape(actor)}: pid (\d+)(?: on ([\d.]+))?", self.text, re.MULTILINE)[-1]
        host = next((name for name in self.cluster.hosts.names if self.cluster.hosts.address(name) == found[1]), "")
        return int(found[0]), host

    def kill(self, actor: str, number: int = signal.SIGKILL) -> None:
        pid, host = self.place(actor)
        self.cluster.shell(host or self.columns_host(), f"kill -{number} {pid}")

    def columns_host(self) -> str:
        return self.place("column r0 c1")[1]

    def signal(self, number: int) -> None:
        """To the driver alone."""
        self.cluster.hosts.interrupt(self.process, number)

    def finish(self, seconds: float = 300) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{self.text}") from None

    def checkpoints(self) -> list[Path]:
        place = self.cluster.folder / "small" / self.name if self.name == "full-disk" else self.path / "checkpoints"
        return sorted(path.parent for path in place.glob("step-*/state.json"))

    def weights(self) -> list[str]:
        state = json.loads((self.checkpoints()[-1] / "state.json").read_text(encoding="utf-8"))
        assert state["step"] == STEPS, f"{self.name} ended at step {state['step']}"
        return [file["sha256"] for file in state["files"]]
