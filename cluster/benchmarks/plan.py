"""`bench plan`: steps as `--plan` predicts them beside steps as real processes take them.

The constants come from a calibration: single parts of the network, at a batch and a width that no step below has. Then each
configuration runs as it would in training, without Ray and data: column processes over gloo, DDP over the replicas.
"""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from cluster.benchmarks.rounds import WARM_UP, spread
from cluster.environment import COLUMN_ENVIRONMENT
from cluster.failures import RunFailed
from cluster.forecast.calibrate import calibrate
from cluster.forecast.command import plan_on
from cluster.forecast.model import forecast
from cluster.plan import Plan
from configs.loader import load
from configs.machine import Machine
from configs.schema import Config

MAPS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
UNITS = {"fc6": 4096, "fc7": 4096}
LONGEST_SECONDS = 1800


def width(share: float) -> tuple[str, ...]:
    """Settings of original.yaml with this share of its maps and units, kept even."""
    maps = [f"network.convs.{name}.maps={2 * int(count * share / 2)}" for name, count in MAPS.items()]
    return (*maps, *(f"network.denses.{name}.units={2 * int(count * share / 2)}" for name, count in UNITS.items()))


@dataclass(frozen=True)
class Case:
    columns_apart: bool
    replicas: int
    batch: int
    share: float
    """Of the widths."""
    more: tuple[str, ...] = ()
    """Settings."""

    @property
    def name(self) -> str:
        mesh = f"{self.replicas} x 2 columns" if self.columns_apart else "1 process"
        return f"{mesh}, batch {self.batch}" + ("" if self.share == 1 else f", {self.share:g} of the widths")

    def settings(self, threads: int) -> list[str]:
        return [
            *width(self.share),
            f"train.batch_size={self.batch}",
            f"cluster.replicas={self.replicas}",
            f"cluster.cpus_per_column={threads}",
            *self.more,
        ]


