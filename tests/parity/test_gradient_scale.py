"""Each column's gradients must be those of the one loss that all columns compute together, neither more nor less.

Two ways of writing the loss look right, give the right loss, and make every gradient as many times too large as there are
columns. They are put in here on purpose: a check that they pass is no check.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from alexnet.exchange import ColumnExchange
from alexnet.loss import cross_entropy
from alexnet.network import AlexNet
from configs.schema import Classifier, Conv, Dense, Network
from tests import reference
from tests.parity.cases import TOLERANCE, Tree
from tests.ranks import run_ranks

NETWORK = Network(
    classes=8,  # even, because the first trap gathers equal parts
    input_size=11,
    convs={
        "conv1": Conv(maps=6, kernel=3, stride=2, init_std=0.3),
        "conv2": Conv(maps=4, kernel=3, padding=1, sees="all", then=("activation", "pool"), init_std=0.3),
    },
    denses={"fc3": Dense(units=10, init_std=0.3)},
    classifier=Classifier(init_std=0.3),
)

Loss = Callable[[Tensor, Tensor, int, ColumnExchange], Tensor]


def right_loss(logits_BC: Tensor, labels_B: Tensor, first_class: int, exchange: ColumnExchange) -> Tensor:
    return cross_entropy(logits_BC, labels_B, first_class=first_class, exchange=exchange)[0]


class _GatherColumns(torch.autograd.Function):
    """All-gather whose backward is its adjoint: what each column wishes for a part is added up."""

    @staticmethod
    def forward(ctx: Any, own_BC: Tensor, exchange: ColumnExchange) -> Tensor:
        ctx.exchange = exchange
        return torch.cat(exchange.begin_gather(own_BC).end(), dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        exchange = ctx.exchange
        return exchange.sum(grads[0]).chunk(exchange.columns, dim=1)[exchange.column], None


def gathered_logits(logits_BC: Tensor, labels_B: Tensor, first_class: int, exchange: ColumnExchange) -> Tensor:
    """Trap: the same whole loss on every column; the gather's backward then adds up as many whole gradients."""
    return F.cross_entropy(_GatherColumns.apply(logits_BC, exchange), labels_B)


class _SumBothWays(torch.autograd.Function):
    """All-reduce whose backward is an all-reduce again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: ColumnExchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.sum(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.sum(grads[0]), None


def reduced_both_ways(logits_BC: Tensor, labels_B: Tensor, first_class: int, exchange: ColumnExchange) -> Tensor:
    """Trap: the loss is the same number on every column, and each column's backward starts from a 1 of its own."""
    local_B = labels_B - first_class
    own_BC = F.one_hot(local_B.clamp(0, logits_BC.shape[1] - 1), logits_BC.shape[1]) * (
        (local_B >= 0) & (local_B < logits_BC.shape[1])
    ).unsqueeze(1)
    sums_2B = torch.stack([logits_BC.exp().sum(dim=1), (logits_BC * own_BC).sum(dim=1)])
    total_2B: Tensor = _SumBothWays.apply(sums_2B, exchange)
    return (total_2B[0].log() - total_2B[1]).mean()


LOSSES: dict[str, tuple[Loss, float]] = {
    "right": (right_loss, 1.0),
    "gathered logits": (gathered_logits, 2.0),
    "reduced both ways": (reduced_both_ways, 2.0),
}
"""With the factor that each puts on the gradients of two columns."""


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(6, 3, 11, 11, generator=generator, dtype=torch.float64)
    return images, torch.tensor([0, 3, 4, 7, 2, 5])


def gradients_of_column(rank: int, device: str) -> dict[str, Tree]:
    """By loss: the loss and every gradient of this process's column."""
    world = dist.group.WORLD
    assert world is not None
    images, labels = (tensor.to(device) for tensor in _batch())
    out = {}
    for name, (loss_function, _) in LOSSES.items():
        exchange = ColumnExchange(world)
        model = AlexNet(NETWORK, first_column=rank, columns=1, exchange=exchange).to(device, torch.float64)
        loss = loss_function(model(images), labels, model.first_class, exchange)
        loss.backward()
        tree = {"loss": loss.detach().cpu()}
        for layer, kind, parameter in model.parameter_layers():
            assert parameter.grad is not None
            tree[f"{layer} {kind}"] = parameter.grad.cpu()
        out[name] = tree
    return out


@pytest.fixture(scope="module")
def columns(device: str) -> list[dict[str, Tree]]:
    return run_ranks(gradients_of_column, 2, device, device=device)


@pytest.fixture(scope="module")
def expected() -> Tree:
    images, labels = _batch()
    model = reference.Reference(NETWORK)
    layers = AlexNet(NETWORK).double().parameter_layers()
    model.copy_weights(layers)
    loss = F.cross_entropy(model(images, {}), labels)
    loss.backward()
    out = {"loss": loss.detach()}
    for layer, kind, _ in layers:
        gradient = model.parameter(layer, kind).grad
        assert gradient is not None
        out[f"{layer} {kind}"] = gradient
    return out


def assert_gradients(found: Tree, expected: Tree, factor: float) -> None:
    """Every gradient is `factor` times the expected one, in every element."""
    for name, gradient in expected.items():
        if name != "loss":
            error = (found[name] - factor * gradient).abs().max().item()
            assert error <= TOLERANCE * gradient.abs().max().item(), (name, factor, error)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_scale(name: str, columns: list[dict[str, Tree]], expected: Tree) -> None:
    found = {key: torch.cat([rank[name][key] for rank in columns]) for key in expected if key != "loss"}
    factor = LOSSES[name][1]
    for rank in columns:
        # The loss itself gives no trap away.
        assert rank[name]["loss"].item() == pytest.approx(expected["loss"].item(), rel=TOLERANCE)
    assert_gradients(found, expected, factor)
    if factor != 1:
        with pytest.raises(AssertionError):
            assert_gradients(found, expected, 1.0)
