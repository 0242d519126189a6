"""The counter hash: known answers, and no visible pattern in what is drawn from it. Nothing here is random: it passes or fails
for good."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from alexnet import counter
from tests.workers import by_hand

DRAWS = 200_000


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    """uint64 products wrap on purpose; that must not fill anybody's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_known_answers() -> None:
    """The first outputs of SplitMix64 from the seeds 0 and 1234567, as published with it and on Rosetta Code."""
    for seed, outputs in (
        (0, (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)),
        (1234567, (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)),
    ):
        states = np.array([(seed + (i + 1) * counter.GOLDEN) % 2**64 for i in range(len(outputs))], np.uint64)
        assert counter.mix(states).tolist() == list(outputs)


def test_keys_chain_the_names_and_normals_follow_from_them() -> None:
    """Written down in this project's version 1: a change means that runs do not repeat, and VERSION must rise."""
    assert counter.VERSION == 1
    assert counter.keys(0).tolist() == [0xE220A8397B1DCDAF]
    assert counter.keys(3, 1, 4).tolist() == [by_hand.key(3, 1, 4)]
    # Logarithm and cosine may differ in the last bit from one C library to the next.
    assert counter.normals(np.arange(2, dtype=np.uint64)).tolist() == pytest.approx([0.929177227649, 0.406043693542])


def test_keys_broadcast_and_depend_on_each_name_and_the_order() -> None:
    grid = counter.keys(7, np.arange(3)[:, None], np.arange(4)[None, :])
    assert grid.shape == (3, 4)
    assert all(grid[i, j] == counter.keys(7, i, j)[0] for i in range(3) for j in range(4))
    assert len(np.unique(grid)) == 12
    different = [counter.keys(*names)[0] for names in [(1, 2), (2, 1), (1, 2, 0), (1,), (0, 1, 2), (1, 3), (2**63, 1)]]
    assert len(set(different)) == len(different)


def chi_square(cells: np.ndarray, count: int) -> float:
    """In standard deviations from what is expected of even cells."""
    observed = np.bincount(cells, minlength=count)
    expected = len(cells) / count
    return float((((observed - expected) ** 2 / expected).sum() - (count - 1)) / np.sqrt(2 * (count - 1)))


def test_uniforms_are_even_singly_and_in_pairs() -> None:
    u = counter.uniforms(counter.keys(1, 2, np.arange(DRAWS)))
    assert abs(chi_square((u * 256).astype(int), 256)) < 5
    assert abs(chi_square((u[:-1] * 16).astype(int) * 16 + (u[1:] * 16).astype(int), 256)) < 5
    other = counter.uniforms(counter.keys(2, 2, np.arange(DRAWS)))
    assert abs(np.corrcoef(u, other)[0, 1]) < 5 / np.sqrt(DRAWS)


def test_uniforms_stay_above_zero_and_at_most_one_and_integers_in_their_range() -> None:
    ends = np.array([0, 2**64 - 1], np.uint64)
    low, high = counter.uniforms(ends)
    assert 0 < low < 1e-15 and 1 - 1e-15 < high <= 1
    assert np.isfinite(np.log(counter.uniforms(ends))).all()
    assert counter.integers(ends, 2**31).tolist() == [0, 2**31 - 1]


@pytest.mark.parametrize("below", [1, 2, 7, 33, 1000])
def test_integers_are_even(below: int) -> None:
    drawn = counter.integers(counter.keys(3, np.arange(DRAWS)), below)
    assert drawn.min() == 0 and drawn.max() == below - 1
    if below > 1:
        assert abs(chi_square(drawn, below)) < 5


def test_normals_have_the_moments_of_a_normal_distribution() -> None:
    z = counter.normals(counter.keys(4, np.arange(DRAWS)))
    # Mean of z^n over independent draws: standard deviations 1, sqrt(2), sqrt(15), sqrt(96) over sqrt(DRAWS).
    for power, expected, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((z**power).mean() - expected) < 5 * deviation / np.sqrt(DRAWS), power
    for limit, beyond in ((1, 0.317311), (2, 0.045500), (3, 0.002700)):
        share = (abs(z) > limit).mean()
        assert abs(share - beyond) < 5 * np.sqrt(beyond * (1 - beyond) / DRAWS), limit
