"""Learning rates over a run: by stages of epochs, or divided when the validation error stops improving [P 5]."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.schema import PlateauSchedule, StageSchedule


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates at one moment."""

    weights: float
    biases: float
    layers: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Rates that differ, by (layer, "weights" or "biases")."""

    def of(self, layer: str, kind: str) -> float:
        return self.layers.get((layer, kind), self.weights if kind == "weights" else self.biases)


class Stages:
    """Rates as a function of the epoch alone; there is no state."""

    def __init__(self, settings: StageSchedule) -> None:
        self.settings = settings

    def rates(self, epoch: float) -> Rates:
        weights, biases, layers = 0.0, 0.0, dict[tuple[str, str], float]()
        for stage in self.settings.stages:
            if stage.from_epoch > epoch:
                break
            weights = weights if stage.weights is None else stage.weights
            biases = biases if stage.biases is None else stage.biases
            for layer, own in stage.layers.items():
                if own.weights is not None:
                    layers[layer, "weights"] = own.weights
                if own.biases is not None:
                    layers[layer, "biases"] = own.biases
        return Rates(weights=weights, biases=biases, layers=layers)

    def observe(self, error: float) -> None:
        """An evaluation's top-1 error makes no difference here."""

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """There is nothing to load."""


class Plateau:
    """Rates that fall by `factor` after `patience_evaluations` evaluations without improvement."""

    def __init__(self, settings: PlateauSchedule) -> None:
        self.settings = settings
        self.best, self.waited, self.reductions = float("inf"), 0, 0

    def rates(self, epoch: float) -> Rates:
        factor = self.settings.factor**self.reductions
        return Rates(weights=self.settings.weights * factor, biases=self.settings.biases * factor)

    def observe(self, error: float) -> None:
        """Take in the top-1 error (0 to 1) of an evaluation."""
        if error < self.best - self.settings.min_improvement:
            self.best, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= self.settings.patience_evaluations and self.reductions < self.settings.reductions:
            self.reductions, self.waited = self.reductions + 1, 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "reductions": self.reductions}

    def load(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.reductions = state["best"], state["waited"], state["reductions"]


def make_schedule(settings: StageSchedule | PlateauSchedule) -> Stages | Plateau:
    return Stages(settings) if isinstance(settings, StageSchedule) else Plateau(settings)
