"""Measure this machine's CPUs for predictions: each kind of part of a step, a large product, a copy, a link.

Run as `python -m cluster.forecast.calibrate parts|link ...`, in processes with the environment of a column worker.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from cluster.cpus import usable_cpus
from cluster.failures import RunFailed
from cluster.paths import check_file
from configs.loader import load
from configs.machine import Efficiency, Link, Machine, load_machine, save_machine
from configs.schema import Config

IMAGES = 32
"""Per pass. Fewer than in a real step, which the predictions are about; enough for the speed to be that of one."""
ROUNDS = 5
"""After one to warm up; the fastest counts, for what else runs here makes a part slower and never faster."""
ANSWERED_FLOATS = 2**24
SHORT_FLOATS = 2
HEADER = """\
# This machine, as `python -m cluster.train --plan --calibrate` found it; what the fields mean: configs/machine.py.
# Watts are a guess: a server CPU's 300 over 64 cores. Give them, and a price, if you know better.
"""


def calibrate(file: Path, *, images: int = IMAGES, settings: tuple[str, ...] = (), cores: int | None = None) -> Machine:
    """Measure, write the description, and return it. settings: of the network whose parts are measured, beside original.yaml.

    Raises UserError if the file cannot be written, RunFailed if something measured has failed.
    """
    from cluster.benchmarks.rounds import processor

    cores = cores or usable_cpus()
    guess = load_machine("cpu")
    check_file(file, "--calibrate")
    print(f"measuring {cores} core(s) of {processor()}: each part of a step", file=sys.stderr, flush=True)
    parts = _run(["parts", str(images), *settings], cores)
    print("and a link between two processes", file=sys.stderr, flush=True)
    link = _run(["link", "0", "0"], 1)
    machine = Machine(
        name=f"a core of {processor()}",
        device="cpu",
        measured=True,
        source="measured by --calibrate",
        date=date.today().strftime("%Y-%m"),
        devices_per_node=cores,
        cpus_per_node=cores,
        nodes=1,
        gflops={
            "fp32": round(parts["flops"] / cores / 1e9, 1),
            "bf16": round(parts["bf16_flops"] / cores / 1e9, 1),
        },
        gigabytes_per_second=round(parts["bytes_per_second"] / cores / 1e9, 2),
        efficiency=Efficiency(
            **{kind: round(parts["efficiency"].get(kind, getattr(guess.efficiency, kind)), 3) for kind in KINDS},
            link=1.0,
        ),
        within_node=Link(
            gigabytes_per_second=round(link["bytes_per_second"] / 1e9, 2), microseconds=round(link["seconds"] * 1e6, 1)
        ),
        data_images_per_second=guess.data_images_per_second,
        watts_per_device=guess.watts_per_device,
        watts_per_node=guess.watts_per_node,
    )
    save_machine(machine, file, HEADER)
    return machine


KINDS = ("first_conv", "conv", "dense", "norm", "spatial_norm", "update", "other")


def _run(arguments: list[str], threads: int) -> dict[str, Any]:
    from cluster.environment import COLUMN_ENVIRONMENT

    environment = {**os.environ, **COLUMN_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "cluster.forecast.calibrate", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunFailed(f"measuring {arguments[0]} failed; the reason stands above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _config(settings: list[str]) -> Config:
    return load("original.yaml", settings)


def _measure_parts(images: int, settings: list[str]) -> dict[str, Any]:
    """Seconds of each part against the same floor that the model takes, by kind."""
    import torch

    from alexnet.precision import set_precision
    from cluster.benchmarks.layers import COPIED_FLOATS, parts_of

    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    set_precision("fp32")
    torch.manual_seed(0)
    config = _config(settings)
    parts = parts_of(config.network, images, "cpu", fused=config.compute.fused)
    side = 1024 if images < IMAGES else 4096
    a, b = torch.randn(side, side), torch.randn(side, side)
    c, d = a.bfloat16(), b.bfloat16()
    large, other = torch.ones(COPIED_FLOATS // 4), torch.zeros(COPIED_FLOATS // 4)
    turns: list[Callable[[], object]] = [lambda: torch.mm(a, b), lambda: torch.mm(c, d), lambda: other.copy_(large)]
    taken = [_fastest(turn) for turn in [*turns, *(turn for _, turn in parts)]]
    product, half, copy, *own = taken
    flops, bandwidth = 2 * side**3 / product, 8 * len(large) / copy
    floors: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for (about, _), took in zip(parts, own, strict=True):
        kind = about["kind"]
        floors[kind] = floors.get(kind, 0.0) + max(about["flop"] / flops, about["bytes"] / bandwidth)
        seconds[kind] = seconds.get(kind, 0.0) + took
    return {
        "flops": flops,
        "bf16_flops": 2 * side**3 / half,
        "bytes_per_second": bandwidth,
        "efficiency": {kind: floors[kind] / seconds[kind] for kind in floors},
    }


def _fastest(turn: Callable[[], object]) -> float:
    turn()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        turn()
        times.append(time.perf_counter() - started)
    return min(times)


def _measure_link(rank: int, port: int) -> dict[str, float]:
    """Of an all-reduce between two processes, which sends as many bytes as it adds up."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    other = None
    if rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        other = subprocess.Popen(
            [sys.executable, "-m", "cluster.forecast.calibrate", "link", "1", str(port)], stdout=subprocess.DEVNULL
        )
    try:
        store = dist.TCPStore("127.0.0.1", port, 2, rank == 0)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
        long, short = torch.ones(ANSWERED_FLOATS), torch.ones(SHORT_FLOATS)
        taken, latency = _fastest(lambda: dist.all_reduce(long)), _fastest(lambda: dist.all_reduce(short))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # Ctrl-C too; it is raised on
        if other is not None:
            other.kill()
        raise
    finally:
        if other is not None:
            other.wait()
    # Around a ring of two, 2 x 1/2 of the bytes go each way, in two turns.
    return {"bytes_per_second": 4 * len(long) / max(taken - latency, 1e-6), "seconds": latency / 2}


def _serve() -> None:
    what, *arguments = sys.argv[1:]
    if what == "parts":
        found = _measure_parts(int(arguments[0]), arguments[1:])
    else:
        found = _measure_link(int(arguments[0]), int(arguments[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    _serve()