def plan_benchmark(batch: int, rounds: int, threads: int, share: float = 1.0) -> dict[str, Any]:
    """share: of original.yaml's widths in the wider half of the cases; the others have half of that."""
    with tempfile.TemporaryDirectory() as folder:
        images, between = max(1, batch // 4), width(0.75 * share)
        machine = calibrate(Path(folder) / "machine.yaml", images=images, settings=between, cores=threads)
    cases = [
        Case(apart, replicas, images, part)
        for apart, replicas in ((False, 1), (True, 1), (True, 2))
        for images, part in ((batch, share), (max(2, batch // 2), share), (batch, share / 2))
    ]
    print(f"\ncalibrated at batch {images} and {0.75 * share:g} of original.yaml's widths; steps on {threads} core(s)")
    print(f"  {'':<44}{'predicted ms':>14}{'measured ms (range)':>32}{'ratio':>8}")
    rows = []
    for case in cases:
        predicted, taken = predict(case, threads, machine), measure(case, threads, rounds)
        ratio = predicted / statistics.median(taken)
        print(f"  {case.name:<44}{predicted * 1e3:>14,.1f}{spread(taken):>32}{ratio:>8.2f}", flush=True)
        rows.append({"case": case.name, "predicted": predicted, "measured": taken, "ratio": ratio})
    worst = max(rows, key=lambda row: abs(cast(float, row["ratio"]) - 1))
    print(f"farthest off: {worst['case']}, {cast(float, worst['ratio']) - 1:+.0%}")
    return {"machine": dict(vars(machine), efficiency=vars(machine.efficiency), within_node=vars(machine.within_node),
                            between_nodes=None), "steps": rows}  # fmt: skip


def made(case: Case, threads: int, machine: Machine) -> Plan:
    """The plan of the case. One process owns both columns and has all threads."""
    config = load("original.yaml", case.settings(1 if case.columns_apart else threads))
    plan, _ = plan_on(config, machine, None)
    if case.columns_apart:
        return plan
    # On CPUs a plan always gives each column a process.
    return replace(plan, mesh=replace(plan.mesh, processes_per_replica=1, columns_per_process=config.network.columns))


def predict(case: Case, threads: int, machine: Machine) -> float:
    """Seconds of a step, without data workers."""
    found = forecast(made(case, threads, machine), machine)
    return found.step_seconds - found.data_wait_seconds


def measure(case: Case, threads: int, rounds: int) -> list[float]:
    """Seconds of each step of rank 0, begun by all processes at once. Raises RunFailed if one ends before its time."""
    processes = case.replicas * (2 if case.columns_apart else 1)
    each = 1 if case.columns_apart else threads
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _started(case, processes, each, port, rounds) as running:
        told, _ = running[0].communicate(timeout=LONGEST_SECONDS)
        if any(process.wait(60) for process in running):
            raise RunFailed(f"a process of {case.name} failed; its error stands above")
    return [float(line) for line in told.splitlines()]


@contextlib.contextmanager
def _started(case: Case, processes: int, threads: int, port: int, rounds: int) -> Iterator[list[subprocess.Popen[str]]]:
    environment = {**os.environ, **COLUMN_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    arguments = [str(value) for value in (processes, port, rounds, *case.settings(threads))]
    command = [sys.executable, "-m", "cluster.benchmarks.plan"]
    running = [
        subprocess.Popen(
            [*command, str(rank), *arguments],
            env=environment,
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.wait()


def _serve() -> None:
    """One process of a case: as many columns of one replica as the number of processes leaves it. Rank 0 prints seconds."""
    rank, processes, port, rounds = (int(argument) for argument in sys.argv[1:5])
    config = load("original.yaml", sys.argv[5:])
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    torch.set_num_threads(config.cluster.cpus_per_column)
    store = dist.TCPStore("127.0.0.1", port, processes, rank == 0, timeout=timedelta(seconds=300))
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=processes, timeout=timedelta(seconds=LONGEST_SECONDS)
    )
    replicas = config.cluster.replica_count
    axes = init_device_mesh("cpu", (replicas, processes // replicas), mesh_dim_names=("replica", "column"))
    step = _step(config, axes.get_group("replica"), axes.get_group("column"))
    for number in range(WARM_UP + rounds):
        dist.barrier()
        started = time.perf_counter()
        step()
        if rank == 0 and number >= WARM_UP:
            print(time.perf_counter() - started, flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _step(config: Config, replicas: Any, columns: Any) -> Callable[[], object]:
    """A training step as a column worker takes it, always on the same made-up images."""
    import numpy as np
    import torch

    from alexnet.augment import Preprocess
    from alexnet.colour import PixelStatistics
    from alexnet.exchange import ColumnExchange, NoExchange
    from alexnet.layout import channels_last
    from alexnet.network import AlexNet
    from alexnet.optimizer import PaperSGD
    from alexnet.schedule import Rates
    from alexnet.step import Batch, Step

    apart, crop = columns.size(), config.network.input_size
    images = config.train.batch_size // config.cluster.replica_count
    model = channels_last(
        AlexNet(
            config.network,
            first_column=columns.rank() if apart > 1 else 0,
            columns=config.network.columns // apart,
            exchange=ColumnExchange(columns) if apart > 1 else NoExchange(),
            fused=config.compute.fused,
        )
    )
    statistics = PixelStatistics(
        mean_SSC=np.full((crop, crop, 3), 120.0, np.float32),
        eigenvalues=(1.0, 1.0, 1.0),
        eigenvectors=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    )
    step = Step(
        model,
        Preprocess(config.augment, statistics, crop),
        PaperSGD(model, config.optimizer, fused=config.compute.fused),
        replicas,
    )
    batch = Batch(
        images_BHWC=torch.randint(0, 256, (images, crop, crop, 3), dtype=torch.uint8),
        labels_B=torch.randint(config.network.classes, (images,)),
        offsets_B2=torch.zeros(images, 2, dtype=torch.int64),
        mirror_B=torch.arange(images) % 2 == 0,
        colour_BC=torch.randn(images, 3),
        noisy_B=torch.ones(images, dtype=torch.bool),
        keys_B=torch.arange(images),
    )
    rates = Rates(weights=1e-4, biases=2e-4)
    return lambda: step.train(batch, rates)


if __name__ == "__main__":
    _serve()
