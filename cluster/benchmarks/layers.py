"""`bench layers`: every part of a step on its own, against the least time that its arithmetic and its memory traffic allow.

Run as `python -m cluster.benchmarks.layers BATCH THREADS DEVICE ROUNDS`, in a process with the environment of a column worker.
The two ceilings are measured in the same run: a 4096x4096 matrix product, and the copy of a tensor too large for the caches.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alexnet.layout import channels_last
from alexnet.network import AlexNet, Column
from alexnet.optimizer import PaperSGD
from alexnet.precision import set_precision
from alexnet.response_norm import LocalResponseNorm
from cluster.benchmarks.contenders import RATES, network
from cluster.benchmarks.rounds import WARM_UP
from cluster.environment import COLUMN_ENVIRONMENT
from configs.schema import Network, Optimizer

COPIED_FLOATS = 2**26


def layers(batch: int, rounds: int, threads: int, device: str) -> dict[str, Any]:
    """Measure in a process of its own; print and return the table."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster.benchmarks.layers", *map(str, (batch, threads, device, rounds))],
        env={
            **os.environ,
            **COLUMN_ENVIRONMENT,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    table: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    flops, bandwidth = table["flops"], table["bytes_per_second"]
    print(
        f"\neach part of a step, batch {batch} at 224, forward and backward, {threads} thread(s), {device}, {rounds} rounds"
    )
    print(f"ceilings: {flops / 1e9:,.1f} GFLOP/s in a matrix product, {bandwidth / 1e9:,.1f} GB/s in a copy")
    print(f"  {'part':<16}{'GFLOP':>9}{'MB':>9}{'floor ms':>10}{'bound by':>10}{'ms':>9}{'of floor':>10}")
    floors = times = 0.0
    for part in table["parts"]:
        arithmetic, memory = part["flop"] / flops, part["bytes"] / bandwidth
        floor, milliseconds = max(arithmetic, memory), statistics.median(part["seconds"]) * 1e3
        floors, times = floors + floor * 1e3, times + milliseconds
        bound = "products" if arithmetic > memory else "memory"
        print(
            f"  {part['name']:<16}{part['flop'] / 1e9:>9,.1f}{part['bytes'] / 1e6:>9,.0f}{floor * 1e3:>10,.1f}{bound:>10}"
            f"{milliseconds:>9,.1f}{floor * 1e3 / milliseconds:>10.0%}"
        )
    print(f"  {'all':<34}{floors:>10,.1f}{'':>10}{times:>9,.1f}{floors / times:>10.0%}")
    return table


def parts_of(
    settings: Network, batch: int, device: str, *, fused: bool = True
) -> list[tuple[dict[str, Any], Callable[[], None]]]:
    """(what it is, with its operations and its least bytes; a function that runs it once) of every part in order."""
    model = channels_last(AlexNet(settings, fused=fused).to(device))
    keys = torch.arange(batch, device=device)
    x = torch.randn(batch, 3, settings.input_size, settings.input_size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    found: list[tuple[dict[str, Any], Callable[[], None]]] = []
    layer = ""
    [stretch] = model._stretches
    for kind, name in stretch.steps:
        step = [(kind, name)]
        source = x.detach().requires_grad_(bool(found))  # nobody needs the gradient of the images
        y = model._walk(step, source, keys)
        grad = torch.randn_like(y)
        part = model.parts[name] if name else None
        layer = name if isinstance(part, Column) else layer
        about = {
            "name": name or f"{layer} {kind}",
            "kind": _kind(part, name, first=not found),
            "flop": 0,
            "bytes": _bytes(kind, part, source, y),
        }
        if isinstance(part, Column):
            about["flop"] = 2 * batch * part.layer.macs * (3 if found else 2)
        found.append((about, _turn(model, step, source, keys, grad)))
        x = y.detach()
    optimizer = PaperSGD(model, Optimizer(), fused=fused)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    count = sum(parameter.numel() for parameter in model.parameters())
    # Reads weights, gradient and momentum; writes weights and momentum.
    found.append(
        ({"name": "update", "kind": "update", "flop": 0, "bytes": 5 * 4 * count}, lambda: optimizer.step(RATES))
    )
    return found


def _kind(part: torch.nn.Module | None, name: str, *, first: bool) -> str:
    """As in `configs.machine.Efficiency`."""
    if isinstance(part, LocalResponseNorm):
        return "spatial_norm" if name.endswith("spatial_lrn") else "norm"
    if isinstance(part, Column):
        return "first_conv" if first else "dense" if part.layer.kind != "conv" else "conv"
    return "other"


def _turn(model: AlexNet, step: list[tuple[str, str]], x: Tensor, keys: Tensor, grad: Tensor) -> Callable[[], None]:
    def turn() -> None:
        x.grad = None
        for name in (name for _, name in step if name):
            for parameter in model.parts[name].parameters():
                parameter.grad = None
        y = model._walk(step, x, keys)
        if y.requires_grad:
            y.backward(grad)

    return turn


def _bytes(kind: str, part: torch.nn.Module | None, x: Tensor, y: Tensor) -> int:
    """The least that forward and backward move: each tensor once for each use, in float32."""
    given, made = 4 * x.numel(), 4 * y.numel()
    if isinstance(part, Column):
        weights = 4 * part.weight.numel()
        # Forward x, w, y; gradient of w: x, g, dw; gradient of x: w, g, dx.
        return 2 * given + 2 * made + 2 * weights + (given + made + weights if x.requires_grad else 0)
    if kind == "pool":
        return 2 * given + 2 * made + 2 * 2 * made  # forward x, y, indices; backward g, indices, dx
    if kind == "dropout":
        return 2 * (given + made)
    if kind == "flatten":
        return 2 * (given + made)
    return 2 * given + 3 * made  # forward x, y; backward g, x or y, dx


def _serve() -> None:
    batch, threads, device, rounds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(threads)
    set_precision("fp32")
    torch.manual_seed(0)
    parts = parts_of(network(norms=True), batch, device)
    a, b = torch.randn(4096, 4096, device=device), torch.randn(4096, 4096, device=device)
    large, other = torch.ones(COPIED_FLOATS, device=device), torch.zeros(COPIED_FLOATS, device=device)
    turns = [turn for _, turn in parts] + [lambda: torch.mm(a, b), lambda: other.copy_(large)]
    seconds: list[list[float]] = [[] for _ in turns]
    for number in range(WARM_UP + rounds):
        for turn, times in zip(turns, seconds, strict=True):
            started = time.perf_counter()
            turn()
            if device == "cuda":
                torch.cuda.synchronize()
            if number >= WARM_UP:
                times.append(time.perf_counter() - started)
    *own, product, copy = seconds
    print(
        json.dumps(
            {
                "flops": 2 * 4096**3 / statistics.median(product),
                "bytes_per_second": 8 * COPIED_FLOATS / statistics.median(copy),
                "parts": [{**about, "seconds": times} for (about, _), times in zip(parts, own, strict=True)],
            }
        )
    )


if __name__ == "__main__":
    _serve()
