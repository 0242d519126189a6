"""One training step and one testing step of the columns that this process owns."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from alexnet.augment import Preprocess
from alexnet.loss import cross_entropy, probabilities, target_rank, target_value
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.precision import Precision, autocast
from alexnet.ranges import named
from alexnet.schedule import Rates
from alexnet.views import centre_view, ten_views


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One replica's images and all that was drawn for them, on the device."""

    images_BHWC: Tensor
    """uint8 crops; for ten views whole images."""
    labels_B: Tensor
    """int64."""
    offsets_B2: Tensor
    """int64 (y, x) of each crop in its stored image."""
    mirror_B: Tensor | None = None
    colour_BC: Tensor | None = None
    noisy_B: Tensor | None = None
    keys_B: Tensor | None = None
    """int64, of the dropout masks. These four are None in testing."""


class Step:
    """The mathematics of a step; when to take one, test or save is the caller's affair.

    replica_group: ranks that own the same columns in the other replicas; None if there is one replica. Their gradients are
    averaged while the backward pass goes on. precision: see `configs.schema.Compute`; the loss is computed in float32 or better.
    """

    def __init__(
        self,
        model: AlexNet,
        preprocess: Preprocess,
        optimizer: PaperSGD | None,
        replica_group: dist.ProcessGroup | None,
        precision: Precision = "fp32",
    ) -> None:
        self.precision = precision
        self.model, self.preprocess, self.optimizer = model, preprocess, optimizer
        self.forward: AlexNet | DistributedDataParallel = model
        if replica_group is not None and replica_group.size() > 1 and optimizer is not None:
            # Replicas start equal, being made from the same seed or checkpoint.
            self.forward = DistributedDataParallel(model, process_group=replica_group, gradient_as_bucket_view=True)

    def train(self, batch: Batch, rates: Rates, *, part: int = 0, parts: int = 1) -> Tensor:
        """Update the weights; returns the `sums` of this replica's images before the update.

        part, parts: this replica's share of the batch may come in several parts of equal size, call by call; their gradients are
        summed, and the update is made in the last call.
        """
        assert self.optimizer is not None, "a step made for testing cannot train"
        self.model.train()
        with named("preprocess"):
            images = self.preprocess(
                batch.images_BHWC, batch.offsets_B2, batch.mirror_B, batch.colour_BC, batch.noisy_B
            )
        last = part == parts - 1
        if part == 0:
            self.optimizer.zero_grad()
        with self._silent_unless(last):
            with named("forward"):
                logits_BC = self._logits(self.forward, images, batch.keys_B)
            with named("loss"):
                loss, losses_B = self._loss(logits_BC, batch)
            with named("backward"):
                (loss if parts == 1 else loss / parts).backward()
        if last:
            with named("update"):
                self.optimizer.step(rates)
        with named("errors"):
            return self._sums(logits_BC, losses_B, batch)

    def test(self, batch: Batch) -> Tensor:
        """The `sums` of this replica's images in the testing form of the network."""
        self.model.eval()
        with torch.no_grad():
            images = self.preprocess(batch.images_BHWC, batch.offsets_B2)
            logits_BC = self._logits(self.model, images, None)
            _, losses_B = self._loss(logits_BC, batch)
            return self._sums(logits_BC, losses_B, batch)

    def test_ten_views(self, batch: Batch) -> Tensor:
        """As `test`, by the mean of the probabilities of ten views [P 4.1]; the batch holds whole images."""
        exchange, first_class = self.model.exchange, self.model.first_class
        mean_BC = self.probabilities(batch.images_BHWC, 10)
        with torch.no_grad():
            target_B = target_value(mean_BC, batch.labels_B, first_class=first_class, exchange=exchange)
            return self._sums(mean_BC, -target_B.clamp_min(torch.finfo(target_B.dtype).tiny).log(), batch)

    def _silent_unless(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over replicas once, when all parts have been summed."""
        if last or not isinstance(self.forward, DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], self.forward.no_sync())

    @torch.no_grad()
    def probabilities(self, images_BSSC: Tensor, views: Literal[1, 10]) -> Tensor:
        """Of this process's classes among all classes [B, C], by the centre or by the mean over ten views [P 4.1].

        images: uint8 [B, S, S, 3], whole as they are stored.
        """
        self.model.eval()
        cut = ten_views if views == 10 else centre_view
        found = [
            probabilities(self._logits(self.model, self.preprocess(crops, offsets, mirror), None), self.model.exchange)
            for crops, offsets, mirror in cut(images_BSSC, self.preprocess.crop)
        ]
        return torch.stack(found).mean(dim=0)

    def _logits(self, forward: torch.nn.Module, images_BCHW: Tensor, keys_B: Tensor | None) -> Tensor:
        with autocast(self.precision, images_BCHW.device.type):
            logits_BC: Tensor = forward(images_BCHW, keys_B)
        return logits_BC.float() if logits_BC.dtype == torch.bfloat16 else logits_BC

    def _loss(self, logits_BC: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return cross_entropy(
            logits_BC, batch.labels_B, first_class=self.model.first_class, exchange=self.model.exchange
        )

    def _sums(self, values_BC: Tensor, losses_B: Tensor, batch: Batch) -> Tensor:
        """[images, loss in nats, top-1 errors, top-5 errors], float64, summed over the batch; stays on the device."""
        rank_B = target_rank(
            values_BC.detach(),
            batch.labels_B,
            first_class=self.model.first_class,
            exchange=self.model.exchange,
        )
        images = torch.full_like(losses_B.sum(dtype=torch.float64), len(rank_B))
        return torch.stack(
            [images, losses_B.detach().sum(dtype=torch.float64), (rank_B >= 1).sum(), (rank_B >= 5).sum()]
        )
