"""The order: permutations that follow from seed and epoch alone, strung together to one stream."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.counter import VERSION
from configs.schema import Augment
from tests.workers import by_hand
from workers.data import order
from workers.data.draws import Draws, draw
from workers.data.order import Order, permutation
from workers.program import Program

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
    assert [Order(0, 1_281_167).substitute(2, 5, attempt) for attempt in range(3)] == [
        554_245,
        144_013,
        1_112_575,
    ]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """Two random permutations of 1,000 rows have one place in common on average, and ten once in a million."""
    orders = [permutation(seed, epoch, 1000) for seed in (0, 1, 2**33) for epoch in (0, 1, 2)]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).sum() < 10


@pytest.mark.parametrize("which", ["seeds", "epochs"])
def test_every_row_comes_first_equally_often(which: str) -> None:
    rows, trials = 20, 1000
    if which == "seeds":
        first = [permutation(seed, 0, rows)[0] for seed in range(trials)]
    else:
        first = [permutation(0, epoch, rows)[0] for epoch in range(trials)]
    expected = trials / rows
    chi_square = ((np.bincount(first, minlength=rows) - expected) ** 2 / expected).sum()
    # 19 degrees of freedom: above 43.8 once in a thousand, and the orders are the same each time.
    assert chi_square < 43.8


def test_stream_goes_over_the_edges_of_epochs() -> None:
    seed, rows = 7, 5
    found = Order(seed, rows).at(np.arange(3, 13))
    assert found[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert found[1].tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1, 2]
    orders = [by_hand.order(seed, epoch, rows) for epoch in range(3)]
    assert found[2].tolist() == [*orders[0][3:], *orders[1], *orders[2][:3]]


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 200))
def test_exactly_once_per_epoch_for_any_batch_and_from_any_sample_on(rows: int, batch: int, start: int) -> None:
    """Batches may be larger than the data set; a run that goes on in the middle sees what it would have seen."""
    whole = [row for epoch in range(10) for row in by_hand.order(3, epoch, rows)]
    stream, found = Order(3, rows), []
    start = start % (3 * rows)
    for first in range(start, start + 3 * rows, batch):
        found += stream.at(np.arange(first, first + batch))[2].tolist()
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

    def counted(seed: int, epoch: int, rows: int) -> order.I32:
        made.append(epoch)
        return permutation(seed, epoch, rows)

    monkeypatch.setattr(order, "permutation", counted)
    stream = Order(0, 10)
    for start in range(0, 100, 4):
        stream.at(np.arange(start, start + 4))
        assert len(stream._permutations) <= 2
    assert made == list(range(10))


def program(*, replicas: int, replica: int, each: int, rows: int, steps: int) -> Program:
    return Program(
        batch_size=replicas * each,
        test_batch_size=7,
        replicas=replicas,
        replica=replica,
        train_rows=rows,
        validation_rows=1,
        total_steps=steps,
        evaluation_every=None,
    )


@given(
    seeds, st.integers(2, 80), st.sampled_from([(12, 1), (6, 2), (4, 3), (3, 4), (2, 6), (1, 12)]), st.integers(0, 30)
)
def test_replicas_are_disjoint_and_make_the_same_batches_together(
    seed: int, rows: int, split: tuple[int, int], step: int
) -> None:
    """A batch of 12 images, however many replicas share it, from any step on: the same images, at the same places."""
    each, replicas = split
    wanted = []
    for replica in range(replicas):
        items = program(replicas=replicas, replica=replica, each=each, rows=rows, steps=step + 5)
        requests = [item.request for item in items.items(step=step, evaluated=True)]
        wanted.append([range(r.start, r.start + r.count) for r in requests if r.split == "train"])
    for number, parts in enumerate(zip(*wanted, strict=True)):
        samples = [sample for part in parts for sample in part]
        first = (step + number) * 12
        assert samples == list(range(first, first + 12)), "each image once, in the order of the replicas"
        # Whoever is asked: an `Order` of its own for each, as each data worker has.
        found = [row for part in parts for row in Order(seed, rows).at(np.array(part))[2].tolist()]
        assert found == Order(seed, rows).at(np.arange(first, first + 12))[2].tolist()


def test_resuming_at_any_sample_gives_what_would_have_come() -> None:
    """At 1,000 points of four epochs: rows and draws, bitwise, from an order that knows nothing."""
    seed, rows, batch = 11, 5000, 128
    settings = Augment(crop_shared_by=32)

    def drawn(stream: Order, start: int) -> tuple[np.ndarray, Draws]:
        epochs, positions, found = stream.at(np.arange(start, start + batch))
        made = draw(
            settings, seed=seed, epochs=epochs, positions=positions, offsets_per_axis=33, colour_basis=np.eye(3)
        )
        return found, made

    whole = Order(seed, rows)
    epochs, positions, everything = whole.at(np.arange(4 * rows))
    all_draws = draw(
        settings, seed=seed, epochs=epochs, positions=positions, offsets_per_axis=33, colour_basis=np.eye(3)
    )
    for start in np.random.default_rng(0).integers(0, 4 * rows - batch, 1000).tolist():
        found, made = drawn(Order(seed, rows), start)
        here = slice(start, start + batch)
        assert np.array_equal(found, everything[here])
        for name in ("offsets", "mirror", "colour", "noisy", "keys"):
            assert np.array_equal(getattr(made, name), getattr(all_draws, name)[here]), (start, name)


def class_entropies(order: np.ndarray, *, classes: int, batch: int) -> np.ndarray:
    """Entropy of the labels of each batch, in bits, where the rows are sorted by class."""
    labels = order[: len(order) // batch * batch].reshape(-1, batch).astype(np.int64) * classes // len(order)
    entropies = []
    for batch_labels in labels:
        shares = np.bincount(batch_labels, minlength=classes) / batch
        entropies.append(-sum(share * math.log2(share) for share in shares[shares > 0]))
    return np.array(entropies)


def test_batches_of_a_set_sorted_by_class_are_as_mixed_as_a_true_shuffle_s() -> None:
    """Shards hold the images of a class side by side; a shuffle within a buffer would leave batches of a few classes."""
    rows, classes, batch, epochs = 12_800, 100, 128, 5
    ours = np.concatenate(
        [class_entropies(permutation(0, epoch, rows), classes=classes, batch=batch) for epoch in range(epochs)]
    )
    generator = np.random.default_rng(0)
    true = np.concatenate(
        [class_entropies(generator.permutation(rows), classes=classes, batch=batch) for _ in range(epochs)]
    )
    # Two means of 500 entropies each, with these deviations: apart by five times the error of their difference or less.
    error = math.sqrt((ours.var() + true.var()) / len(ours))
    assert error < 0.01
    assert abs(ours.mean() - true.mean()) < 5 * error
    assert 0.8 < ours.std() / true.std() < 1.25
    # Kolmogorov and Smirnov: two samples of 500 differ by more than 0.123 once in a thousand.
    grid = np.sort(np.concatenate([ours, true]))
    apart = np.abs(
        np.searchsorted(np.sort(ours), grid, "right") - np.searchsorted(np.sort(true), grid, "right")
    ).max() / len(ours)
    assert apart < 0.123
    # What it would look like: a buffer of ten batches' images.
    buffered = np.concatenate([generator.permutation(1280) + start for start in range(0, rows, 1280)])
    assert class_entropies(buffered, classes=classes, batch=batch).mean() < true.mean() - 100 * error


def test_the_same_order_every_epoch_is_the_first_ones() -> None:
    stream = Order(3, 10, same=True)
    epochs, positions, rows = stream.at(np.arange(7, 25))
    first = permutation(3, 0, 10)
    assert epochs.tolist() == [0] * 3 + [1] * 10 + [2] * 5
    assert rows.tolist() == first[positions].tolist()
    # Draws still differ from epoch to epoch, so a stand-in does too.
    assert stream.substitute(0, 4, 0) == Order(3, 10).substitute(0, 4, 0)
