"""The settings of the network: its layers as data. Sources as in `configs.schema`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.sections import Count, Field, Finite, Fraction, Natural, Positive, Section

Step = Literal["activation", "lrn", "spatial_lrn", "pool"]
Sees = Literal["column", "all"]


@dataclass(frozen=True, kw_only=True)
class ResponseNorm(Section):
    """b = a * (k + alpha * (sum of a² over the window)) ** -beta [P 3.3]."""

    size: Count = 5
    """Window: this many neighbouring maps, or this many positions each way for `spatial_lrn`."""
    k: Positive = 2.0
    alpha: Positive = 1e-4
    beta: Positive = 0.75
    divide_alpha_by_window: bool = True
    """The authors' code divides alpha by the number of elements in the window; the paper's formula does not."""
    sees: Sees = "column"
    """Maps in the window of `lrn`: `column`, the own column's only (the authors' code); `all`, every column's (Caffe, and the
    letter of the paper's formula), which takes all columns in one process. No meaning for `spatial_lrn`."""


@dataclass(frozen=True, kw_only=True)
class Pool(Section):
    """Max pooling; overlapping when size > stride [P 3.4]. A last window may hang over the edge."""

    size: Count = 3
    stride: Count = 2


@dataclass(frozen=True, kw_only=True)
class Conv(Section):
    """A convolutional layer of the whole network, and what follows it."""

    maps: Count
    """Output maps of the whole network; each column computes an equal share."""
    kernel: Count
    stride: Count = 1
    padding: Natural = 0
    """Zeros on each side. Where the stride leaves a remainder the last window hangs over the right and bottom edge
    and reads zeros there: out = 1 + ceil((in + 2 padding - kernel) / stride), as in the authors' code."""
    sees: Sees = "column"
    """`column`: this column's own maps of the layer below; `all`: every column's, by exchange. The first layer sees
    the image, which every column has."""
    then: tuple[Step, ...] = ("activation",)
    """What is applied to the output, in this order."""
    init_std: Positive = 0.01
    """Weights start from a normal distribution with mean 0 and this standard deviation."""
    init_bias: Finite = 0.0
    local: bool = False
    """Locally connected: every position has weights and biases of its own (cuda-convnet's `local`). Such a layer sees the
    image or its own column only."""


@dataclass(frozen=True, kw_only=True)
class Dense(Section):
    """A fully connected hidden layer of the whole network, with its activation and dropout."""

    units: Count
    """Units of the whole network; each column computes an equal share."""
    sees: Sees = "all"
    """As in `Conv`."""
    dropout: Fraction = 0.0
    """Probability that a unit is silent in training. Units are not rescaled then; in testing all are multiplied by
    1 - dropout [P 4.2]."""
    init_std: Positive = 0.01
    init_bias: Finite = 0.0
    linear: bool = False
    """No activation, as the 1,024 units per column before the authors' 21,843 classes (layers-146-2011.cfg)."""


@dataclass(frozen=True, kw_only=True)
class Classifier(Section):
    """The last layer. It sees every column; its classes are split over the columns."""

    init_std: Positive = 0.01
    init_bias: Finite = 0.0


@dataclass(frozen=True, kw_only=True)
class Network(Section):
    columns: Count = 2
    """Columns that compute side by side, one per GPU where there are enough [P 3.5]."""
    classes: Annotated[int, Field(ge=2)]
    input_size: Count
    """Side of the square crop that the network sees, in pixels."""
    activation: Literal["relu", "tanh"] = "relu"
    lrn: ResponseNorm | None = None
    """Response norm over neighbouring maps of one column; used where a layer's `then` says `lrn`."""
    spatial_lrn: ResponseNorm | None = None
    """Response norm over neighbouring positions of one map; used where `then` says `spatial_lrn`."""
    pool: Pool = field(default_factory=Pool)
    convs: Mapping[str, Conv]
    """In order, by name. A `null` in a file that has a base removes the base's layer."""
    denses: Mapping[str, Dense] = field(default_factory=dict)
    """In order, by name."""
    classifier: Classifier = field(default_factory=Classifier)

    @property
    def most_processes(self) -> int:
        """That its columns can be in: 1 if a norm sees the maps of all of them, which nobody sends, else one for each."""
        together = self.lrn is not None and self.lrn.sees == "all"
        return 1 if together else self.columns
