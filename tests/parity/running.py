"""One run of a parity case: with the code of training, and with the reference.

Both return the same tree of float64 tensors, so that one comparison covers outputs, losses, gradients and weights.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics
from alexnet.compiled import NotCompiledWarning
from alexnet.exchange import ColumnExchange, Exchange, NoExchange
from alexnet.layout import channels_last
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.schedule import Stages
from alexnet.step import Batch, Step
from configs.schema import Augment, ColourNoise, Optimizer
from tests import reference
from tests.parity.cases import (
    CASES,
    DECAY,
    IMAGES,
    MOMENTUM,
    NOISE,
    SCHEDULE,
    TOLERANCE,
    Case,
    Drawn,
    Tree,
    draw,
    mean_image,
)


def _batch(drawn: Drawn, rows: slice, device: str) -> Batch:
    arrays = {field.name: np.ascontiguousarray(getattr(drawn, field.name)[rows]) for field in dataclasses.fields(drawn)}
    arrays["keys_B"] = arrays["keys_B"].view(np.int64)
    return Batch(**{name: torch.from_numpy(array).to(device) for name, array in arrays.items()})


def run(
    case: Case,
    *,
    first_column: int = 0,
    columns: int | None = None,
    exchange: Exchange | None = None,
    replica_group: dist.ProcessGroup | None = None,
    parts: int = 1,
    device: str = "cpu",
) -> Tree:
    """The updates with the code of training, on the columns and the share of each batch that are this process's.

    parts: that this share is taken in, one after the other.
    """
    # A compiler that fails would leave the plain form to be compared, without a word.
    warnings.simplefilter("error", NotCompiledWarning)
    replicas, replica = (1, 0) if replica_group is None else (replica_group.size(), dist.get_rank(replica_group))
    rows = slice(replica * IMAGES // replicas, (replica + 1) * IMAGES // replicas)
    model = AlexNet(
        case.network,
        first_column=first_column,
        columns=columns,
        exchange=exchange or NoExchange(),
        seed=3,
        fused=case.as_trained,
        compiled=case.compiled,
    ).to(device, torch.float64)
    if case.as_trained:
        model = channels_last(model)
    augment = Augment(mean=case.mean, colour_noise=ColourNoise(strength=NOISE))
    statistics = PixelStatistics(mean_SSC=mean_image(case), eigenvalues=(1, 1, 1), eigenvectors=((1, 0, 0),) * 3)
    preprocess = Preprocess(augment, statistics, case.network.input_size).to(device, torch.float64)
    settings = Optimizer(
        momentum=MOMENTUM, weight_decay=DECAY, decay_biases=case.decay_biases, weight_decay_of=case.decay_of
    )
    optimizer = PaperSGD(model, settings, fused=case.as_trained)
    step, schedule = Step(model, preprocess, optimizer, replica_group), Stages(SCHEDULE)

    first = _batch(draw(case, 0), rows, device)
    inputs = (first.images_BHWC, first.offsets_B2, first.mirror_B, first.colour_BC, first.noisy_B)
    with torch.no_grad():
        out = {
            "train logits": model.train()(preprocess(*inputs), first.keys_B),
            "eval logits": model.eval()(preprocess(*inputs)),
            "test sums": step.test(first),
        }
    for update in range(case.updates):
        each = (rows.stop - rows.start) // parts
        sums = [
            step.train(
                _batch(draw(case, update), slice(rows.start + part * each, rows.start + (part + 1) * each), device),
                schedule.rates(update),
                part=part,
                parts=parts,
            )
            for part in range(parts)
        ]
        out[f"{update} sums"] = torch.stack(sums).sum(dim=0)
        for layer, kind, parameter in model.parameter_layers():
            assert parameter.grad is not None
            out[f"{update} {layer} {kind} gradient"] = parameter.grad.clone()
    for layer, kind, parameter in model.parameter_layers():
        out[f"{layer} {kind} value"] = parameter.detach().clone()
        out[f"{layer} {kind} momentum"] = optimizer.steps[f"{layer}.{kind}"].clone()
    return {name: tensor.cpu() for name, tensor in out.items()}


def run_reference(case: Case) -> Tree:
    """The same updates on whole batches with the reference, started from the whole network's weights."""
    network = case.network
    model = reference.Reference(network)
    initial = AlexNet(network, seed=3).double().parameter_layers()
    model.copy_weights(initial)
    steps = {(layer, kind): torch.zeros_like(parameter) for layer, kind, parameter in initial}

    def images(drawn: Drawn, **training: Any) -> Tensor:
        array = reference.preprocessed(
            drawn.images_BHWC, mean_image(case), drawn.offsets_B2, mean=case.mean, **training
        )
        return torch.from_numpy(array)

    def training(drawn: Drawn) -> dict[str, Any]:
        noise = {"colour_BC": drawn.colour_BC, "noisy_B": drawn.noisy_B, "divisor": 1 + NOISE}
        return {"mirror_B": drawn.mirror_B, **noise}

    first = draw(case, 0)
    noisy, plain, labels = images(first, **training(first)), images(first), torch.from_numpy(first.labels_B)
    with torch.no_grad():
        out = {
            "train logits": model.train()(noisy, reference.masks(network, first.keys_B)),
            "eval logits": model.eval()(noisy, {}),
            "test sums": reference.sums(model.eval()(plain, {}), labels),
        }
    model.train()
    for update in range(case.updates):
        drawn = draw(case, update)
        labels = torch.from_numpy(drawn.labels_B)
        logits = model(images(drawn, **training(drawn)), reference.masks(network, drawn.keys_B))
        out[f"{update} sums"] = reference.sums(logits.detach(), labels)
        model.zero_grad()
        F.cross_entropy(logits, labels).backward()
        for (layer, kind), step in steps.items():
            parameter = model.parameter(layer, kind)
            assert parameter.grad is not None
            out[f"{update} {layer} {kind} gradient"] = parameter.grad.clone()
            decay = case.decay_of.get(layer, DECAY) if kind == "weights" or case.decay_biases else 0.0
            rate = reference.stage_rate(SCHEDULE, update, layer, kind)
            reference.paper_update(parameter, step, parameter.grad, rate=rate, momentum=MOMENTUM, decay=decay)
    for (layer, kind), step in steps.items():
        out[f"{layer} {kind} value"] = model.parameter(layer, kind).detach().clone()
        out[f"{layer} {kind} momentum"] = step
    return out


