"""The collectives one by one, among three real processes."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from alexnet.across import Convolution, Product, across_columns
from alexnet.exchange import ColumnExchange, NoExchange
from tests.ranks import run_ranks

COLUMNS = 3


def own_part(rank: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """[2, 4, 5, 3] of integers, whose sums are exact in any order."""
    values = torch.randint(-9, 10, (2, 4, 5, 3), generator=torch.Generator().manual_seed(rank)).double()
    return values.contiguous(memory_format=layout)


SHAPES = {"conv": ((6, 12, 3, 3), (6,), (2, 6, 3, 2)), "dense": ((7, 180), (7,), (2, 7))}
"""Of a rank's weights and biases, and of the gradient of what they give: of a convolution at stride 2, and of units."""


def layer_of(rank: int, kind: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(10 + rank)
    return [torch.randint(-5, 6, shape, generator=generator).double() for shape in SHAPES[kind]]


def collectives(rank: int, device: str) -> dict[str, Tensor]:
    world = dist.group.WORLD
    assert world is not None
    exchange = ColumnExchange(world)
    assert (exchange.columns, exchange.column) == (COLUMNS, rank)
    found: dict[str, Tensor] = {}
    for kind, layout, layer in (
        ("conv", torch.contiguous_format, Convolution(2, 1)),
        ("conv", torch.channels_last, Convolution(2, 1)),
        ("dense", torch.contiguous_format, Product()),
    ):
        part = own_part(rank, layout).to(device)
        part = (part if kind == "conv" else part.flatten(1)).requires_grad_()
        weight, bias, grad = (tensor.to(device) for tensor in layer_of(rank, kind))
        out = across_columns(part, weight.requires_grad_(), bias.requires_grad_(), exchange, layer)
        gradients = torch.autograd.grad(out, (part, weight, bias), grad)
        for name, value in zip(NAMES, (out.detach(), *gradients), strict=True):
            found[f"{kind} {layout} {name}"] = value
    # To each other column its piece: 100 for a piece from 1 to 0.
    pieces = {to: torch.tensor([[100.0 * rank + to]], device=device) for to in range(COLUMNS) if to != rank}
    sent = exchange.begin_send(pieces, torch.ones(1, 1, device=device)).end()
    found["received"] = torch.cat([sent[column] for column in sorted(sent)])
    values = torch.tensor([rank, -rank, 5.0], requires_grad=True, device=device)
    reduced = {"sum": exchange.sum(values), "maximum": exchange.maximum(values)}
    assert not any(tensor.requires_grad for tensor in reduced.values())
    assert values.tolist() == [rank, -rank, 5.0], "reduced in place"
    return {name: tensor.cpu() for name, tensor in {**found, **reduced}.items()}


NAMES = ("output", "of input", "of weight", "of bias")


@pytest.fixture(scope="module")
def ranks(device: str) -> list[dict[str, Tensor]]:
    return run_ranks(collectives, COLUMNS, device, device=device)


@pytest.mark.parametrize(
    ("kind", "layout"), [("conv", "contiguous_format"), ("conv", "channels_last"), ("dense", "contiguous_format")]
)
def test_layers_that_see_all_columns_equal_autograds_own(
    kind: str, layout: str, ranks: list[dict[str, Tensor]]
) -> None:
    """One process that does what all of them do. Integers, so exact."""
    parts = [own_part(rank).requires_grad_() for rank in range(COLUMNS)]
    weights, biases, grads = zip(*(layer_of(rank, kind) for rank in range(COLUMNS)), strict=True)
    for parameter in (*weights, *biases):
        parameter.requires_grad_()
    whole = torch.cat(parts if kind == "conv" else [part.flatten(1) for part in parts], dim=1)
    outputs = [
        F.conv2d(whole, w, b, 2, 1) if kind == "conv" else F.linear(whole, w, b)
        for w, b in zip(weights, biases, strict=True)
    ]
    gradients = torch.autograd.grad(outputs, [*parts, *weights, *biases], grads)
    for rank in range(COLUMNS):
        wanted = (outputs[rank].detach(), *gradients[rank::COLUMNS])
        for name, value in zip(NAMES, wanted, strict=True):
            found = ranks[rank][f"{kind} torch.{layout} {name}"]
            assert torch.equal(found.reshape(value.shape), value), (rank, name)


def test_each_column_gets_the_piece_meant_for_it_and_reductions(ranks: list[dict[str, Tensor]]) -> None:
    assert [rank["received"].flatten().tolist() for rank in ranks] == [[100.0, 200.0], [1.0, 201.0], [2.0, 102.0]]
    for rank in ranks:
        assert rank["sum"].tolist() == [3.0, -3.0, 15.0]
        assert rank["maximum"].tolist() == [2.0, 0.0, 5.0]


def test_nobody_to_talk_to_changes_nothing() -> None:
    values, exchange = own_part(0), NoExchange()
    assert exchange.columns == 1
    assert torch.equal(exchange.sum(values), values) and torch.equal(exchange.maximum(values), values)
