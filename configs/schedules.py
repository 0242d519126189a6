"""The settings of learning rates over a run. Sources as in `configs.schema`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.sections import Count, Field, Natural, NonNegative, Positive, Section


@dataclass(frozen=True, kw_only=True)
class LayerRates(Section):
    weights: NonNegative | None = None
    biases: NonNegative | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(Section):
    """Learning rates from an epoch on. What a stage leaves out stays as it was; a rate of 0 freezes."""

    from_epoch: NonNegative
    weights: NonNegative | None = None
    """For every layer that no stage so far has named in `layers`."""
    biases: NonNegative | None = None
    layers: Mapping[str, LayerRates] = field(default_factory=dict)
    """Rates of single layers, by name; they hold until another stage names the layer again."""


@dataclass(frozen=True, kw_only=True)
class StageSchedule(Section):
    kind: Literal["stages"]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class PlateauSchedule(Section):
    """Divide the rates when the validation error rate has stopped improving [P 5]."""

    kind: Literal["plateau"]
    weights: Positive = 0.01
    biases: Positive = 0.01
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience_evaluations: Count = 5
    """Evaluations in a row without improvement before the rates are multiplied by `factor`."""
    min_improvement: NonNegative = 0.001
    """Top-1 error must fall below the best by this much to count (0.001 is 0.1 %)."""
    reductions: Natural = 3
    """The rates are reduced this often at most."""


@dataclass(frozen=True, kw_only=True)
class Ladder(Section):
    """A rate that falls in steps of equal ratio, each for an equal part of the run."""

    first: Positive
    """Rate of the first step."""
    divided_by: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    """The last step's rate is the first one divided by this."""
    steps: Annotated[int, Field(ge=2)]


@dataclass(frozen=True, kw_only=True)
class DiscreteExponentialSchedule(Section):
    """The rule that replaced edits by hand in the authors' code: `dexp` in src/lr.cu."""

    kind: Literal["discrete_exponential"]
    over_epochs: Positive
    """Length of the run that the steps divide; the same as train.epochs, as a rule."""
    weights: Ladder
    biases: Ladder
    frozen_from: Mapping[str, NonNegative] = field(default_factory=dict)
    """Epoch from which a layer's weights and biases stand still, by the layer's name."""


Schedule = Annotated[StageSchedule | PlateauSchedule | DiscreteExponentialSchedule, Field(discriminator="kind")]
