"""A whole run by hand: order, draws, rates, masks, updates and evaluations, in plain Python from the settings and the pixels.

Nothing of `alexnet` or `workers` is used here. The network is that of tests/reference.py, in float64, in one process.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import Config, DiscreteExponentialSchedule, PlateauSchedule
from tests import reference
from tests.workers.by_hand import crop, key, mirrored, order

COLOUR, DROPOUT, SUBSTITUTE = 5, 6, 7
"""What keys are drawn for, beside those of by_hand.py."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """A data set: pixels uint8 [rows, S, S, 3] and labels by split, and the statistics of its manifest."""

    pixels: Mapping[str, Any]
    labels: Mapping[str, Any]
    mean_SSC: Any
    eigenvalues: tuple[float, ...]
    eigenvectors: tuple[tuple[float, ...], ...]
    damaged: frozenset[int] = frozenset()
    """Rows of the training set whose pixels cannot be read."""


@cache
def _order(seed: int, epoch: int, rows: int) -> list[int]:
    return order(seed, epoch, rows)


def _normal(drawn: int) -> float:
    """Of a key (Box and Muller): two more keys, as numbers from 0 to 1."""
    golden = 0x9E3779B97F4A7C15
    first, second = (((key(drawn + number - golden) >> 11) + 0.5) / 2**53 for number in (1, 2))
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)


def _initial(seed: int, layer: str, shape: tuple[int, ...], std: float) -> Tensor:
    digest = hashlib.sha256(f"{seed} {layer}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.empty(math.prod(shape)).normal_(0.0, std, generator=generator).view(shape).double()


def reductions(schedule: PlateauSchedule, errors: list[float]) -> int:
    """How often the rates have fallen after evaluations with these top-1 errors."""
    best, waited, fallen = math.inf, 0, 0
    for error in errors:
        if best - error > schedule.min_improvement:
            best, waited = error, 0
        else:
            waited += 1
        if waited >= schedule.patience_evaluations and fallen < schedule.reductions:
            fallen, waited = fallen + 1, 0
    return fallen


class Paper:
    """A run; `go` takes it further. `reports` are those that a column worker gives if it reports every update."""

    def __init__(self, config: Config, pictures: Pictures) -> None:
        self.config, self.pictures = config, pictures
        self.model = reference.Reference(config.network)
        network = config.network
        self.layers: dict[str, Any] = {**network.convs, **network.denses, "classifier": network.classifier}
        self.parameters: dict[str, tuple[str, str, torch.nn.Parameter]] = {}
        with torch.no_grad():
            for name, layer in self.layers.items():
                weights, biases = (self.model.parameter(name, kind) for kind in ("weights", "biases"))
                weights.copy_(_initial(config.train.seed, name, tuple(weights.shape), layer.init_std))
                biases.fill_(float(np.float32(layer.init_bias)))
                self.parameters[f"{name}.weights"] = name, "weights", weights
                self.parameters[f"{name}.biases"] = name, "biases", biases
        self.momentum = {name: torch.zeros_like(of) for name, (_, _, of) in self.parameters.items()}
        self.rows = len(pictures.labels["train"])
        self.done = 0
        self.errors: list[float] = []
        self.reports: list[dict[str, Any]] = []

    @property
    def total(self) -> int:
        train = self.config.train
        return train.steps or math.ceil(Fraction(str(train.epochs)) * self.rows / train.batch_size)

    def tensors(self) -> dict[str, Any]:
        """As a checkpoint names them."""
        weights = {name: parameter.detach().numpy().copy() for name, (_, _, parameter) in self.parameters.items()}
        return weights | {f"momentum/{name}": step.numpy().copy() for name, step in self.momentum.items()}

    def go(self, to: int | None = None) -> "Paper":
        """Train, and test where it is due, until so many updates have been made; None: all."""
        while self.done < (self.total if to is None else to):
            self._update()
            self.done += 1
            if self.done == self.total or self._periods(self.done) > self._periods(self.done - 1):
                found = self.evaluate()
                self.errors.append(found["top1_error"])
                self.reports.append({"kind": "evaluation", "step": self.done, "epoch": self._epoch(self.done), **found})
        return self

    def rate(self, layer: str, kind: str) -> float:
        """Of the next update."""
        schedule, epoch = self.config.schedule, self._epoch(self.done)
        if isinstance(schedule, PlateauSchedule):
            first: float = getattr(schedule, kind)
            return first * schedule.factor ** reductions(schedule, self.errors)
        if isinstance(schedule, DiscreteExponentialSchedule):
            if layer in schedule.frozen_from and epoch >= schedule.frozen_from[layer]:
                return 0.0
            ladder = getattr(schedule, kind)
            step = min(int(epoch / schedule.over_epochs * ladder.steps), ladder.steps - 1)
            return float(ladder.first * ladder.divided_by ** (-step / (ladder.steps - 1)))
        return reference.stage_rate(schedule, epoch, layer, kind)

    def evaluate(self, views: int = 1) -> dict[str, Any]:
        """Of the validation set, by the centre or by the mean of the probabilities of ten views."""
        pictures, augment = self.pictures, self.config.augment
        probabilities = reference.probabilities_of(
            self.model,
            pictures.pixels["validation"],
            pictures.mean_SSC,
            views,
            mean=augment.mean,
            scale=augment.pixel_scale,
        )
        return _errors(probabilities.log(), pictures.labels["validation"])

    def _epoch(self, done: int) -> float:
        return done * self.config.train.batch_size / self.rows

    def _periods(self, done: int) -> int:
        """Evaluations that are due after so many updates, the last one aside."""
        every = self.config.train.evaluate_every_epochs
        return (
            0 if every is None else int(Fraction(done * self.config.train.batch_size, self.rows) / Fraction(str(every)))
        )

    def _update(self) -> None:
        settings, first = self.config.optimizer, self.done * self.config.train.batch_size
        images, labels, keys = self._batch(range(first, first + self.config.train.batch_size))
        masks = reference.masks(self.config.network, np.array(keys, np.uint64))
        logits = self.model.train()(images, masks)
        self.model.zero_grad()
        F.cross_entropy(logits, torch.tensor(labels)).backward()
        # Where rates differ between layers, a report tells those of the layers that nothing is said of.
        told = {f"{kind}_rate": self.rate("", kind) for kind in ("weights", "biases")}
        found = _errors(logits.detach(), labels)
        self.reports.append(
            {"kind": "train", "step": self.done + 1, "epoch": self._epoch(self.done + 1), **found, **told}
        )
        for name, (layer, kind, parameter) in self.parameters.items():
            decay = settings.weight_decay_of.get(layer, settings.weight_decay)
            assert parameter.grad is not None
            reference.paper_update(
                parameter,
                self.momentum[name],
                parameter.grad,
                rate=self.rate(layer, kind),
                momentum=settings.momentum,
                decay=decay if kind == "weights" or settings.decay_biases else 0.0,
            )

    def _batch(self, samples: range) -> tuple[Tensor, list[int], list[int]]:
        """Finished images, labels, and keys of the dropout masks."""
        augment, pictures, side = self.config.augment, self.pictures, self.config.network.input_size
        noise = augment.colour_noise
        drawn = [self._drawn(number) for number in samples]
        crops = [
            pictures.pixels["train"][row, y : y + side, x : x + side]
            for row, (y, x) in ((d["row"], d["at"]) for d in drawn)
        ]
        images = reference.preprocessed(
            np.stack(crops),
            pictures.mean_SSC,
            np.array([d["at"] for d in drawn]),
            mean=augment.mean,
            mirror_B=np.array([d["mirror"] for d in drawn]),
            colour_BC=np.array([d["colour"] for d in drawn], np.float32).astype(np.float64),
            noisy_B=np.array([d["noisy"] for d in drawn]),
            divisor=1 + noise.strength if noise and noise.rescale else 1.0,
            scale=augment.pixel_scale,
        )
        return (
            torch.from_numpy(images),
            [int(pictures.labels["train"][d["row"]]) for d in drawn],
            [d["key"] for d in drawn],
        )

    def _drawn(self, number: int) -> dict[str, Any]:
        """Of sample `number` of the run."""
        train, augment, rows = self.config.train, self.config.augment, self.rows
        epoch, position = divmod(number, rows)
        row, attempt = _order(train.seed, 0 if train.order == "same_every_epoch" else epoch, rows)[position], 0
        while row in self.pictures.damaged:
            row = (key(train.seed, SUBSTITUTE, epoch, position, attempt) >> 32) * rows >> 32
            attempt += 1
        chunk = position // augment.crop_shared_by
        fitting = self.pictures.mean_SSC.shape[0] - self.config.network.input_size
        at = crop(train.seed, epoch, chunk, augment.crop_positions or fitting + 1)
        noise, colour, noisy = augment.colour_noise, [0.0] * 3, False
        if noise is not None and (noise.until_epoch is None or epoch < noise.until_epoch):
            noisy = True
            parts = [
                noise.strength
                * (math.sqrt(value) if noise.scale == "standard_deviation" else value / 255)
                * _normal(key(train.seed, COLOUR, epoch, position, component))
                for component, value in enumerate(self.pictures.eigenvalues)
            ]
            colour = [sum(v * p for v, p in zip(axis, parts, strict=True)) for axis in self.pictures.eigenvectors]
        return {
            "row": row,
            "at": (fitting // 2, fitting // 2) if augment.crop == "centre" else at,
            "mirror": augment.mirror and mirrored(train.seed, epoch, chunk),
            "colour": colour,
            "noisy": noisy,
            "key": key(train.seed, DROPOUT, epoch, position),
        }


def _errors(logits_BC: Tensor, labels: Any) -> dict[str, Any]:
    images, *sums = reference.sums(logits_BC, torch.as_tensor(np.asarray(labels), dtype=torch.int64)).tolist()
    names = ("loss", "top1_error", "top5_error")
    return {"images": images, **{name: total / images for name, total in zip(names, sums, strict=True)}}
