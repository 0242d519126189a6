"""The loss over split classes against torch's, and the rank of the true class against torch.topk."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.exchange import NoExchange
from alexnet.loss import cross_entropy, probabilities, target_rank
from configs.geometry import share

T = TypeVar("T")
ROUNDING = 1e-14
"""Of sums of a few exponentials in float64."""


class Together:
    """An exchange among threads of this process."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.barrier = threading.Barrier(columns, timeout=60)
        self.slots: dict[int, Tensor] = {}

    def _all(self, values: Tensor) -> Tensor:
        self.slots[threading.get_ident()] = values.detach().clone()
        self.barrier.wait()
        stacked = torch.stack(list(self.slots.values()))
        self.barrier.wait()
        return stacked

    def sum(self, values: Tensor) -> Tensor:
        return self._all(values).sum(dim=0)

    def maximum(self, values: Tensor) -> Tensor:
        return self._all(values).amax(dim=0)


def in_columns(columns: int, logits_BC: Tensor, compute: Callable[[Tensor, int, Together], T]) -> list[T]:
    """[compute(own logits, first own class, exchange) for each column], in threads."""
    exchange = Together(columns)

    def column(number: int) -> T:
        own = share(logits_BC.shape[1], columns, number)
        try:
            return compute(logits_BC[:, own], own.start, exchange)
        except BaseException:  # or the others would wait at the barrier; it is raised on
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(columns) as threads:
        return list(threads.map(column, range(columns)))


def logits_and_targets(scale: float, *, classes: int = 7, images: int = 40) -> tuple[Tensor, Tensor]:
    """[images, classes] float64 and [images] int64."""
    generator = torch.Generator().manual_seed(int(scale))
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64) * scale
    return logits, torch.randint(classes, (images,), generator=generator)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_loss_and_gradient_equal_torchs(columns: int, scale: float) -> None:
    """7 classes, so the shares are uneven. At a scale of 1e4 a naive exponential overflows and a naive logarithm sees 0."""
    logits, targets = logits_and_targets(scale)
    whole = logits.clone().requires_grad_()
    expected = F.cross_entropy(whole, targets)
    expected.backward()

    def column(own: Tensor, first: int, exchange: Together) -> tuple[Tensor, ...]:
        own = own.clone().requires_grad_()
        loss, losses = cross_entropy(own, targets, first_class=first, exchange=exchange)
        # A factor on the loss must reach the gradient.
        (gradient,) = torch.autograd.grad(3 * loss, own)
        return loss.detach(), losses, gradient, probabilities(own, exchange)

    found = in_columns(columns, logits, column)
    for loss, losses, *_ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=ROUNDING, atol=ROUNDING)
        each = F.cross_entropy(logits, targets, reduction="none")
        torch.testing.assert_close(losses, each, rtol=ROUNDING, atol=ROUNDING)
        assert not losses.requires_grad
    assert whole.grad is not None
    _, _, gradients, probable = zip(*found, strict=True)
    torch.testing.assert_close(torch.cat(gradients, dim=1), 3 * whole.grad, rtol=1e-12, atol=ROUNDING)
    torch.testing.assert_close(torch.cat(probable, dim=1), logits.softmax(dim=1), rtol=1e-12, atol=ROUNDING)


def test_loss_of_extreme_logits_in_float32_is_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    loss, losses = cross_entropy(logits, torch.tensor([1, 1]), first_class=0, exchange=NoExchange())
    loss.backward()
    assert losses.tolist() == [2e4, 0.0]
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]


def ranks(logits: Tensor, targets: Tensor, columns: int) -> Tensor:
    found = in_columns(
        columns, logits, lambda own, first, exchange: target_rank(own, targets, first_class=first, exchange=exchange)
    )
    assert all(torch.equal(found[0], other) for other in found)
    return found[0]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_rank_agrees_with_topk(columns: int) -> None:
    logits, targets = logits_and_targets(1.0, classes=11, images=200)
    rank = ranks(logits, targets, columns)
    for k in range(1, 12):
        among = (logits.topk(k, dim=1).indices == targets[:, None]).any(dim=1)
        assert torch.equal(rank < k, among)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_equal_logits_go_by_class_number(columns: int) -> None:
    """A network that says the same of every class must not come out as always right."""
    targets = torch.arange(7)
    assert torch.equal(ranks(torch.full((7, 7), 2.5), targets, columns), targets)
    partly = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0, 1.0, 1.0]])
    assert [ranks(partly, torch.tensor([c]), columns).item() for c in range(7)] == [3, 0, 1, 6, 2, 4, 5]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_logits_that_are_no_number_are_errors(columns: int) -> None:
    nan = float("nan")
    logits = torch.tensor([[nan] * 7, [1.0, nan, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, nan, 0.0, 0.0, 0.0, 0.0, 0.0]])
    # All are no numbers: last. The true class is the best of the numbers: second. The true class is none: last.
    assert ranks(logits, torch.tensor([0, 0, 1]), columns).tolist() == [7, 1, 7]
    loss, _ = cross_entropy(logits, torch.tensor([0, 0, 1]), first_class=0, exchange=NoExchange())
    assert loss.isnan()
