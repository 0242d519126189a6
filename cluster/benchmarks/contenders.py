"""What `bench step` and `bench columns` compare: one training step of the original network, ours and stock PyTorch's.

Run as `python -m cluster.benchmarks.contenders NAME BATCH THREADS DEVICE PRECISION`, each contender is a process of its own, so
that each has the allocator, threads and compiler state that its users would have. It answers every line on stdin with the
seconds of one step. Needs torch and numpy alone.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.exchange import ColumnExchange, NoExchange
from alexnet.layout import channels_last, in_layout
from alexnet.loss import cross_entropy
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.precision import Precision, autocast, set_precision
from alexnet.schedule import Rates
from configs.schema import Classifier, Conv, Dense, Network, Optimizer, ResponseNorm, Step

RATES = Rates(weights=1e-4, biases=2e-4)


def network(*, norms: bool) -> Network:
    """The layers of the paper's text, whose norms stock PyTorch has as a module; `norms=False` leaves them out.

    Written down here because reading YAML takes packages that a bare GPU machine may lack.
    """
    then: tuple[Step, ...] = ("activation", "lrn", "pool") if norms else ("activation", "pool")
    return Network(
        classes=1000,
        input_size=224,
        lrn=ResponseNorm() if norms else None,
        convs={
            "conv1": Conv(maps=96, kernel=11, stride=4, then=then),
            "conv2": Conv(maps=256, kernel=5, padding=2, then=then, init_bias=1.0),
            "conv3": Conv(maps=384, kernel=3, padding=1, sees="all", init_std=0.03),
            "conv4": Conv(maps=384, kernel=3, padding=1, init_std=0.03, init_bias=1.0),
            "conv5": Conv(maps=256, kernel=3, padding=1, then=("activation", "pool"), init_std=0.03, init_bias=1.0),
        },
        denses={
            "fc6": Dense(units=4096, dropout=0.5, init_bias=1.0),
            "fc7": Dense(units=4096, dropout=0.5, init_bias=1.0),
        },
        classifier=Classifier(),
    )


def stock() -> nn.Module:
    """The same layers as PyTorch's documentation would have one write them."""
    norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), norm, nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True), norm, nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000),
    )  # fmt: skip


def stock_step(
    images: Tensor,
    labels: Tensor,
    layout: torch.memory_format,
    precision: Precision = "fp32",
    *,
    compiled: bool = False,
) -> Callable[[], None]:
    model = in_layout(stock().to(images.device), layout)
    if compiled:
        model.compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    images = images.contiguous(memory_format=layout)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, images.device.type):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def our_step(
    images: Tensor,
    labels: Tensor,
    *,
    norms: bool = True,
    group: dist.ProcessGroup | None = None,
    compiled: bool = False,
    precision: Precision = "fp32",
) -> Callable[[], None]:
    """All columns in this process, or the group rank's column."""
    exchange = NoExchange() if group is None else ColumnExchange(group)
    first, columns = (0, 2) if group is None else (dist.get_rank(group), 1)
    model = AlexNet(
        network(norms=norms), first_column=first, columns=columns, exchange=exchange, fused=True, compiled=compiled
    )
    model = channels_last(model.to(images.device))
    optimizer = PaperSGD(model, Optimizer(), fused=True)
    images = images.contiguous(memory_format=torch.channels_last)
    keys = torch.arange(len(labels), device=images.device)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(precision, images.device.type):
            logits = model(images, keys)
        loss, _ = cross_entropy(logits.float(), labels, first_class=model.first_class, exchange=exchange)
        loss.backward()
        optimizer.step(RATES)
        if isinstance(exchange, ColumnExchange):
            step.exchange = exchange.seconds  # type: ignore[attr-defined]  # read by whoever times it

    return step


def make(name: str, batch: int, device: str, precision: Precision = "fp32") -> Callable[[], None]:
    set_precision(precision)
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)
    if name == "two columns":
        return our_step(images, labels, group=_join(batch, precision), precision=precision)
    return {
        "stock": lambda: stock_step(images, labels, torch.contiguous_format, precision),
        "stock channels_last": lambda: stock_step(images, labels, torch.channels_last, precision),
        "stock compiled": lambda: stock_step(images, labels, torch.channels_last, precision, compiled=True),
        "ours": lambda: our_step(images, labels, precision=precision),
        "ours compiled": lambda: our_step(images, labels, precision=precision, compiled=True),
        "ours without norms": lambda: our_step(images, labels, precision=precision, norms=False),
    }[name]()


def _join(batch: int, precision: Precision) -> dist.ProcessGroup:
    """Rank 0 starts the other column as a process like itself; both step in time, by their collectives."""
    rank, port = int(os.environ.get("BENCH_RANK", "0")), int(os.environ.get("BENCH_PORT", "0"))
    if rank == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        other = {**os.environ, "BENCH_RANK": "1", "BENCH_PORT": str(port)}
        command = [
            sys.executable,
            "-m",
            "cluster.benchmarks.contenders",
            "two columns",
            str(batch),
            str(torch.get_num_threads()),
            "cpu",
            precision,
        ]
        subprocess.Popen(command, env=other, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0, timeout=timedelta(seconds=120))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=600))
    group = dist.group.WORLD
    assert group is not None
    return group


def serve() -> None:
    """Answer until stdin ends, or as the other column, until rank 0 does."""
    name, batch, threads, device, precision = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    torch.set_num_threads(threads)
    step = make(name, batch, device, cast(Precision, precision))
    follows = os.environ.get("BENCH_RANK") == "1"
    print("ready", flush=True)
    while follows or sys.stdin.readline():
        try:
            if dist.is_initialized():
                dist.barrier()  # the other column must not begin before its turn
            started, before = time.perf_counter(), getattr(step, "exchange", 0.0)
            step()
        except RuntimeError:
            if follows:
                return  # rank 0 has ended
            raise
        if device == "cuda":
            torch.cuda.synchronize()
        print(f"{time.perf_counter() - started} {getattr(step, 'exchange', 0.0) - before}", flush=True)


if __name__ == "__main__":
    serve()
