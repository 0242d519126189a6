"""The collectives one by one, among three real processes."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet.exchange import ColumnExchange, NoExchange
from tests.ranks import run_ranks

COLUMNS = 3


def own_part(rank: int) -> Tensor:
    """[2, 4, 5, 3], not contiguous, as maps after a transpose are."""
    return torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(rank)).transpose(1, 3)


def weights_of(rank: int) -> Tensor:
    """[2, 12, 5, 3]: each column makes something else of the whole. Integers, whose sums are exact in any order."""
    return torch.randint(-9, 10, (2, 12, 5, 3), generator=torch.Generator().manual_seed(10 + rank)).float()


def collectives(rank: int) -> dict[str, Tensor]:
    world = dist.group.WORLD
    assert world is not None
    exchange = ColumnExchange(world)
    assert exchange.columns == COLUMNS
    part = own_part(rank).requires_grad_()
    whole = exchange.gather_columns(part)
    (gradient,) = torch.autograd.grad((whole * weights_of(rank)).sum(), part)
    values = torch.tensor([rank, -rank, 5.0], requires_grad=True)
    reduced = {"sum": exchange.sum(values), "maximum": exchange.maximum(values)}
    assert not any(tensor.requires_grad for tensor in reduced.values())
    assert values.tolist() == [rank, -rank, 5.0], "reduced in place"
    return {"whole": whole.detach(), "gradient": gradient, **reduced}


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Tensor]]:
    return run_ranks(collectives, COLUMNS)


def test_gather_puts_the_columns_side_by_side_bitwise(ranks: list[dict[str, Tensor]]) -> None:
    whole = torch.cat([own_part(rank) for rank in range(COLUMNS)], dim=1)
    assert all(torch.equal(rank["whole"], whole) for rank in ranks)


def test_gathers_gradient_is_the_sum_of_all_columns_wishes(ranks: list[dict[str, Tensor]]) -> None:
    """Autograd's own answer, for one process that does what all of them do."""
    parts = [own_part(rank).requires_grad_() for rank in range(COLUMNS)]
    whole = torch.cat(parts, dim=1)
    wishes = torch.stack([(whole * weights_of(rank)).sum() for rank in range(COLUMNS)])
    expected = torch.autograd.grad(wishes.sum(), parts)
    assert all(torch.equal(rank["gradient"], gradient) for rank, gradient in zip(ranks, expected, strict=True))


def test_reductions(ranks: list[dict[str, Tensor]]) -> None:
    for rank in ranks:
        assert rank["sum"].tolist() == [3.0, -3.0, 15.0]
        assert rank["maximum"].tolist() == [2.0, 0.0, 5.0]


def test_nobody_to_talk_to_changes_nothing() -> None:
    values, exchange = own_part(0), NoExchange()
    assert exchange.columns == 1
    assert exchange.gather_columns(values) is values
    assert torch.equal(exchange.sum(values), values) and torch.equal(exchange.maximum(values), values)
