"""Learning rates over a run: by stages of epochs, or divided when the validation error stops improving [P 5]."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.schema import DiscreteExponentialSchedule, Ladder, LayerRates, PlateauSchedule, Stage, StageSchedule


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


def as_stages(settings: DiscreteExponentialSchedule) -> StageSchedule:
    """The stages that the rule comes to.

    Steps i = 0 ... n - 1 have the rates first * divided_by ** (-i / (n - 1)) and an n-th of the run each (authors' src/lr.cu).
    """
    weights, biases = _steps(settings.weights, settings.over_epochs), _steps(settings.biases, settings.over_epochs)
    frozen = LayerRates(weights=0.0, biases=0.0)
    stages = [
        Stage(
            from_epoch=epoch,
            weights=weights.get(epoch),
            biases=biases.get(epoch),
            layers={layer: frozen for layer, since in settings.frozen_from.items() if since == epoch},
        )
        for epoch in sorted({*weights, *biases, *settings.frozen_from.values()})
    ]
    return StageSchedule(kind="stages", stages=tuple(stages))


def _steps(ladder: Ladder, epochs: float) -> dict[float, float]:
    """Rates, by the epoch from which they hold."""
    return {
        epochs * step / ladder.steps: ladder.first / ladder.divided_by ** (step / (ladder.steps - 1))
        for step in range(ladder.steps)
    }


def make_schedule(settings: StageSchedule | PlateauSchedule | DiscreteExponentialSchedule) -> Stages | Plateau:
    if isinstance(settings, PlateauSchedule):
        return Plateau(settings)
    return Stages(settings if isinstance(settings, StageSchedule) else as_stages(settings))
