"""Real runs of `python -m cluster.train` as people start them, in a process group of their own, for tests that disturb them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil

PROJECT = Path(__file__).parents[2]
SMALL = Path(__file__).with_name("small.yaml")


class Run:
    """`python -m cluster.train small.yaml name=NAME ...` in `folder`, whose runs share one data set."""

    started: ClassVar[list["Run"]] = []
    """All of them, for the one who cleans up."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *settings: str,
        module: str = "train",
        arguments: tuple[str, ...] = (),
        **streams: Any,
    ) -> None:
        """streams: stdout and stderr, if they are not to be read as `text`."""
        self.folder = folder / "runs" / name
        self.output = folder / f"{name}-{time.monotonic_ns()}.txt"
        command = [sys.executable, "-m", f"cluster.{module}"]
        command += list(arguments) or [str(SMALL), f"name={name}", *settings]
        with self.output.open("w") as file:
            where: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT, **streams}
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(PROJECT), "NO_COLOR": "1", "COLUMNS": "200"},
                start_new_session=True,
                **where,
            )
        self.started.append(self)

    @property
    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def finish(self, seconds: float = 300) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_tree()
            raise AssertionError(f"did not end within {seconds} s:\n{self.text}") from None

    def wait_for_step(self, step: int, seconds: float = 300) -> None:
        """Wait until the log tells of an update of at least this number."""
        self.wait_for(lambda: self.last_step() >= step, seconds)

    def wait_for(self, ready: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, f"ended too early:\n{self.text}"
            assert time.monotonic() < end, f"nothing within {seconds} s:\n{self.text}"
            time.sleep(0.05)

    def reports(self, *kinds: str) -> list[dict[str, Any]]:
        """What the log tells so far, of these kinds if some are given."""
        log = self.folder / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return [entry for entry in entries if not kinds or entry["kind"] in kinds]

    def last_step(self) -> int:
        return max((report["step"] for report in self.reports()), default=0)

    def pid_of(self, actor: str) -> int:
        """Process of an actor, as the run itself says at its start."""
        found = re.search(rf"^{re.escape(actor)}: pid (\d+)", self.text, re.MULTILINE)
        assert found, f"no pid of {actor} in:\n{self.text}"
        return int(found[1])

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """A signal as a terminal sends Ctrl-C (or SIGHUP, when it is closed): to the whole foreground process group."""
        os.killpg(self.process.pid, number)

    def kill_tree(self) -> None:
        """kill -9 of the driver and every process below it, at once."""
        # The driver first: it would tell of the deaths of others.
        for process in [psutil.Process(self.process.pid), *self.descendants()]:
            if process.is_running():
                process.kill()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        return content

    def weights(self, step: int | None = None) -> list[str]:
        """SHA-256 of the files of the newest checkpoint (or the one at a step): weights and momentum, bit for bit."""
        folders = sorted((self.folder / "checkpoints").glob("step-*" if step is None else f"step-{step:08d}*"))
        state = json.loads((folders[-1] / "state.json").read_text(encoding="utf-8"))
        return [file["sha256"] for file in state["files"]]


def finished(folder: Path, name: str, *settings: str, **more: Any) -> Run:
    """A run that has come to its end without an error."""
    run = Run(folder, name, *settings, **more)
    assert run.finish(300) == 0, run.text
    return run


def losses(run: Run) -> dict[int, float]:
    """By step."""
    return {report["step"]: report["loss"] for report in run.reports("train")}


def flip(file: Path) -> None:
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def free_port() -> int:
    """One on loopback that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running_cluster(
    folder: Path, *, cpus: int, dashboard_port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Ray cluster of one node on loopback, as `ray start --head` starts it; its address and process. Ended by its own pids."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--num-cpus={cpus}", "--disable-usage-stats"]
    if dashboard_port is None:
        command += ["--include-dashboard=false"]
    else:
        command += [f"--dashboard-port={dashboard_port}", f"--dashboard-agent-listen-port={free_port()}"]
    with (folder / "cluster.txt").open("wb") as file:
        # Jobs are started by the node, which must find this Python first.
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        cluster = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        end = time.monotonic() + 60
        while "started" not in (folder / "cluster.txt").read_text():
            assert cluster.poll() is None and time.monotonic() < end, (folder / "cluster.txt").read_text()
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", cluster
    finally:
        processes = [psutil.Process(cluster.pid), *psutil.Process(cluster.pid).children(recursive=True)]
        for process in processes:
            if process.is_running():
                process.kill()
        cluster.wait()


def alive(processes: list[psutil.Process], within_seconds: float = 5.0) -> list[str]:
    """Command lines of those that still run after a while."""
    _, left = psutil.wait_procs(processes, timeout=within_seconds)
    return [
        " ".join(process.cmdline())[:120]
        for process in left
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
