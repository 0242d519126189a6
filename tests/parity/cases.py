"""Networks and batches of the parity tests, what is compared of them, and how closely."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from alexnet import counter
from configs.loader import load
from configs.schema import Classifier, Conv, Dense, LayerRates, Network, Pool, ResponseNorm, Stage, StageSchedule

Tree = dict[str, Tensor]

TOLERANCE = 1e-12
"""Of a tensor's largest magnitude. A column adds up its own maps first and a library picks its own order for a smaller matrix, so
sums differ in their last bits: float64 has 16 digits, a few thousand terms and five updates cost two or three of them. Any real
mistake changes the third digit or an earlier one."""

IMAGES, MARGIN = 8, 6  # per batch; stored images are this much larger than the crops
MOMENTUM, DECAY, NOISE = 0.9, 0.03, 0.25


@dataclass(frozen=True, kw_only=True)
class Case:
    network: Network
    mean: Literal["centre", "position", "channel"] = "centre"
    decay_biases: bool = False
    decay_of: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of single layers, by name."""
    updates: int = 5
    as_trained: bool = False
    """Compiled norms and update, and channels_last, as column workers have them by default."""
    compiled: bool = False
    """All that lies between two exchanges compiled as a whole."""


def _complete(**changes: Any) -> Network:
    """Every feature of the schema in a few thousand weights."""
    lrn = ResponseNorm(size=3, k=2.0, alpha=0.3, beta=0.75)
    network = Network(
        columns=2,
        classes=7,  # uneven: four classes and three
        input_size=24,  # 24 -> 8 by a window that hangs over by 2, -> 4 by one that hangs over by 1
        lrn=lrn,
        spatial_lrn=dataclasses.replace(lrn, k=1.0, alpha=0.8),
        pool=Pool(size=3, stride=2),
        convs={
            "conv1": Conv(maps=8, kernel=5, stride=3, then=("lrn", "pool", "activation"), init_std=0.01),
            "conv2": Conv(
                maps=12, kernel=3, padding=1, then=("activation", "lrn", "spatial_lrn"), init_std=0.2, init_bias=0.5
            ),
            "conv3": Conv(maps=16, kernel=3, padding=1, sees="all", init_std=0.1),
            "conv4": Conv(maps=12, kernel=3, padding=1, then=("pool", "activation"), init_std=0.1, init_bias=0.3),
        },
        denses={
            "fc5": Dense(units=20, dropout=0.5, init_std=0.1, init_bias=0.3),
            "fc6": Dense(units=16, sees="column", dropout=0.3, init_std=0.2, init_bias=0.3),
            "fc7": Dense(units=16, dropout=0.25, init_std=0.2, init_bias=0.3),
        },
        classifier=Classifier(init_std=0.2, init_bias=0.1),
    )
    return dataclasses.replace(network, **changes)


def _small_original() -> Network:
    """original.yaml's layers at their full size of image, with a sixteenth of the maps and a thirty-second of the units."""
    network = load("original.yaml").network
    return dataclasses.replace(
        network,
        classes=31,
        convs={name: dataclasses.replace(conv, maps=conv.maps // 16) for name, conv in network.convs.items()},
        denses={name: dataclasses.replace(dense, units=dense.units // 32) for name, dense in network.denses.items()},
    )


CASES = {
    "complete": Case(network=_complete()),
    # Windows of even size are not symmetric, so their sum is not its own adjoint; 4 columns make 2 processes own two each.
    "four columns": Case(
        network=_complete(
            columns=4,
            activation="tanh",
            lrn=ResponseNorm(size=2, k=1.0, alpha=0.5, beta=0.6, divide_alpha_by_window=False),
            spatial_lrn=ResponseNorm(size=4, k=1.5, alpha=0.2, beta=0.75, divide_alpha_by_window=False),
        ),
        mean="position",
        decay_biases=True,
    ),
    "original in the small": Case(network=_small_original(), updates=2),
    "as trained": Case(network=_complete(), as_trained=True),
    "compiled": Case(network=_complete(), as_trained=True, compiled=True, updates=2),
}

SCHEDULE = StageSchedule(
    kind="stages",
    stages=(
        Stage(from_epoch=0, weights=0.002, biases=0.004, layers={"conv2": LayerRates(weights=0.001)}),
        Stage(from_epoch=1, weights=0.0002),
        Stage(from_epoch=3, layers={"conv1": LayerRates(weights=0, biases=0), "fc5": LayerRates(biases=0.001)}),
    ),
)
"""An update takes one epoch here. After the rate falls, the momentum of the paper and that of torch's SGD differ."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Numpy arrays of one batch."""

    images_BHWC: Any
    labels_B: Any
    offsets_B2: Any
    mirror_B: Any
    colour_BC: Any
    noisy_B: Any
    keys_B: Any


def draw(case: Case, update: int) -> Drawn:
    generator, side = np.random.default_rng(update), case.network.input_size
    return Drawn(
        images_BHWC=generator.integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8),
        labels_B=generator.integers(0, case.network.classes, IMAGES),
        offsets_B2=generator.integers(0, MARGIN + 1, (IMAGES, 2)),
        mirror_B=np.arange(IMAGES) % 2 == 0,
        colour_BC=generator.normal(0, 10, (IMAGES, 3)),
        noisy_B=np.arange(IMAGES) % 3 != 0,
        keys_B=counter.keys(5, update, np.arange(IMAGES)),
    )


def mean_image(case: Case) -> Any:
    side = case.network.input_size + MARGIN
    return np.random.default_rng(99).uniform(90, 150, (side, side, 3)).astype(np.float32)