def share_columns(rank: int, cases: Mapping[str, Case], device: str = "cpu") -> dict[str, tuple[Tree, int]]:
    """One of the processes that share the columns of one replica, for each of the cases; and the floats that it sent."""
    world = dist.group.WORLD
    assert world is not None
    out = {}
    for name, case in cases.items():
        columns = case.network.columns // world.size()
        exchange = ColumnExchange(world)
        tree = run(case, first_column=rank * columns, columns=columns, exchange=exchange, device=device)
        out[name] = tree, exchange.floats_sent
    return out


def run_replicas(rank: int, name: str, parts: int = 1, device: str = "cpu") -> Tree:
    """One of 2 x 2 processes: two replicas, each of two columns."""
    column, _ = dist.new_subgroups_by_enumeration([[0, 1], [2, 3]])
    replica, _ = dist.new_subgroups_by_enumeration([[0, 2], [1, 3]])
    assert column is not None and replica is not None
    return run(
        CASES[name],
        first_column=column.rank(),
        columns=1,
        exchange=ColumnExchange(column),
        replica_group=replica,
        parts=parts,
        device=device,
    )


def joined(columns: list[Tree]) -> Tree:
    """The whole network's tree from the trees of its columns, in order."""
    out = {}
    for name, first in columns[0].items():
        parts = [tree[name] for tree in columns]
        if name.endswith("sums"):
            assert all(torch.equal(first, part) for part in parts), f"columns disagree about {name}"
            out[name] = first
        else:
            out[name] = torch.cat(parts, dim=1 if name.endswith("logits") else 0)
    return out


def assert_same(found: Tree, expected: Tree) -> None:
    """Every tensor within TOLERANCE of its largest magnitude; all failures in one message."""
    assert found.keys() == expected.keys()
    wrong = []
    for name, tensor in expected.items():
        largest = tensor.abs().max().item()
        assert largest > 0 or name.endswith("sums"), f"{name} is zero throughout, so the comparison would say nothing"
        error = (found[name] - tensor).abs().max().item()
        if not error <= TOLERANCE * largest:
            wrong.append(f"{name}: off by {error:.3g}, largest magnitude {largest:.3g}")
    assert not wrong, "\n".join(wrong)
