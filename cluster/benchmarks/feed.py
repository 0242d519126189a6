"""`bench feed`: a real run of `original.yaml`'s columns, feed and data worker; who waits, what it costs, and the memory.

The run is the driver's own code (worker group and supervisor) on pictures drawn at 256x256, with 10 classes, for a few short
epochs, so that several of their edges lie within it.
"""

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from cluster.dataset import dataset_size, draw
from cluster.failures import RunFailed
from cluster.group import WorkerGroup
from cluster.outcomes import Finished
from cluster.plan import Plan, local_cpus, make_plan
from cluster.ray_session import ray_session
from cluster.signals import StopSignals
from cluster.supervisor import Supervisor
from configs.loader import load
from workers.reports import Report, TrainReport

STEPS_PER_EPOCH, EPOCHS, WARM_UP_STEPS = 6, 4, 3
SAMPLE_SECONDS = 0.2
RAY_THREADS = (
    "worker.io",
    "client.poll",
    "server.poll",
    "gcs_client",
    "event_engine",
    "timer_manager",
    "grpc",
    "task_event",
)
"""How the names of Ray's own threads begin."""


def feed(batch: int) -> dict[str, Any]:
    """One run; prints and returns shares of time and of a core, and bytes."""
    with tempfile.TemporaryDirectory(prefix="bench-feed-") as folder:
        plan = _plan(Path(folder), batch)
        with (
            StopSignals() as signals,
            ray_session(None, num_cpus=local_cpus(plan), object_store_bytes=plan.object_store_bytes) as ray,
        ):
            draw(plan.config, ray)
            plan = make_plan(plan.config, 0, dataset_size(plan.config))
            with WorkerGroup(plan) as group:
                figures = _run(plan, group, signals, ray, Path(folder))
    _show(plan, figures)
    return figures


def _plan(folder: Path, batch: int) -> Plan:
    settings = [
        f"name=bench-feed data.path={folder / 'data'} runs_folder={folder / 'runs'} network.classes=10 cluster.device=cpu",
        f"data.drawn_pictures.size=256 data.drawn_pictures.train_per_class={-(-STEPS_PER_EPOCH * batch // 10)}",
        f"data.drawn_pictures.validation_per_class=10 train.epochs={EPOCHS} train.batch_size={batch}",
        f"train.evaluate_batch_size={batch} train.evaluate_every_epochs=null train.report_every_steps=1",
        "checkpoint.every_steps=null cluster.data_workers=1 augment.colour_noise.statistics=dataset",
    ]
    config = load("original.yaml", " ".join(settings).split())
    return make_plan(config, 0, dataset_size(config))


