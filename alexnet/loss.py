"""Multinomial logistic loss over classes that are split over columns, and the rank of the true class.

Each column holds the logits of its own classes; the whole row is never gathered. Per image, the columns reduce three
numbers: the largest logit, the sum of exponentials, and the true class's logit.
"""

from typing import Any

import torch
from torch import Tensor

from alexnet.exchange import Reductions


class _ClassParallelCrossEntropy(torch.autograd.Function):
    """Mean of -log softmax[target]. Backward in closed form: (softmax - one_hot) / B for the own classes, no collective."""

    @staticmethod
    def forward(
        ctx: Any, logits_BC: Tensor, targets_B: Tensor, first_class: int, exchange: Reductions
    ) -> tuple[Tensor, Tensor]:
        largest_B = exchange.maximum(logits_BC.amax(dim=1))
        shifted_BC = logits_BC - largest_B[:, None]
        exponentials_BC = shifted_BC.exp()
        own_B, local_B = _own(targets_B, first_class, logits_BC.shape[1])
        target_logit_B = torch.where(own_B, shifted_BC.gather(1, local_B[:, None])[:, 0], 0.0)
        sums_2B = exchange.sum(torch.stack([exponentials_BC.sum(dim=1), target_logit_B]))
        probabilities_BC = exponentials_BC / sums_2B[0][:, None]
        ctx.save_for_backward(probabilities_BC, own_B, local_B)
        losses_B = sums_2B[0].log() - sums_2B[1]
        ctx.mark_non_differentiable(losses_B)
        return losses_B.mean(), losses_B

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        probabilities_BC, own_B, local_B = ctx.saved_tensors
        grad_BC = probabilities_BC.clone()
        grad_BC.scatter_add_(1, local_B[:, None], -own_B[:, None].to(grad_BC.dtype))
        return grad_BC * (grads[0] / len(local_B)), None, None, None


def _own(targets_B: Tensor, first_class: int, classes: int) -> tuple[Tensor, Tensor]:
    """Which targets are among the own classes, and their local numbers (0 where they are not)."""
    local_B = targets_B - first_class
    own_B = (local_B >= 0) & (local_B < classes)
    return own_B, torch.where(own_B, local_B, torch.zeros_like(local_B))


def cross_entropy(
    logits_BC: Tensor, targets_B: Tensor, *, first_class: int, exchange: Reductions
) -> tuple[Tensor, Tensor]:
    """(mean loss, loss per image without gradient), in nats. The same on every column.

    logits_BC: of this column's classes. targets_B: int64 numbers of the true classes. first_class: number of the first own
    class. The mean's gradient on each column is the gradient of the one loss that all columns compute together.
    """
    mean, losses_B = _ClassParallelCrossEntropy.apply(logits_BC, targets_B, first_class, exchange)
    return mean, losses_B


@torch.no_grad()
def probabilities(logits_BC: Tensor, exchange: Reductions) -> Tensor:
    """Of this column's classes, among all classes. [B, C]"""
    exponentials_BC = (logits_BC - exchange.maximum(logits_BC.amax(dim=1))[:, None]).exp()
    return exponentials_BC / exchange.sum(exponentials_BC.sum(dim=1))[:, None]


@torch.no_grad()
def target_value(values_BC: Tensor, targets_B: Tensor, *, first_class: int, exchange: Reductions) -> Tensor:
    """The true class's value, per image; whichever column has it."""
    own_B, local_B = _own(targets_B, first_class, values_BC.shape[1])
    return exchange.sum(torch.where(own_B, values_BC.gather(1, local_B[:, None])[:, 0], 0.0))


@torch.no_grad()
def target_rank(values_BC: Tensor, targets_B: Tensor, *, first_class: int, exchange: Reductions) -> Tensor:
    """How many classes are more probable than the true one, per image: the top-k error counts ranks of k or more.

    values: logits or probabilities. Among equal ones the lower class goes first, so that a network that says the same of all
    classes is not right by accident, and a value that is not a number counts against the network.
    """
    classes = values_BC.shape[1]
    target_B1 = target_value(values_BC, targets_B, first_class=first_class, exchange=exchange)[:, None]
    numbers_C = torch.arange(first_class, first_class + classes, device=values_BC.device)
    not_after = (values_BC == target_B1) & (numbers_C >= targets_B[:, None])
    ahead = ~(values_BC < target_B1) & ~not_after
    return exchange.sum(ahead.sum(dim=1))
