"""Errors counted from probabilities of the whole network or of several: in all, by class, and which class was taken for which.

Shape suffixes: B images, C classes.
"""

from typing import Any

import torch
from torch import Tensor

from alexnet.exchange import NoExchange
from alexnet.loss import target_rank, target_value


def weighted_mean(members: list[Tensor], weights: list[float]) -> Tensor:
    """An ensemble's probabilities [B, C] (authors' avg-test.py). weights: of the members, not all 0, of any sum."""
    total = sum(weights)
    # In float64, so that a network beside itself gives itself.
    mean = torch.zeros_like(members[0], dtype=torch.float64)
    for probabilities_BC, weight in zip(members, weights, strict=True):
        mean += probabilities_BC.double() * (weight / total)
    return mean


class Tally:
    """Counts over batches, on the device of the probabilities. A rank as in `alexnet.loss.target_rank`.

    pairs: count also which class is taken for which, in classes² numbers of 8 bytes; `by_class` needs it.
    """

    def __init__(self, classes: int, device: torch.device, *, pairs: bool = False) -> None:
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.images_C, self.top1_C, self.top5_C = torch.zeros(3, classes, dtype=torch.int64, device=device)
        """Images of each class, and those of them whose class is not the most probable, or not among five."""
        self.taken_CC = torch.zeros(classes, classes, dtype=torch.int64, device=device) if pairs else None
        """Images of the row's class that were taken for the column's."""

    def add(self, probabilities_BC: Tensor, labels_B: Tensor) -> None:
        """labels: int64."""
        alone = NoExchange()
        target_B = target_value(probabilities_BC, labels_B, first_class=0, exchange=alone)
        rank_B = target_rank(probabilities_BC, labels_B, first_class=0, exchange=alone)
        # The least that float32 holds, as in testing by ten views.
        self.loss -= target_B.double().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
        self.images_C += _count(labels_B, len(self.images_C))
        self.top1_C += _count(labels_B[rank_B >= 1], len(self.images_C))
        self.top5_C += _count(labels_B[rank_B >= 5], len(self.images_C))
        if self.taken_CC is not None:
            # Among equally probable classes the lower one goes first, in ranks and in argmax. In place: with the classes of
            # Fall 2011 another such matrix would be 3.8 GB.
            pairs_B = labels_B * len(self.images_C) + probabilities_BC.argmax(dim=1)
            self.taken_CC.view(-1).index_add_(0, pairs_B, torch.ones_like(pairs_B))

    def errors(self) -> dict[str, Any]:
        """`images`, `loss` (mean, nats) and its negative `mean_log_probability`, `top1_error` and `top5_error` (0 to 1)."""
        images = int(self.images_C.sum())
        each = 1.0 / max(images, 1)
        loss = float(self.loss) * each
        return {
            "images": images,
            "loss": loss,
            "mean_log_probability": -loss,
            "top1_error": int(self.top1_C.sum()) * each,
            "top5_error": int(self.top5_C.sum()) * each,
        }

    def by_class(self) -> list[dict[str, Any]]:
        """Of each: `images`, `top1_error` and `top5_error` (None if it has no images), and `most_taken_for`: (class, images)
        of the other class that it is taken for most often, None if it never is."""
        assert self.taken_CC is not None, "pairs were not counted"
        right_C = self.taken_CC.diagonal().clone()
        most_C, other_C = self.taken_CC.fill_diagonal_(0).max(dim=1)
        self.taken_CC.diagonal().copy_(right_C)
        rows = zip(
            *(values.tolist() for values in (self.images_C, self.top1_C, self.top5_C, most_C, other_C)), strict=True
        )
        return [
            {
                "images": images,
                "top1_error": top1 / images if images else None,
                "top5_error": top5 / images if images else None,
                "most_taken_for": (other, most) if most else None,
            }
            for images, top1, top5, most, other in rows
        ]


def _count(numbers: Tensor, length: int) -> Tensor:
    return torch.bincount(numbers, minlength=length)
