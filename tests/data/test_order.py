"""The order: permutations that follow from seed and epoch alone, strung together to one stream."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.counter import VERSION
from tests.workers import by_hand
from workers.data import order
from workers.data.order import Order, permutation

seeds = st.integers(0, 2**40)
epochs = st.integers(0, 200)


@given(seeds, epochs, st.integers(1, 60))
def test_every_epoch_is_a_permutation_by_hash(seed: int, epoch: int, rows: int) -> None:
    found = permutation(seed, epoch, rows).tolist()
    assert sorted(found) == list(range(rows))
    assert found == by_hand.order(seed, epoch, rows)


def test_known_answers() -> None:
    """Of the project's version 1. If they change, runs do not repeat, and alexnet.counter.VERSION must rise."""
    assert VERSION == 1
    assert permutation(0, 0, 8).tolist() == [2, 5, 7, 4, 6, 0, 1, 3]
    assert permutation(0, 1, 8).tolist() == [0, 4, 6, 1, 5, 7, 2, 3]
    assert permutation(145, 90, 8).tolist() == [6, 5, 2, 3, 7, 4, 1, 0]
    # Of an epoch of ImageNet's size.
    assert permutation(0, 0, 1_281_167)[[0, 1, 640_583, 1_281_166]].tolist() == [111_539, 1_195_116, 905_683, 384_008]
    stand_ins = [Order(0, 1_281_167).substitute(2, 5, attempt) for attempt in range(3)]
    assert stand_ins == [554_245, 144_013, 1_112_575]


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 200))
def test_exactly_once_per_epoch_for_any_batch_and_from_any_sample_on(rows: int, batch: int, start: int) -> None:
    """Batches may be larger than the data set; a run that goes on in the middle sees what it would have seen."""
    whole = [row for epoch in range(10) for row in by_hand.order(3, epoch, rows)]
    stream, found = Order(3, rows), []
    start = start % (3 * rows)
    for first in range(start, start + 3 * rows, batch):
        samples = np.arange(first, first + batch)
        epochs, positions, drawn = stream.at(samples)
        assert (epochs * rows + positions).tolist() == samples.tolist() and (positions < rows).all()
        found += drawn.tolist()
    assert found[: 3 * rows] == whole[start : start + 3 * rows]
    assert found[-start % rows :][:rows] == by_hand.order(3, -(-start // rows), rows)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20))
def test_requests_may_come_in_any_order(samples: list[int]) -> None:
    """As when several data workers share the requests, or a repeated one comes late."""
    one = Order(1, 7)
    found = [one.at(np.array([sample]))[2][0] for sample in samples]
    assert found == [by_hand.order(1, sample // 7, 7)[sample % 7] for sample in samples]
    assert Order(1, 7).at(np.array(samples))[2].tolist() == found


def test_each_epoch_is_sorted_once_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet's order takes 10 MB and a tenth of a second; 90 of them, or one per batch, would be felt."""
    made: list[int] = []
    held: list[weakref.ref[np.ndarray]] = []

    def counted(seed: int, epoch: int, rows: int) -> order.I32:
        one = permutation(seed, epoch, rows)
        made.append(epoch)
        held.append(weakref.ref(one))
        return one

    monkeypatch.setattr(order, "permutation", counted)
    stream = Order(0, 10)
    for start in range(0, 100, 4):
        stream.at(np.arange(start, start + 4))
        stream.at(np.arange(max(start - 4, 0), start))  # the one before, late
        assert sum(one() is not None for one in held) <= 2
    assert made == list(range(10))


def test_the_same_order_every_epoch_is_the_first_ones() -> None:
    stream = Order(3, 10, same=True)
    epochs, positions, rows = stream.at(np.arange(7, 25))
    first = permutation(3, 0, 10)
    assert epochs.tolist() == [0] * 3 + [1] * 10 + [2] * 5
    assert rows.tolist() == first[positions].tolist()
    # Draws still differ from epoch to epoch, so a stand-in does too.
    assert stream.substitute(0, 4, 0) == Order(3, 10).substitute(0, 4, 0)
