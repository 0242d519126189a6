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


def conv_of(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [6, 12, 3, 3] and biases of this rank's maps, and the gradient [2, 6, 3, 2] of what they give at stride 2."""
    generator = torch.Generator().manual_seed(10 + rank)
    shapes = ((6, 12, 3, 3), (6,), (2, 6, 3, 2))
    weight, bias, grad = (torch.randint(-5, 6, shape, generator=generator).double() for shape in shapes)
    return weight, bias, grad


def dense_of(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same of fully connected units: [7, 180], [7], and [2, 7]."""
    generator = torch.Generator().manual_seed(20 + rank)
    weight, bias, grad = (
        torch.randint(-5, 6, shape, generator=generator).double() for shape in ((7, 180), (7,), (2, 7))
    )
    return weight, bias, grad


def collectives(rank: int, device: str) -> dict[str, Tensor]:
    world = dist.group.WORLD
    assert world is not None
    exchange = ColumnExchange(world)
    assert (exchange.columns, exchange.column) == (COLUMNS, rank)
    found: dict[str, Tensor] = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        part = own_part(rank, layout).to(device).requires_grad_()
        weight, bias, grad = (tensor.to(device) for tensor in conv_of(rank))
        out = across_columns(part, weight.requires_grad_(), bias.requires_grad_(), exchange, Convolution(2, 1))
        gradients = torch.autograd.grad(out, (part, weight, bias), grad)
        found |= {f"conv {layout} {name}": value for name, value in zip(NAMES, (out.detach(), *gradients), strict=True)}
    part = own_part(rank).to(device).flatten(1).requires_grad_()
    weight, bias, grad = (tensor.to(device) for tensor in dense_of(rank))
    out = across_columns(part, weight.requires_grad_(), bias.requires_grad_(), exchange, Product())
    gradients = torch.autograd.grad(out, (part, weight, bias), grad)
    found |= {f"dense {name}": value for name, value in zip(NAMES, (out.detach(), *gradients), strict=True)}
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


@pytest.mark.parametrize("kind", ["conv torch.contiguous_format", "conv torch.channels_last", "dense"])
def test_layers_that_see_all_columns_equal_autograds_own(kind: str, ranks: list[dict[str, Tensor]]) -> None:
    """One process that does what all of them do. Integers, so exact."""
    parts = [own_part(rank).requires_grad_() for rank in range(COLUMNS)]
    made = [(conv_of if kind.startswith("conv") else dense_of)(rank) for rank in range(COLUMNS)]
    weights = [weight.requires_grad_() for weight, _, _ in made]
    biases = [bias.requires_grad_() for _, bias, _ in made]
    if kind.startswith("conv"):
        whole = torch.cat(parts, dim=1)
        outputs = [F.conv2d(whole, w, b, 2, 1) for w, b in zip(weights, biases, strict=True)]
    else:
        whole = torch.cat([part.flatten(1) for part in parts], dim=1)
        outputs = [F.linear(whole, w, b) for w, b in zip(weights, biases, strict=True)]
    gradients = torch.autograd.grad(outputs, [*parts, *weights, *biases], [grad for _, _, grad in made])
    for rank in range(COLUMNS):
        wanted = (outputs[rank].detach(), *gradients[rank::COLUMNS])
        for name, value in zip(NAMES, wanted, strict=True):
            found = ranks[rank][f"{kind} {name}"]
            assert torch.equal(found.reshape(value.shape), value), (rank, name)


def test_each_column_gets_the_piece_meant_for_it(ranks: list[dict[str, Tensor]]) -> None:
    assert [rank["received"].flatten().tolist() for rank in ranks] == [[100.0, 200.0], [1.0, 201.0], [2.0, 102.0]]


def test_reductions(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        assert rank["sum"].tolist() == [3.0, -3.0, 15.0]
        assert rank["maximum"].tolist() == [2.0, 0.0, 5.0]


def test_nobody_to_talk_to_changes_nothing() -> None:
    values, exchange = own_part(0), NoExchange()
    assert exchange.columns == 1
    assert torch.equal(exchange.sum(values), values) and torch.equal(exchange.maximum(values), values)
