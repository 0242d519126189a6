"""The code of training against the plain reference: one process, two column processes. Replicas and parts: see tests/whole.

float64 throughout. What is compared and why to 1e-12: see `tests.parity.cases`.
"""

from functools import cache

import pytest

from configs.geometry import layers
from tests.parity.cases import CASES, IMAGES, Tree
from tests.parity.running import assert_same, joined, run, run_columns, run_reference
from tests.ranks import run_ranks


@cache
def expected(name: str) -> Tree:
    return run_reference(CASES[name])


@pytest.fixture(scope="module")
def two_columns() -> list[dict[str, tuple[Tree, int]]]:
    """All cases in one pair of processes, because starting them takes longer than running them."""
    return run_ranks(run_columns, 2, list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_whole_network_in_one_process(name: str) -> None:
    assert_same(run(CASES[name]), expected(name))


@pytest.mark.parametrize("name", CASES)
def test_two_processes_share_the_columns(name: str, two_columns: list[dict[str, tuple[Tree, int]]]) -> None:
    assert_same(joined([rank[name][0] for rank in two_columns]), expected(name))


def test_floats_sent_are_those_of_the_layer_table(two_columns: list[dict[str, tuple[Tree, int]]]) -> None:
    """Per image, the layers' exchanges once forward and once backward, 3 numbers for the loss and 2 for the rank."""
    case = CASES["original in the small"]
    exchanged = sum(layer.exchanged_floats for layer in layers(case.network))
    # Besides the updates there are two forward passes without a loss, and a test.
    per_image = case.updates * (2 * exchanged + 5) + 2 * exchanged + exchanged + 5
    assert [rank["original in the small"][1] for rank in two_columns] == [IMAGES * per_image] * 2


def test_comparison_notices_a_difference_in_one_number() -> None:
    wrong = {name: tensor.clone() for name, tensor in expected("complete").items()}
    wrong["conv3 weights value"].view(-1)[7] *= 1 + 1e-6
    with pytest.raises(AssertionError, match="conv3 weights value"):
        assert_same(wrong, expected("complete"))
