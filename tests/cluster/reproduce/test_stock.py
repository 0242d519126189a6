"""The stock run: network and pictures against the reference, its update and rates, and that it goes on where it stopped."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.schedule import Stages
from cluster.report.__main__ import main as report
from cluster.report.groups import group_runs
from cluster.report.records import read_records
from cluster.reproduce.__main__ import main
from cluster.reproduce.stock.data import TrainingCrops, views
from cluster.reproduce.stock.network import build, layer_parameters, left_out
from cluster.reproduce.stock.training import CHECKPOINT, Machine, Sums, Training
from cluster.reproduce.stock.training import rate as stock_rate
from cluster.run_folder import RunFolder
from cluster.runs import main as runs
from configs.errors import UserError
from configs.geometry import layers
from configs.loader import load
from configs.schema import Network, ResponseNorm, StageSchedule
from tests import reference
from tests.cluster.runs import Run
from workers.data.dataset import Dataset
from workers.stored_network import find_checkpoint

MACHINE = Machine(threads=1, workers=0, device="cpu", channels_last=True)


@pytest.mark.parametrize("name", ["tiny_imagenet.yaml", "original.yaml", "one_gpu.yaml", "tanh.yaml"])
def test_has_the_layers_of_the_config(name: str) -> None:
    network = load(name).network
    with torch.device("meta"):
        shapes = {(layer, kind): tuple(p.shape) for layer, kind, p in layer_parameters(build(network))}
    expected = {(layer.name, "weights"): layer.weight_shape for layer in layers(network)}
    assert shapes == expected | {(layer.name, "biases"): layer.bias_shape for layer in layers(network)}


def _without_differences(network: Network) -> Network:
    """The norm over all maps, no spatial norm, no dropout: what stock PyTorch has a module for."""
    convs = {
        name: replace(conv, then=tuple(step for step in conv.then if step != "spatial_lrn"))
        for name, conv in network.convs.items()
    }
    denses = {name: replace(dense, dropout=0.0) for name, dense in network.denses.items()}
    norm = ResponseNorm(size=5, alpha=0.01, sees="all")
    return replace(network, lrn=norm, spatial_lrn=None, convs=convs, denses=denses)


def _reference(network: Network, stock: torch.nn.Sequential) -> reference.Reference:
    """With the same weights."""
    other = reference.Reference(network)
    other.copy_weights([(layer, kind, torch.nn.Parameter(weights)) for layer, kind, weights in layer_parameters(stock)])
    return other


def test_forward_equals_the_reference_where_torch_has_the_modules(little: Path) -> None:
    network = _without_differences(load(little).network)
    torch.manual_seed(0)
    stock = build(network).double()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = _reference(network, stock)(images, {}).detach()
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(stock(images), expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    # In-column norms are another function: the test would notice.
    assert network.lrn is not None
    own_columns = replace(network, lrn=replace(network.lrn, sees="column"))
    assert (_reference(own_columns, stock)(images, {}) - expected).abs().max() > 1e-9
    # What is otherwise is said.
    assert len(left_out(load(little).network)) == 3 and not left_out(network)


def test_updates_equal_the_papers_while_the_rate_stands_still(little: Path, tmp_path: Path) -> None:
    config = load(little, [f"runs_folder={tmp_path}", "train.report_every_steps=1000"])
    config = replace(config, network=_without_differences(config.network))
    torch.manual_seed(1)
    training = Training(config, RunFolder(config), MACHINE)
    training.model.double()
    other = _reference(config.network, training.model)
    keys = [(layer.name, kind) for layer in layers(config.network) for kind in ("weights", "biases")]
    steps = {key: torch.zeros_like(other.parameter(*key)) for key in keys}
    images, labels = torch.randn(3, 8, 3, 32, 32, dtype=torch.float64), torch.randint(2, (3, 8))
    for batch, answers in zip(images, labels, strict=True):
        training._step(batch, answers, Sums())
        loss = F.cross_entropy(other(batch, {}), answers)
        gradients = torch.autograd.grad(loss, [other.parameter(*key) for key in steps])
        for (key, step), gradient in zip(steps.items(), gradients, strict=True):
            rate, decay = (0.02, 0.0005) if key[1] == "weights" else (0.04, 0.0)
            reference.paper_update(other.parameter(*key), step, gradient, rate=rate, momentum=0.9, decay=decay)
    for layer, kind, parameter in layer_parameters(training.model):
        torch.testing.assert_close(parameter, other.parameter(layer, kind), rtol=1e-9, atol=1e-12)


def test_rates_are_those_of_the_schedule() -> None:
    schedule = load("original.yaml").schedule
    assert isinstance(schedule, StageSchedule)
    ours = Stages(schedule)
    for epoch in np.linspace(0, 91, 183):
        for layer, kind in (("conv1", "weights"), ("conv1", "biases"), ("fc6", "weights"), ("fc6", "biases")):
            assert stock_rate(schedule.stages, epoch, layer, kind) == ours.rates(epoch).of(layer, kind)


@pytest.mark.parametrize("mean", ["centre", "position", "channel"])
def test_views_equal_the_reference(little: Path, mean: Any) -> None:
    config = load(little)
    settings = replace(config.augment, mean=mean)
    crops, dataset = TrainingCrops(replace(config, augment=settings)), Dataset(config.data.path, "train")
    rows, buffer = (7, 8, 29), np.empty((40, 40, 3), np.uint8)  # shards hold 8
    whole = torch.stack([crops.whole(row) for row in rows])
    assert crops.labels.tolist() == dataset.labels.tolist()
    for image, row in zip(whole, rows, strict=True):
        dataset.decode_into(row, buffer)
        # Two builds of libjpeg may round otherwise.
        assert np.abs(image.numpy().astype(int) - buffer).max() <= 2
    seen = views(whole, crops.mean_SSC, 32, settings, 10)
    mean_image, scale = np.load(crops.folder / crops.manifest["pixel_mean_file"]), config.augment.pixel_scale
    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    for got, ((y, x), mirrored) in zip(seen, itertools.product(places, (False, True)), strict=True):
        images, mirror = whole[:, y : y + 32, x : x + 32].numpy(), np.full(3, mirrored)
        offsets = np.array([[y, x]] * 3)
        wanted = reference.preprocessed(images, mean_image, offsets, mean=mean, mirror_B=mirror, scale=scale)
        np.testing.assert_allclose(got.numpy(), wanted, rtol=0, atol=1e-5)
    (centre,) = views(whole, crops.mean_SSC, 32, settings, 1)
    assert torch.equal(centre, seen[8])


def test_training_crops_are_random_mirrored_and_noisy(little: Path) -> None:
    config = load(little)
    plain = replace(config.augment, crop="centre", mirror=False, colour_noise=None)
    still = TrainingCrops(replace(config, augment=plain))
    (centre,) = views(still.whole(0)[None], still.mean_SSC, 32, plain, 1)
    assert torch.equal(still[0][0], centre[0])

    noisy = TrainingCrops(replace(config, augment=replace(config.augment, crop="centre", mirror=False)))
    torch.manual_seed(0)
    noise = config.augment.colour_noise
    assert noise is not None
    offsets = []
    for _ in range(2000):
        moved = noisy[0][0] * (1 + noise.strength) - centre[0]
        assert float(moved.flatten(1).std(dim=1).max()) < 1e-5, "one offset for all pixels of a colour"
        offsets.append(moved.mean(dim=(1, 2)) / config.augment.pixel_scale)
    covariance = torch.cov(torch.stack(offsets).T)
    wanted = torch.tensor(noisy.manifest["rgb_covariance"]) * noise.strength**2
    assert (covariance - wanted).abs().max() < 0.1 * wanted.abs().max()
    noisy.settings = replace(noisy.settings, colour_noise=replace(noise, until_epoch=1))
    noisy.epoch = 1
    assert torch.equal(noisy[0][0], centre[0])

    moving = TrainingCrops(replace(config, augment=replace(config.augment, colour_noise=None)))
    seen = {moving[0][0].numpy().tobytes() for _ in range(400)}
    assert 100 < len(seen) <= 81 * 2, "9 x 9 places, mirrored or not"


def _run(little: Path, name: str, *words: str) -> Path:
    """A run of the command in this process."""
    assert main(["stock", str(little), f"name={name}", "--threads", "1", *words]) == 0
    return Path(load(little).runs_folder) / f"{name}_stock"


def _result(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def whole(little: Path) -> Path:
    return _run(little, "whole")


def test_a_whole_run_and_what_it_leaves(little: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = _result(whole)
    assert result["step"] == 3 * 4 and result["epochs"] == 3
    for tested in (result["validation"], result["ten_views"]):
        assert tested["images"] == 12 and 0 <= tested["top1_error"] <= 1
    before = (whole / "log.jsonl").read_bytes()
    reports = [json.loads(line) for line in before.splitlines()]
    kinds = [report["kind"] for report in reports]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("evaluation") == 3
    rates = {one["step"]: (one["weights_rate"], one["biases_rate"]) for one in reports if "weights_rate" in one}
    assert rates[6] == (0.02, 0.04) and rates[8] == (0.002, 0.04)  # the rate falls after 1.5 epochs of 4 steps
    assert main(["stock", str(little), "name=whole"]) == 0
    assert "complete" in capsys.readouterr().out
    assert (whole / "log.jsonl").read_bytes() == before


def test_a_report_shows_it(whole: Path, bold: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [record] = read_records([whole])
    assert record.stock and record.fingerprint
    assert [one.step for one in record.tested] == [4, 8, 12] and record.train[-1].step == 12
    assert record.totals.images == 3 * 30 and record.totals.seconds["compute"] > 0
    errors = [record.errors(views_) for views_ in (1, 10)]
    tested = [_result(whole)[key]["top1_error"] for key in ("validation", "ten_views")]
    assert [one and one.top1 for one in errors] == tested
    groups = group_runs([replace(record, stock=False), record])
    assert len(groups) == 2, "no other seed of the same"
    assert [(one.path, one.after) for one in groups[1].differences] == [("trained by", "stock PyTorch")]
    assert report([str(bold.folder), str(whole), "--no-neighbours", "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "whole_stock" in page and "stock PyTorch" in page
    capsys.readouterr()
    assert report([str(whole), "--out", str(tmp_path / "none")]) == 2
    assert "is a run of `cluster.reproduce stock`" in capsys.readouterr().err


def test_stopped_and_given_again_it_ends_as_if_never_stopped(
    little: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = _run(little, "once", "train.epochs=1", "--workers", "0")
    assert _result(stopped)["epochs"] == 1
    content = (stopped / CHECKPOINT).read_bytes()
    (stopped / CHECKPOINT).write_bytes(content[:1000])
    assert main(["stock", str(little), "name=once"]) == 2
    assert "is damaged" in capsys.readouterr().err
    (stopped / CHECKPOINT).write_bytes(content)
    assert _run(little, "once") == stopped
    assert "ten views" in capsys.readouterr().out
    first, second = (torch.load(folder / CHECKPOINT, weights_only=True)["model"] for folder in (whole, stopped))
    assert all(torch.equal(weights, second[name]) for name, weights in first.items())
    assert _result(whole)["ten_views"] == _result(stopped)["ten_views"]
    with pytest.raises(UserError, match=r"once_stock is a run of `cluster\.reproduce stock`"):
        find_checkpoint(stopped, pytest.fail)
    assert runs(["show", str(stopped)]) == 0


def test_ctrl_c_leaves_a_run_that_goes_on(little: Path, tmp_path: Path) -> None:
    words = ("stock", str(little), "name=broken", "train.epochs=2000", "--workers", "1", "--threads", "1")
    folder = Path(load(little).runs_folder) / "broken_stock"
    log, run = folder / "log.jsonl", Run(tmp_path, "broken", module="reproduce", arguments=words)
    run.wait_for(lambda: log.exists() and '"evaluation"' in log.read_text())
    run.interrupt()
    assert run.finish(120) == 130
    assert run.text.strip().splitlines()[-1] == "interrupted: the same command goes on from what is there"
    assert "Traceback" not in run.text
    assert json.loads(log.read_text().splitlines()[-1])["ended"] == "stopped"
    saved = torch.load(folder / CHECKPOINT, weights_only=True)["epochs"]
    assert saved >= 1
    _run(little, "broken", f"train.epochs={saved + 1}")
    assert _result(folder)["epochs"] == saved + 1
    assert [one["workers"] for one in _result(folder)["machines"]] == [1, 0], "its times are of both"


def test_configs_that_torch_cannot_follow_are_refused(little: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stock", str(little), "name=half", "train.epochs=1.5"]) == 2
    assert main(["stock", str(little), "name=half", "schedule={kind: plateau}"]) == 2
    assert "schedule.kind must be stages" in capsys.readouterr().err
    for name in ("cifar10_13pct.yaml", "no_exchange.yaml"):
        with pytest.raises(UserError, match="PyTorch has no"):
            build(load(name).network)
