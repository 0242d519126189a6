"""Every built-in network against the plain reference, in one process and in two: outputs, gradients, three updates, float64."""

from functools import cache

import pytest

from alexnet.network import AlexNet
from configs.loader import built_in
from tests.alexnet.test_network import Silent
from tests.parity.cases import IMAGES, Tree
from tests.parity.running import assert_same, joined, run, run_reference, share_columns
from tests.parity.variants import SPLIT, VARIANTS
from tests.ranks import run_ranks


@cache
def expected(name: str) -> Tree:
    return run_reference(VARIANTS[name])


def shared(rank: int) -> dict[str, tuple[Tree, int]]:
    return share_columns(rank, SPLIT)


@pytest.fixture(scope="module")
def two_columns() -> list[dict[str, tuple[Tree, int]]]:
    """All networks in one pair of processes, because starting them takes longer than running them."""
    return run_ranks(shared, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_whole_network_in_one_process(name: str) -> None:
    assert_same(run(VARIANTS[name]), expected(name))


@pytest.mark.parametrize("name", SPLIT)
def test_two_processes_share_the_columns(name: str, two_columns: list[dict[str, tuple[Tree, int]]]) -> None:
    assert_same(joined([rank[name][0] for rank in two_columns]), expected(name))


def test_columns_without_exchange_talk_before_the_classifier_only(
    two_columns: list[dict[str, tuple[Tree, int]]],
) -> None:
    case = SPLIT["no_exchange"]
    units = case.network.denses["fc7"].units // 2
    # Per image: before the classifier once forward and once backward, 3 numbers for the loss and 2 for the rank; and the
    # two forward passes without a loss, and a test.
    per_image = case.updates * (2 * units + 5) + 2 * units + units + 5
    assert [rank["no_exchange"][1] for rank in two_columns] == [IMAGES * per_image] * 2


def test_which_networks_are_compared() -> None:
    """Every config that differs in its network or its decay; the others repeat one of these."""
    assert len(VARIANTS) < len(built_in())
    assert set(VARIANTS) >= {
        "original", "paper", "one_gpu", "no_normalisation", "non_overlapping_pooling", "no_exchange", "fall2009", "fall2011",
        "tanh", "no_dropout", "no_conv3", "no_conv4", "no_conv5", "no_fc7", "caffe", "cifar10_13pct", "cifar10_11pct",
        "figure1_relu", "figure1_tanh",
    }  # fmt: skip
    assert set(VARIANTS) - set(SPLIT) == {
        "one_gpu", "caffe", "cifar10_13pct", "cifar10_11pct", "figure1_relu", "figure1_tanh", "figure1_small",
    }  # fmt: skip


def test_a_norm_over_all_maps_takes_all_columns_in_one_process() -> None:
    with pytest.raises(AssertionError, match="nobody sends this norm its maps"):
        AlexNet(VARIANTS["caffe"].network, columns=1, exchange=Silent(2))
