"""The code of training against the plain reference: one process, two column processes, two replicas of two columns.

Of made-up networks, and of every built-in one in the small. float64 throughout. What is compared and why to 1e-12: see
`tests.parity.cases`.
"""

from functools import cache

import pytest
import torch

from alexnet.network import AlexNet
from configs.geometry import layers
from configs.loader import built_in
from tests.alexnet.test_network import Silent
from tests.parity.cases import CASES, IMAGES, Case, Tree
from tests.parity.running import assert_same, joined, run, run_reference, run_replicas, share_columns
from tests.parity.variants import SPLIT, VARIANTS
from tests.ranks import run_ranks

ALL: dict[str, Case] = CASES | VARIANTS
IN_COLUMNS: dict[str, Case] = CASES | SPLIT


@cache
def expected(name: str) -> Tree:
    return run_reference(ALL[name])


@pytest.fixture(scope="module")
def two_columns(device: str) -> list[dict[str, tuple[Tree, int]]]:
    """All cases in one pair of processes, because starting them takes longer than running them."""
    return run_ranks(share_columns, 2, IN_COLUMNS, device, device=device)


@pytest.mark.parametrize("name", ALL)
def test_whole_network_in_one_process(name: str, device: str) -> None:
    assert_same(run(ALL[name], device=device), expected(name))


@pytest.mark.parametrize("name", IN_COLUMNS)
def test_two_processes_share_the_columns(name: str, two_columns: list[dict[str, tuple[Tree, int]]]) -> None:
    assert_same(joined([rank[name][0] for rank in two_columns]), expected(name))


@pytest.mark.parametrize("name", ["original in the small", "no_exchange"])
def test_floats_sent_are_those_of_the_layer_table(name: str, two_columns: list[dict[str, tuple[Tree, int]]]) -> None:
    """Per image, the layers' exchanges once forward and once backward, 3 numbers for the loss and 2 for the rank.

    Besides the updates there are two forward passes without a loss, and a test.
    """
    case = IN_COLUMNS[name]
    exchanged = sum(layer.exchanged_floats for layer in layers(case.network))
    if name == "no_exchange":
        assert exchanged == case.network.denses["fc7"].units // 2, "before the classifier only"
    per_image = case.updates * (2 * exchanged + 5) + 2 * exchanged + exchanged + 5
    assert [rank[name][1] for rank in two_columns] == [IMAGES * per_image] * 2


def test_a_batch_in_parts_is_the_same_batch(device: str) -> None:
    """What a replica does for others that are missing."""
    assert_same(run(CASES["complete"], parts=2, device=device), expected("complete"))


def test_two_replicas_of_two_columns_with_half_the_batch_each(device: str) -> None:
    ranks = run_ranks(run_replicas, 4, "as trained", 1, device, device=device)
    first, second = joined(ranks[:2]), joined(ranks[2:])
    whole: Tree = {}
    for name, tensor in first.items():
        if name.endswith("logits"):
            whole[name] = torch.cat([tensor, second[name]])
        elif name.endswith("sums"):
            whole[name] = tensor + second[name]
        else:
            # Adding two numbers does not depend on their order, so two replicas stay equal bit by bit.
            assert torch.equal(tensor, second[name]), f"the replicas drifted apart: {name}"
            whole[name] = tensor
    assert_same(whole, expected("as trained"))


def test_comparison_notices_a_difference_in_one_number() -> None:
    wrong = {name: tensor.clone() for name, tensor in expected("complete").items()}
    wrong["conv3 weights value"].view(-1)[7] *= 1 + 1e-6
    with pytest.raises(AssertionError, match="conv3 weights value"):
        assert_same(wrong, expected("complete"))


def test_which_networks_are_compared() -> None:
    """Every config that differs in its network or its decay; the others repeat one of these."""
    assert len(built_in()) > len(VARIANTS) == 24
    assert set(VARIANTS) - set(SPLIT) == {
        "one_gpu", "caffe", "cifar10_13pct", "cifar10_11pct", "figure1_relu", "figure1_tanh", "figure1_small",
    }  # fmt: skip


def test_a_norm_over_all_maps_takes_all_columns_in_one_process() -> None:
    with pytest.raises(AssertionError, match="nobody sends this norm its maps"):
        AlexNet(VARIANTS["caffe"].network, columns=1, exchange=Silent(2))
