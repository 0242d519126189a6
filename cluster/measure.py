"""The measurements behind `python -m cluster.bench`: contenders take turns, and medians are compared."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from alexnet.response_norm import LocalResponseNorm
from cluster.environment import COLUMN_ENVIRONMENT
from configs.schema import ResponseNorm

WARM_UP = 2
# Forward 724,406,816 MACs of 2 operations each; backward twice that, less the gradient of conv1's input.
FLOP_PER_IMAGE = 6 * 724_406_816 - 2 * 105_415_200


def response_norm(batch: int, rounds: int, threads: int, device: str) -> dict[str, Any]:
    """Forward and backward of the two norms of the network, ours against nn.LocalResponseNorm, in both layouts."""
    torch.set_num_threads(threads)
    figures: dict[str, Any] = {}
    for shape in ((batch, 96, 55, 55), (batch, 256, 27, 27)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = (torch.randn(shape, device=device) * 10).contiguous(memory_format=layout).requires_grad_()
            grad = torch.randn_like(x)
            contenders = {
                "stock": torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
                "ours": LocalResponseNorm(ResponseNorm(), columns=1, spatial=False, fused=True),
                "ours, two columns in one process": LocalResponseNorm(
                    ResponseNorm(), columns=2, spatial=False, fused=True
                ),
                "ours, not compiled": LocalResponseNorm(ResponseNorm(), columns=1, spatial=False),
            }
            name = f"{tuple(shape)} {str(layout).removeprefix('torch.')}"
            times = _interleave({key: _pass(norm, x, grad, device) for key, norm in contenders.items()}, rounds)
            figures[name] = times
            print(f"\nresponse norm, forward and backward, {name}")
            _show(times, "stock")
    return figures


def steps(batch: int, rounds: int, threads: int, device: str) -> dict[str, Any]:
    """One training step of the whole network in one process, beside the speed of a plain large matrix product."""
    names = ["stock", "stock channels_last", "ours", "ours without norms"]
    with _Processes(names, batch, dict.fromkeys(names, threads), device) as processes:
        product = _matrix_product(threads, device)
        turns: dict[str, Callable[[], float]] = {**processes.turns(), "matrix product": product}
        times = _interleave(turns, rounds)
    print(f"\ntraining step, batch {batch} at 224, {threads} thread(s), {device}")
    best = min(("stock", "stock channels_last"), key=lambda name: statistics.median(times[name]))
    _show({name: times[name] for name in names}, best, images=batch)
    ceiling = 2 * 4096**3 / statistics.median(times["matrix product"]) / FLOP_PER_IMAGE
    reached = batch / statistics.median(times["ours"]) / ceiling
    print(f"a 4096x4096 matrix product would allow {ceiling:,.1f} images/s; ours reaches {reached:.0%} of it")
    return {"times": times, "ceiling_images_per_second": ceiling}


def columns(batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Two column processes over gloo, with half of the threads each, against all columns in one process."""
    counts = {"ours": threads, "two columns": max(1, threads // 2)}
    with _Processes(list(counts), batch, counts, "cpu") as processes:
        times = _interleave(processes.turns(), rounds)
        exchange = processes.exchange["two columns"][-rounds:]
    print(
        f"\ntwo column processes with {counts['two columns']} thread(s) each against one with {threads}, batch {batch}"
    )
    _show(times, "ours", images=batch)
    share = statistics.median(exchange) / statistics.median(times["two columns"])
    print(f"exposed exchange, waiting for the other column included: {spread(exchange)}, {share:.0%} of the step")
    return {"times": times, "exchange": exchange}


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def spread(seconds: list[float]) -> str:
    """Median and range in milliseconds."""
    return f"{statistics.median(seconds) * 1e3:,.1f} ms ({min(seconds) * 1e3:,.1f} to {max(seconds) * 1e3:,.1f})"


class _Processes:
    """Contenders in processes of their own, ready to take one step at a time."""

    def __init__(self, names: list[str], batch: int, threads: Mapping[str, int], device: str) -> None:
        self.exchange: dict[str, list[float]] = {name: [] for name in names}
        self._running = {}
        for name in names:
            # Stock gets the environment that its users have; ours the one that our actors get.
            added = {} if name.startswith("stock") else COLUMN_ENVIRONMENT
            count = {"OMP_NUM_THREADS": str(threads[name])}
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "cluster.contenders", name, str(batch), str(threads[name]), device],
                env={**os.environ, **count, **added, "PYTHONPATH": str(Path(__file__).parents[1])},
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
        return {name: lambda name=name: self._step(name) for name in self._running}  # type: ignore[misc]

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
            raise RuntimeError(
                f"the contender {name!r} ended; its error stands above (out of memory? try a smaller --batch)"
            )
        return line


def _interleave(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, warm-up left out; who goes first changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(WARM_UP + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = turns[name]()
            if number >= WARM_UP:
                times[name].append(seconds)
        print(
            f"round {number + 1 - WARM_UP} of {rounds}" if number >= WARM_UP else "warming up",
            file=sys.stderr,
            flush=True,
        )
    return times


def _pass(norm: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor, device: str) -> Callable[[], float]:
    def turn() -> float:
        started = time.perf_counter()
        norm(x).backward(grad)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        x.grad = None
        return seconds

    return turn


def _matrix_product(threads: int, device: str) -> Callable[[], float]:
    torch.set_num_threads(threads)
    a, b = torch.randn(4096, 4096, device=device), torch.randn(4096, 4096, device=device)

    def turn() -> float:
        started = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return turn


def _show(times: Mapping[str, list[float]], opponent: str, images: int | None = None) -> None:
    theirs = statistics.median(times[opponent])
    for name, seconds in times.items():
        ours = statistics.median(seconds)
        rate = f"{images / ours:8.1f} images/s  " if images else ""
        print(f"  {name:<34}{rate}{spread(seconds):<36}{theirs / ours:5.2f}x {opponent}")