def _run(plan: Plan, group: WorkerGroup, signals: StopSignals, ray: Any, folder: Path) -> dict[str, Any]:
    trained: list[TrainReport] = []
    marks: dict[str, list[float]] = {name: [] for name in ("driver", "feed", "seconds")}
    peaks = {"object store": 0, "objects": 0, "in training": 0}

    def mark() -> None:
        used = psutil.Process().cpu_times()
        marks["driver"].append(used.user + used.system)
        marks["feed"].append(supervisor.feed_counts[0]["seconds_feeding"] + _ray_seconds(columns[0]))
        marks["seconds"].append(time.monotonic())

    def on_report(report: Report) -> None:
        if not isinstance(report, TrainReport):
            return
        trained.append(report)
        if report.step in (WARM_UP_STEPS, plan.program().total_steps):
            mark()
        print(f"\rstep {report.step} of {plan.program().total_steps}", end="", flush=True)
        peaks["in training"] = max(_peak_rss(process) for process in columns)

    columns = [psutil.Process(about["pid"]) for about in group.about]
    at_start = [_peak_rss(process) for process in columns]
    supervisor = Supervisor(group, signals, on_report, print)
    with _sampled(ray, peaks):
        outcome = supervisor.watch(group.train(str(folder / "checkpoints"), None))
    print()
    if not isinstance(outcome, Finished):
        raise RunFailed(str(outcome))
    trained = [report for report in trained if report.step > WARM_UP_STEPS]
    edges = {report.step for report in trained if (report.step - 1) % STEPS_PER_EPOCH == 0}
    steps, seconds = len(trained), marks["seconds"][1] - marks["seconds"][0]
    return {
        "steps": steps,
        "images_per_second": statistics.median(report.images_per_second for report in trained),
        "data_wait": sum(report.data_wait / report.images_per_second for report in trained)
        / sum(1 / report.images_per_second for report in trained),
        "data_wait_at_edges": max(report.data_wait for report in trained if report.step in edges),
        "edges": sorted(edges),
        "exchange_wait": statistics.median(report.exchange_wait for report in trained),
        **{f"{name}_core": (marks[name][1] - marks[name][0]) / seconds for name in ("driver", "feed")},
        **{f"{name}_ms_per_batch": (marks[name][1] - marks[name][0]) / steps * 1e3 for name in ("driver", "feed")},
        "column_bytes": max(_peak_rss(process) for process in columns),
        "column_bytes_in_training": peaks["in training"],
        "column_bytes_before": max(at_start),
        "column_bytes_planned": plan.actor_bytes,
        "object_store_bytes": peaks["object store"],
        "objects": peaks["objects"],
        "object_store_bytes_planned": plan.window_bytes,
    }


SAMPLER = """
import re, sys, time
from ray._private.internal_api import memory_summary
while True:
    told = memory_summary(sys.argv[1], stats_only=True)
    print(*re.search(r"Plasma memory usage (\\d+) MiB, (\\d+) objects", told).groups(), flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextlib.contextmanager
def _sampled(ray: Any, peaks: dict[str, int]) -> Iterator[None]:
    """Look at the object store now and then, in a process of its own, so that the driver's own cost stays what it is."""
    address = ray.get_runtime_context().gcs_address
    with tempfile.TemporaryFile("w+") as told:
        sampler = subprocess.Popen([sys.executable, "-c", SAMPLER, address, str(SAMPLE_SECONDS)], stdout=told)
        try:
            yield
        finally:
            sampler.kill()
            sampler.wait()
            told.seek(0)
            for line in told:
                if re.fullmatch(r"\d+ \d+\n", line):  # the last one may be cut off
                    mib, objects = map(int, line.split())
                    peaks["object store"] = max(peaks["object store"], mib * 2**20)
                    peaks["objects"] = max(peaks["objects"], objects)


def _ray_seconds(process: psutil.Process) -> float:
    """CPU seconds of the threads with which Ray sends and answers calls in an actor's process."""
    ticks = 0
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        if (task / "comm").read_text(encoding="utf-8").startswith(RAY_THREADS):
            fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak_rss(process: psutil.Process) -> int:
    """The most memory that the process has held at once, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) * 1024


def _show(plan: Plan, figures: dict[str, Any]) -> None:
    print(
        f"\n{plan.mesh.size} columns of original.yaml, batch {plan.config.train.batch_size}, one data worker, on CPUs"
    )
    print(f"  {figures['images_per_second']:.1f} images/s; {figures['steps']} steps measured")
    print(
        f"  waiting for data {figures['data_wait']:.2%} of the time, at most {figures['data_wait_at_edges']:.2%} of a step "
        f"that begins an epoch (steps {', '.join(map(str, figures['edges']))}); for the exchange {figures['exchange_wait']:.1%}"
    )
    for name in ("driver", "feed"):
        print(f"  {name}: {figures[f'{name}_ms_per_batch']:.2f} ms a batch, {figures[f'{name}_core']:.2%} of a core")
    for what, key in (("column, peak", "column_bytes"), ("object store, peak", "object_store_bytes")):
        planned, found = figures[f"{key}_planned"], figures[key]
        print(f"  {what}: {found / 1e6:,.0f} MB, planned {planned / 1e6:,.0f} MB ({found / planned - 1:+.0%})")
