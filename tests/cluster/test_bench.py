"""Every benchmark runs to its end at its smallest size, and compares like with like. No test asserts a speed."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alexnet.network import AlexNet, Column
from cluster.benchmarks import rounds
from cluster.benchmarks.contenders import network, stock
from cluster.benchmarks.data import data, same_pixels
from cluster.benchmarks.loaders import compare, material
from cluster.benchmarks.loaders.contender import Contender
from cluster.benchmarks.loaders.peer import PEERS, missing
from cluster.benchmarks.plan import Case, measure, predict
from cluster.benchmarks.seeing import seeing
from cluster.benchmarks.steps import FLOP_PER_IMAGE
from configs.loader import load
from configs.machine import load_machine
from tests.cluster.runs import SMALL, finished
from workers.data.dataset import Dataset

IMAGES, BATCH = 128, 8


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


@pytest.mark.ci
def test_norms_and_layers_are_timed_and_written(tmp_path: Path) -> None:
    def bench(what: str) -> Any:
        """Figures of one image in two rounds."""
        words = (what, "--batch", "1", "--rounds", "2", "--json", "out.json")
        finished(tmp_path, what, module="bench", arguments=words)
        figures = json.loads((tmp_path / "out.json").read_text())
        assert figures["command"].startswith(f"python -m cluster.bench {what} --batch 1 --rounds 2")
        return figures[what]

    for times in bench("lrn").values():
        assert {"stock", "ours"} <= set(times)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
    parts = bench("layers")["parts"]
    assert sum(part["flop"] for part in parts) == FLOP_PER_IMAGE
    assert all(part["bytes"] > 0 and min(part["seconds"]) > 0 for part in parts)


@pytest.mark.ci
def test_a_run_is_timed_with_everything_seen_and_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each turn is a run on a Ray of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounds, "WARM_UP", 0)
    figures = seeing(200, 1, load(SMALL, ["train.steps=1"]))
    [off], [on] = figures["nothing seen"], figures["everything seen"]
    assert min(off, on) > 0 and figures["cost"] == on / off - 1
    assert "seeing costs" in capsys.readouterr().out


@pytest.mark.ci
def test_real_steps_of_two_replicas_are_measured() -> None:
    case = Case(True, 2, 2, 0.05, more=("compute.fused=false",))
    taken = measure(case, 1, rounds=2)
    assert len(taken) == 2 and min(taken) > 0 and predict(case, 1, load_machine("cpu")) > 0


@pytest.mark.ci
def test_opponents_see_the_same_bytes_and_make_the_same_pixels_of_the_same_draws(tmp_path: Path) -> None:
    stored, _ = material.make(tmp_path / "material", IMAGES, None)
    rows = Dataset(stored.folder / "data", "train")
    assert [rows.jpeg(row).tobytes() for row in range(IMAGES)] == stored.jpegs()
    assert rows.labels.tolist() == list(range(IMAGES)) and len(set(stored.jpegs())) == IMAGES
    found = same_pixels(stored, BATCH)
    # Both decode by libjpeg-turbo, of versions that may round the odd value differently.
    assert found["largest"] <= 3 and found["share_different"] < 0.01


@pytest.mark.ci
def test_data_benchmark_prints_every_contender(capsys: pytest.CaptureFixture[str]) -> None:
    figures = data(2, images=16, batch=8, ray_data=False)
    assert json.loads(json.dumps(figures)) == figures and len(figures["passes"]) == 4
    printed = capsys.readouterr().out
    for name, passes in figures["passes"].items():
        assert [one["images"] for one in passes] == [16, 16] and printed.count(f"\n  {name}  ") == 2
        assert all(one["seconds"] > one["first_seconds"] > 0 and one["cpu_seconds"] > 0 for one in passes)


@pytest.mark.ci
def test_ours_goes_on_where_a_dataloader_ends() -> None:
    """Real processes: stopped in mid-epoch and continued in others, and a worker killed, for both."""
    found = compare.peers(1, images=IMAGES, batch=BATCH, names=("ours", "DataLoader"))["peers"]
    assert found["ours"]["resume"]["verdict"] == "exact, every pixel"
    assert found["DataLoader"]["resume"]["verdict"] == "no state; the epoch starts again"
    ours, theirs = (found[name]["kill"] for name in ("ours", "DataLoader"))
    assert (ours["ended"], ours["lost"], ours["doubled"]) == ("", 0, 0)
    assert "DataLoader worker" in theirs["ended"] and theirs["lost"] > 0
    for figures in found.values():
        assert [(one["lost"], one["doubled"]) for one in figures["edges"]] == [(0, 0)]


@pytest.mark.ci
@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("ours", "DataLoader")])
def test_another_loader_delivers_each_image_once(tmp_path: Path, name: str) -> None:
    if missing(name):
        pytest.skip(f"{name} is not installed: pip install '{missing(name)}'")
    start = partial(Contender, material.make(tmp_path, IMAGES, None)[0], *PEERS[name][:2], batch=BATCH, workers=2)
    start(write=True).end()
    with start(write=False) as running:
        figures = running.ask("edge")
    assert (figures["lost"], figures["doubled"]) == (0, 0)
