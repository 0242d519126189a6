"""The benchmark compares like with like, and runs to its end. No test asserts a speed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alexnet.network import AlexNet, Column
from cluster.benchmarks.contenders import network, stock
from cluster.benchmarks.steps import FLOP_PER_IMAGE
from tests.cluster.runs import PROJECT, SMALL


def test_stock_and_ours_are_the_same_network() -> None:
    ours, theirs = AlexNet(network(norms=True)).eval(), stock().eval()
    layers = [part for part in ours.parts.values() if isinstance(part, Column)]
    modules = [module for module in theirs.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer, module in zip(layers, modules, strict=True):
            # Ours silences units in training and halves the outputs in testing; stock doubles what is left in training.
            halved = 2.0 if layer.layer.name in ("fc7", "classifier") else 1.0
            module.weight.copy_(layer.weight / halved)
            assert module.bias is not None
            module.bias.copy_(layer.bias)
        images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 50
        wanted, got = theirs(images), ours(images)
    # Seven layers of float32 sums in different orders.
    assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


def bench(folder: Path, what: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """(figures, what was printed)."""
    command = [sys.executable, "-m", "cluster.bench", what, *arguments, "--json", str(folder / "out.json")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((folder / "out.json").read_text())
    assert figures["command"].startswith(f"python -m cluster.bench {what} {' '.join(arguments)}")
    return figures[what], done.stdout


def test_lrn_benchmark_runs_and_writes_its_figures(tmp_path: Path) -> None:
    figures, printed = bench(tmp_path, "lrn", "--batch", "1", "--rounds", "2")
    assert len(figures) == 4
    for times in figures.values():
        assert {"stock", "ours"} <= set(times)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
    assert "x stock" in printed


def test_layers_benchmark_counts_all_operations_of_a_step(tmp_path: Path) -> None:
    figures, printed = bench(tmp_path, "layers", "--batch", "1", "--rounds", "1")
    assert sum(part["flop"] for part in figures["parts"]) == FLOP_PER_IMAGE
    assert [part["name"] for part in figures["parts"]][:3] == ["conv1", "conv1_lrn", "conv1 pool"]
    assert all(part["bytes"] > 0 and min(part["seconds"]) > 0 for part in figures["parts"])
    assert "GFLOP/s in a matrix product" in printed


def test_seeing_benchmark_runs_with_everything_and_with_nothing(tmp_path: Path) -> None:
    """One round without a warm-up, of a small network; each turn is a run on a Ray of its own."""
    program = (
        "import json, sys\n"
        "from cluster.benchmarks import rounds\n"
        "from cluster.benchmarks.seeing import seeing\n"
        "from configs.loader import load\n"
        "rounds.WARM_UP = 0\n"
        "print(json.dumps(seeing(200, 1, load(sys.argv[1], ['train.steps=1']))))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", program, str(SMALL)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    off, on = figures["nothing seen"], figures["everything seen"]
    assert len(off) == len(on) == 1 and min(*off, *on) > 0
    assert figures["cost"] == on[0] / off[0] - 1
    assert "seeing costs" in done.stdout
