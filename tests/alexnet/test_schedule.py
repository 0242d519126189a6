"""Rates of the built-in configs at the authors' epochs, and the plateau rule on made-up error rates."""

import json
from typing import Any

import pytest

from alexnet.schedule import Plateau, Stages, as_stages, make_schedule
from configs.loader import load
from configs.schema import DiscreteExponentialSchedule, Ladder, LayerRates, PlateauSchedule, Stage, StageSchedule

# name: [(epoch, conv1's weights and biases, conv2's, the classifier's)], written out from the authors' notes
RATES: dict[str, list[tuple[Any, ...]]] = {
    # The ILSVRC-2012 run of net #145.
    "original": [
        *((epoch, (0.01, 0.02), (0.01, 0.02), (0.01, 0.02)) for epoch in (0, 24.9)),
        *((epoch, (0.001, 0.02), (0.001, 0.02), (0.001, 0.02)) for epoch in (25, 50.99)),
        *((epoch, (0.0001, 0.02), (0.0001, 0.02), (0.0001, 0.02)) for epoch in (51, 60)),
        *((epoch, (0.00001, 0.02), (0.0001, 0.02), (0.0001, 0.02)) for epoch in (67, 71.999)),
        (72, (0.0, 0.0), (0.0001, 0.02), (0.0001, 0.02)),
        *((epoch, (0.0, 0.0), (0.00001, 0.02), (0.00001, 0.02)) for epoch in (79, 90.9)),
    ],
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
    config = load(name)
    schedule = make_schedule(config.schedule)
    for epoch, *expected in RATES[name]:
        rates = schedule.rates(epoch)
        found = {layer: (rates.of(layer, "weights"), rates.of(layer, "biases")) for layer in config.network.convs}
        classifier = (rates.of("classifier", "weights"), rates.of("classifier", "biases"))
        assert [found["conv1"], found["conv2"], classifier] == expected, epoch
        if name == "original":  # all layers but the first have the same
            denses = {(rates.of(layer, "weights"), rates.of(layer, "biases")) for layer in config.network.denses}
            assert {*found.values(), *denses} - {found["conv1"]} <= {classifier}


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


def test_a_layers_own_rate_holds_until_the_layer_is_named_again_and_what_is_not_named_rests() -> None:
    stages = (
        Stage(from_epoch=0, biases=2.0, layers={"a": LayerRates(weights=5.0)}),
        Stage(from_epoch=1, weights=0.1, biases=0.2),
        Stage(from_epoch=2, layers={"a": LayerRates(biases=6.0)}),
        Stage(from_epoch=3, layers={"a": LayerRates(weights=7.0)}),
    )
    schedule = Stages(StageSchedule(kind="stages", stages=stages))
    found = [(schedule.rates(epoch).of("a", "weights"), schedule.rates(epoch).of("a", "biases")) for epoch in range(4)]
    assert found == [(5.0, 2.0), (5.0, 0.2), (5.0, 6.0), (7.0, 6.0)]
    assert schedule.rates(0).of("b", "weights") == 0.0 and schedule.state() == {}


PLATEAU = PlateauSchedule(
    kind="plateau", weights=0.1, biases=0.2, factor=0.5, patience_evaluations=2, min_improvement=0.01, reductions=2
)


def observed(plateau: Plateau, *errors: float) -> list[int]:
    """Reductions after each of the errors."""
    out = []
    for error in errors:
        plateau.observe(error)
        out.append(plateau.reductions)
    return out


def test_plateau_reduces_after_patience_and_only_so_often() -> None:
    plateau = make_schedule(PLATEAU)
    assert isinstance(plateau, Plateau)
    assert (plateau.rates(0).of("a", "weights"), plateau.rates(0).of("a", "biases")) == (0.1, 0.2)
    # Twice within min_improvement of the best: reduce. The wait starts afresh after each reduction and each improvement.
    assert observed(plateau, 0.9, 0.895, 0.891) == [0, 0, 1]
    assert (plateau.rates(9).of("a", "weights"), plateau.rates(9).of("b", "biases")) == (0.05, 0.1)
    assert observed(plateau, 0.9, 0.88, 0.88, 0.88) == [1, 1, 1, 2]
    assert plateau.rates(0).of("a", "weights") == 0.025
    assert observed(plateau, 0.88, 0.88, 0.88, 0.88, 0.88) == [2, 2, 2, 2, 2]


def test_plateau_state_survives_a_round_trip_at_every_moment() -> None:
    errors = [0.9, 0.8, 0.81, 0.795, 0.7, 0.7, 0.7, 0.7]
    whole = observed(Plateau(PLATEAU), *errors)
    assert whole == [0, 0, 0, 1, 1, 1, 2, 2]
    for cut in range(len(errors)):
        first, second = Plateau(PLATEAU), Plateau(PLATEAU)
        observed(first, *errors[:cut])
        state = first.state()
        second.load(json.loads(json.dumps(state)) if cut else state)
        assert observed(second, *errors[cut:]) == whole[cut:]
