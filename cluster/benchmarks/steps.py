"""`bench step` and `bench columns`: one training step of the whole network, each contender in a process of its own."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alexnet.precision import set_precision
from cluster.benchmarks.rounds import interleave, show, spread
from cluster.environment import COLUMN_ENVIRONMENT
from cluster.failures import RunFailed

# Forward 724,406,816 MACs of 2 operations each; backward twice that, less the gradient of conv1's input.
FLOP_PER_IMAGE = 6 * 724_406_816 - 2 * 105_415_200


def steps(batch: int, rounds: int, threads: int, device: str, precision: str, compiled: bool) -> dict[str, Any]:
    """One training step of the whole network in one process, beside the speed of a plain large matrix product."""
    stock = ["stock", "stock channels_last", *(["stock compiled"] if compiled else [])]
    names = [*stock, "ours", *(["ours compiled"] if compiled else []), "ours without norms"]
    with _Processes(names, batch, dict.fromkeys(names, threads), device, precision) as processes:
        product = _matrix_product(threads, device, precision)
        turns: dict[str, Callable[[], float]] = {**processes.turns(), "matrix product": product}
        times = interleave(turns, rounds)
    print(f"\ntraining step, batch {batch} at 224, {threads} thread(s), {device}, {precision}")
    best = min(stock, key=lambda name: statistics.median(times[name]))
    show({name: times[name] for name in names}, best, images=batch)
    ceiling = 2 * 4096**3 / statistics.median(times["matrix product"]) / FLOP_PER_IMAGE
    reached = batch / statistics.median(times["ours"]) / ceiling
    print(f"a 4096x4096 matrix product would allow {ceiling:,.1f} images/s; ours reaches {reached:.0%} of it")
    return {"times": times, "ceiling_images_per_second": ceiling}


def columns(batch: int, rounds: int, threads: int, precision: str) -> dict[str, Any]:
    """Two column processes over gloo, with half of the threads each, against all columns in one process."""
    counts = {"ours": threads, "two columns": max(1, threads // 2)}
    with _Processes(list(counts), batch, counts, "cpu", precision) as processes:
        times = interleave(processes.turns(), rounds)
        exchange = processes.exchange["two columns"][-rounds:]
    print(
        f"\ntwo column processes with {counts['two columns']} thread(s) each against one with {threads}, batch {batch}"
    )
    show(times, "ours", images=batch)
    share = statistics.median(exchange) / statistics.median(times["two columns"])
    print(f"exposed exchange, waiting for the other column included: {spread(exchange)}, {share:.0%} of the step")
    return {"times": times, "exchange": exchange}


class _Processes:
    """Contenders in processes of their own, ready to take one step at a time."""

    def __init__(self, names: list[str], batch: int, threads: Mapping[str, int], device: str, precision: str) -> None:
        self.exchange: dict[str, list[float]] = {name: [] for name in names}
        self._running = {}
        for name in names:
            # Stock gets the environment that its users have; ours the one that our actors get.
            added = {} if name.startswith("stock") else COLUMN_ENVIRONMENT
            count = {"OMP_NUM_THREADS": str(threads[name])}
            self._running[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cluster.benchmarks.contenders",
                    name,
                    str(batch),
                    str(threads[name]),
                    device,
                    precision,
                ],
                env={**os.environ, **count, **added, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._answer(name)

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)

    def turns(self) -> dict[str, Callable[[], float]]:
        """By name, a function that takes one step and returns its seconds."""
        return {name: partial(self._step, name) for name in self._running}

    def _step(self, name: str) -> float:
        stdin = self._running[name].stdin
        assert stdin is not None
        stdin.write("step\n")
        stdin.flush()
        seconds, exchange = self._answer(name).split()
        self.exchange[name].append(float(exchange))
        return float(seconds)

    def _answer(self, name: str) -> str:
        stdout = self._running[name].stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise RunFailed(
                f"the contender {name!r} ended; its error stands above (out of memory? try a smaller --batch)"
            )
        return line


def _matrix_product(threads: int, device: str, precision: str) -> Callable[[], float]:
    torch.set_num_threads(threads)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    set_precision("tf32" if precision == "tf32" else "fp32")
    a, b = (torch.randn(4096, 4096, device=device, dtype=kind) for _ in range(2))

    def turn() -> float:
        started = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return turn
