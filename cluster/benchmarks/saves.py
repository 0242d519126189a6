"""`bench saves`: what a checkpoint of `original.yaml` costs the columns that train: the copy, the commit, the work beside it."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from alexnet.exchange import ColumnExchange
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from cluster.benchmarks.rounds import spread
from configs import schema
from configs.loader import load
from workers.reports import CheckpointReport
from workers.saving import Saver

COLUMNS = 2
PRODUCTS = 12
"""Matrix products that stand for a training step, of some seconds on a CPU."""


def saves(rounds: int) -> dict[str, Any]:
    """Saves by two column processes on CPUs with one thread each; every other round computes without a save."""
    with tempfile.TemporaryDirectory(prefix="bench-saves-") as folder:
        store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        print(f"two columns of original.yaml save into {folder}", flush=True)
        torch.multiprocessing.spawn(_column, args=(store.port, rounds, folder), nprocs=COLUMNS)
        figures: dict[str, Any] = torch.load(Path(folder) / "figures.pt", weights_only=True)
    for name, words in (
        ("stopped", "the loop stands still for the copy"),
        ("commit", "from the copy's begin to the commit"),
        ("computing", "a step's worth of matrix products, no save"),
        ("computing beside a save", "the same with a save under way"),
    ):
        print(f"  {words:<46}{spread(figures[name])}")
    more = statistics.median(figures["computing beside a save"]) - statistics.median(figures["computing"])
    stopped = statistics.median(figures["stopped"])
    print(f"  {figures['bytes'] / 1e6:,.0f} MB a checkpoint; each costs training {stopped + more:.2f} s in all")
    return figures


def _column(rank: int, port: int, rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, None, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=COLUMNS)
    group, saving = dist.group.WORLD, dist.new_group(backend="gloo")
    assert group is not None
    config = load("original.yaml")
    model = AlexNet(config.network, first_column=rank, columns=1, exchange=ColumnExchange(group))
    optimizer = PaperSGD(model, config.optimizer)
    saver = Saver(f"{folder}/checkpoints", model, optimizer, schema.Checkpoint(), group=saving)
    figures: dict[str, Any] = {"stopped": [], "commit": [], "computing": [], "computing beside a save": []}
    for number in range(rounds + 1):
        for beside in (False, True):
            dist.barrier()
            begin = time.perf_counter()
            if beside:
                saver.save({"step": number, "evaluated": True})
            seconds = time.perf_counter() - begin
            computing = _compute()
            saver.wait()
            if number == 0:  # everything is slower once
                saver.reports()
                continue
            figures["computing beside a save" if beside else "computing"].append(computing)
            if beside:
                figures["stopped"].append(seconds)
                figures["commit"] += [
                    report.commit_seconds for report in saver.reports() if isinstance(report, CheckpointReport)
                ]
        if rank == 0:
            print(f"round {number} of {rounds}" if number else "warming up", flush=True)
    if rank == 0:
        files = Path(folder).glob(f"checkpoints/step-{rounds:08d}-*/*.safetensors")
        figures["bytes"] = sum(file.stat().st_size for file in files)
        torch.save(figures, Path(folder) / "figures.pt")
    dist.barrier()
    dist.destroy_process_group()


def _compute() -> float:
    a = torch.full((2048, 2048), 0.5)
    begin = time.perf_counter()
    for _ in range(PRODUCTS):
        torch.mm(a, a)
    return time.perf_counter() - begin
