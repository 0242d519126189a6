"""Rates of the variants at the authors' epochs, written out from their notes."""

from typing import Any

import pytest

from alexnet.schedule import as_stages, make_schedule
from configs.loader import load
from configs.schema import DiscreteExponentialSchedule, Ladder

# name: [(epoch, conv1's weights and biases, conv2's, the classifier's)]
RATES: dict[str, list[tuple[Any, ...]]] = {
    # layer-params-145-2010.cfg:165-176
    "original_2010": [
        (22.9, (0.01, 0.02), (0.01, 0.02), (0.01, 0.02)),
        (23, (0.001, 0.002), (0.001, 0.002), (0.001, 0.002)),
        (51, (0.0001, 0.002), (0.0001, 0.002), (0.0001, 0.002)),
        (68, (0.00001, 0.002), (0.0001, 0.002), (0.0001, 0.002)),
        (72, (0.0, 0.0), (0.0001, 0.002), (0.0001, 0.002)),
        (92.9, (0.0, 0.0), (0.00001, 0.002), (0.00001, 0.002)),
    ],
    # run4.sh
    "scripted": [
        (21.9, (0.01, 0.02), (0.01, 0.02), (0.01, 0.02)),
        (22, (0.001, 0.002), (0.001, 0.002), (0.001, 0.002)),
        (49, (0.0001, 0.002), (0.0001, 0.002), (0.0001, 0.002)),
        (66, (0.00001, 0.002), (0.00001, 0.002), (0.0001, 0.002)),
        (73, (0.0, 0.0), (0.0, 0.0), (0.0001, 0.002)),
        (81, (0.0, 0.0), (0.0, 0.0), (0.00001, 0.002)),
    ],
    # layer-params-146-2012-2011.cfg
    "fine_tuned": [
        (0, (0.0001, 0.02), (0.001, 0.02), (0.001, 0.02)),
        (0.24, (0.0001, 0.02), (0.001, 0.02), (0.01, 0.02)),
        (5, (0.00001, 0.02), (0.001, 0.02), (0.01, 0.02)),
        (7, (0.0, 0.0), (0.001, 0.02), (0.01, 0.02)),
        (9, (0.0, 0.0), (0.001, 0.02), (0.001, 0.02)),
        (22, (0.0, 0.0), (0.0001, 0.02), (0.0001, 0.02)),
        (53, (0.0, 0.0), (0.00001, 0.02), (0.00001, 0.02)),
    ],
    # layer-params-146-2011.cfg: 0.001 on conv layers, 0.01 on fc
    "fall2011": [(0, (0.001, 0.02), (0.001, 0.02), (0.01, 0.02)), (6, (0.001, 0.02), (0.001, 0.02), (0.001, 0.02))],
    # layer-params-conv-local-11pct.cfg: epsW falls, epsB stays
    "cifar10_11pct": [
        (449, (0.001, 0.002), (0.001, 0.002), (0.001, 0.002)),
        (450, (0.0001, 0.002), (0.0001, 0.002), (0.0001, 0.002)),
        (469, (0.00001, 0.002), (0.00001, 0.002), (0.00001, 0.002)),
    ],
}


@pytest.mark.parametrize("name", RATES)
def test_rates(name: str) -> None:
    schedule = make_schedule(load(name).schedule)
    for epoch, *expected in RATES[name]:
        rates = schedule.rates(epoch)
        found = [(rates.of(layer, "weights"), rates.of(layer, "biases")) for layer in ("conv1", "conv2", "classifier")]
        assert found == expected, epoch


def test_conv6_has_bias_rates_of_its_own() -> None:
    for name, rate in (("fall2009", 0.002), ("fall2011", 0.002), ("fine_tuned", 0.022), ("fine_tuned_2009", 0.002)):
        rates = make_schedule(load(name).schedule).rates(0)
        assert rates.of("conv6", "biases") == rate, name


@pytest.mark.parametrize(
    ("epoch", "weights", "biases"),
    [
        # 0.01 / 250 ** (i / 3), as the notes have them to eight digits; a quarter of 95 epochs each.
        (0, 0.01, 0.02),
        (23.7, 0.01, 0.02),
        (23.8, 0.0015874011, 0.02),
        (47.4, 0.0015874011, 0.02),
        (47.6, 0.00025198421, 0.002),
        (71.3, 0.00004, 0.002),
        (94.99, 0.00004, 0.002),
        (200, 0.00004, 0.002),
    ],
)
def test_discrete_exponential(epoch: float, weights: float, biases: float) -> None:
    """layer-params-170.cfg: schedW, schedB, and the rates that the notes of its restart name."""
    rates = make_schedule(load("dexp").schedule).rates(epoch)
    assert rates.of("fc6", "weights") == pytest.approx(weights, rel=1e-7)
    assert rates.of("fc6", "biases") == pytest.approx(biases, rel=1e-12)
    frozen = epoch >= 74
    assert (rates.of("conv1", "weights") == 0) == (rates.of("conv1", "biases") == 0) == frozen


def test_freezing_at_the_edge_of_a_step_and_two_layers_at_once() -> None:
    settings = DiscreteExponentialSchedule(
        kind="discrete_exponential",
        over_epochs=4,
        weights=Ladder(first=1.0, divided_by=4, steps=2),
        biases=Ladder(first=1.0, divided_by=1, steps=4),
        frozen_from={"a": 2, "b": 2, "c": 3},
    )
    stages = as_stages(settings).stages
    assert [stage.from_epoch for stage in stages] == [0, 1, 2, 3]
    assert [stage.weights for stage in stages] == [1.0, None, 0.25, None]
    assert [stage.biases for stage in stages] == [1.0] * 4
    assert [sorted(stage.layers) for stage in stages] == [[], [], ["a", "b"], ["c"]]
