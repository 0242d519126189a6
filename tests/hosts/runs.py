"""Ray on pretend hosts, started as ray_cluster.yaml does, and runs of `python -m cluster.train` on it."""

import contextlib
import json
import re
import signal
import sys
import time
from pathlib import Path

from tests.cluster import runs
from tests.cluster.runs import SMALL
from tests.hosts.hosts import PROJECT, Hosts, HostsError

STEPS = 400
SETTINGS = (
    f"train.steps={STEPS}", "train.evaluate_every_epochs=10", "checkpoint.every_steps=20", "fault.hang_timeout_seconds=15",
    "cluster.start_timeout_seconds=60", "fault.backoff_seconds=0",
)  # fmt: skip
COMMON = (
    "unset OMP_NUM_THREADS; export RAY_USAGE_STATS_ENABLED=0 RAY_free_objects_period_milliseconds=0 "
    "RAY_raylet_death_check_interval_milliseconds=200"
)
HEALTH = (
    "RAY_health_check_initial_delay_ms=1000 RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 "
    "RAY_health_check_failure_threshold=3"
)
WORKERS = ("w1", "w2")
DATA_HOST = "w3"
"""It has room for data workers, and none for columns."""


class Cluster:
    """Ray on the hosts, and runs on it."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder

    def start(self) -> None:
        where = f"--head --node-ip-address={self.hosts.address('head')} --port=6379 --include-dashboard=false"
        self._ray_start("head", f"{HEALTH};", f"{where} --num-cpus=1")
        for worker in (*WORKERS, DATA_HOST):
            self._join(worker)
        self._wait_for_nodes(4)

    def repair(self, host: str) -> None:
        """Switch it off, if it is on, and on again: it comes back as a new node."""
        with contextlib.suppress(HostsError):
            self.hosts.power_off(host)
        self.hosts.boot(host)
        self._join(host)
        self._wait_for_nodes(4)

    def _join(self, worker: str) -> None:
        head, cpus = self.hosts.address("head"), 1 if worker == DATA_HOST else 3
        self._ray_start(worker, ";", f"--address={head}:6379 --num-cpus={cpus}")

    def _ray_start(self, host: str, settings: str, arguments: str) -> None:
        command = f"{COMMON} {settings} ray start {arguments} --object-store-memory=200000000"
        self.hosts.exec(host, "bash", "-c", command, seconds=90)

    def _wait_for_nodes(self, count: int) -> None:
        ask = "import ray; ray.init(address='auto', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        end = time.monotonic() + 60
        while self.hosts.exec("head", sys.executable, "-c", ask).split()[-1] != str(count):
            assert time.monotonic() < end, f"there are not {count} nodes"


class Run(runs.Run):
    """`python -m cluster.train` on the head."""

    def __init__(self, cluster: Cluster, name: str, *settings: str) -> None:
        self.cluster, self.name, self.settings = cluster, name, settings
        self.folder = cluster.folder / "runs" / name
        self.output = cluster.folder / f"{name}-{time.monotonic_ns()}.txt"
        words = " ".join((f"name={name}", *SETTINGS, *settings, "--address auto"))
        command = f"PYTHONPATH={PROJECT} NO_COLOR=1 exec {sys.executable} -m cluster.train {SMALL} {words}"
        with self.output.open("w") as file:
            there = f"cd {cluster.folder} && {command}"
            self.process = cluster.hosts.popen("head", "bash", "-c", there, stdout=file)

    def losses(self) -> dict[int, float]:
        return {report["step"]: report["loss"] for report in self.reports("train")}

    def place(self, actor: str) -> tuple[int, str]:
        """(pid in its host, host); a data worker's host is not told, so it is said to be the columns'."""
        pid, address = re.findall(rf"^{re.escape(actor)}: pid (\d+)(?: on ([\d.]+))?", self.text, re.MULTILINE)[-1]
        hosts = self.cluster.hosts
        return int(pid), next((name for name in hosts.names if hosts.address(name) == address), "") or self.host()

    def host(self) -> str:
        """Of the first replica's columns."""
        return self.place("column r0 c1")[1]

    def kill(self, actor: str, number: int = signal.SIGKILL) -> None:
        pid, host = self.place(actor)
        self.cluster.hosts.exec(host, "bash", "-c", f"kill -{number} {pid}", seconds=90)

    def signal(self, number: int) -> None:
        """To the driver alone."""
        self.cluster.hosts.interrupt(self.process, number)

    def checkpoints(self) -> list[Path]:
        place = self.cluster.folder / "small" / self.name if self.name == "full_disk" else self.folder / "checkpoints"
        return sorted(path.parent for path in place.glob("step-*/state.json"))

    def weights(self, step: int | None = None) -> list[str]:
        """Of the last step alone."""
        state = json.loads((self.checkpoints()[-1] / "state.json").read_text(encoding="utf-8"))
        assert step is None and state["step"] == STEPS, f"{self.name} ended at step {state['step']}"
        return [file["sha256"] for file in state["files"]]
