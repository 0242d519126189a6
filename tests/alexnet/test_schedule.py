"""Rates of original.yaml at the authors' epochs, and the plateau rule on made-up error rates."""

import json

import pytest

from alexnet.schedule import Plateau, Stages, make_schedule
from configs.loader import load
from configs.schema import LayerRates, PlateauSchedule, Stage, StageSchedule

# (epoch, conv1's weights and biases, the others'), from the authors' notes on the ILSVRC-2012 run of net #145.
ORIGINAL = [
    (0, (0.01, 0.02), (0.01, 0.02)),
    (24.9, (0.01, 0.02), (0.01, 0.02)),
    (25, (0.001, 0.02), (0.001, 0.02)),
    (50.99, (0.001, 0.02), (0.001, 0.02)),
    (51, (0.0001, 0.02), (0.0001, 0.02)),
    (60, (0.0001, 0.02), (0.0001, 0.02)),
    (67, (0.00001, 0.02), (0.0001, 0.02)),
    (71.999, (0.00001, 0.02), (0.0001, 0.02)),
    (72, (0.0, 0.0), (0.0001, 0.02)),
    (79, (0.0, 0.0), (0.00001, 0.02)),
    (90.9, (0.0, 0.0), (0.00001, 0.02)),
]


@pytest.mark.parametrize(("epoch", "conv1", "others"), ORIGINAL)
def test_original(epoch: float, conv1: tuple[float, float], others: tuple[float, float]) -> None:
    config = load("original.yaml")
    rates = make_schedule(config.schedule).rates(epoch)
    assert (rates.of("conv1", "weights"), rates.of("conv1", "biases")) == conv1
    for layer in [*config.network.convs, *config.network.denses, "classifier"]:
        if layer != "conv1":
            assert (rates.of(layer, "weights"), rates.of(layer, "biases")) == others


def test_a_layers_own_rate_holds_until_the_layer_is_named_again() -> None:
    stages = (
        Stage(from_epoch=0, weights=1.0, biases=2.0, layers={"a": LayerRates(weights=5.0)}),
        Stage(from_epoch=1, weights=0.1, biases=0.2),
        Stage(from_epoch=2, layers={"a": LayerRates(biases=6.0)}),
        Stage(from_epoch=3, layers={"a": LayerRates(weights=7.0)}),
    )
    schedule = Stages(StageSchedule(kind="stages", stages=stages))
    found = [(schedule.rates(epoch).of("a", "weights"), schedule.rates(epoch).of("a", "biases")) for epoch in range(4)]
    assert found == [(5.0, 2.0), (5.0, 0.2), (5.0, 6.0), (7.0, 6.0)]
    assert schedule.state() == {}


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
    plateau = Plateau(PLATEAU)
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
    for cut in range(1, len(errors)):
        first, second = Plateau(PLATEAU), Plateau(PLATEAU)
        observed(first, *errors[:cut])
        second.load(json.loads(json.dumps(first.state())))
        assert observed(second, *errors[cut:]) == whole[cut:]


def test_plateau_state_before_the_first_evaluation() -> None:
    plateau = Plateau(PLATEAU)
    plateau.load(Plateau(PLATEAU).state())
    assert observed(plateau, 1.0, 1.0, 1.0) == [0, 0, 1]
