"""Errors from probabilities: compared with counts by hand, in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from alexnet.tally import Tally, weighted_mean

CLASSES, IMAGES = 7, 60


def probabilities(seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 1, (IMAGES, CLASSES))
    exponentials: np.ndarray = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


LABELS = np.random.default_rng(9).integers(0, CLASSES - 1, IMAGES)  # the last class has no images


def tally(values: np.ndarray, batch: int = 13) -> Tally:
    found = Tally(CLASSES, torch.device("cpu"), pairs=True)
    for start in range(0, IMAGES, batch):
        some = slice(start, start + batch)
        found.add(torch.from_numpy(values[some]), torch.from_numpy(LABELS[some]))
    return found


def test_errors_and_loss() -> None:
    values = probabilities(0)
    order = np.argsort(-values, axis=1)
    found = tally(values).errors()
    assert found["images"] == IMAGES
    assert found["top1_error"] == pytest.approx((order[:, 0] != LABELS).mean(), abs=1e-15)
    assert found["top5_error"] == pytest.approx((order[:, :5] != LABELS[:, None]).all(axis=1).mean(), abs=1e-15)
    assert 0 < found["top5_error"] < found["top1_error"] < 1
    assert found["loss"] == pytest.approx(-np.log(values[np.arange(IMAGES), LABELS]).mean(), rel=1e-12)
    assert found["mean_log_probability"] == -found["loss"]


def test_by_class_and_what_is_taken_for_what() -> None:
    values = probabilities(1)
    order = np.argsort(-values, axis=1)
    found = tally(values)
    taken = np.zeros((CLASSES, CLASSES), int)
    for label, guess in zip(LABELS, order[:, 0], strict=True):
        taken[label, guess] += 1
    classes = found.by_class()
    assert found.taken_CC is not None and (found.taken_CC.numpy() == taken).all()
    for number in range(CLASSES - 1):
        mine = order[number == LABELS]
        assert classes[number]["images"] == len(mine)
        assert classes[number]["top1_error"] == pytest.approx((mine[:, 0] != number).mean(), abs=1e-15)
        assert classes[number]["top5_error"] == pytest.approx((mine[:, :5] != number).all(axis=1).mean(), abs=1e-15)
        other, count = classes[number]["most_taken_for"]
        wrong = np.bincount(mine[:, 0], minlength=CLASSES)
        wrong[number] = 0
        assert count == wrong.max() == wrong[other] > 0
    assert classes[-1] == {"images": 0, "top1_error": None, "top5_error": None, "most_taken_for": None}


def test_a_network_that_says_the_same_of_all_classes_is_right_about_the_first_alone() -> None:
    found = tally(np.full((IMAGES, CLASSES), 1 / CLASSES))
    assert [one["top1_error"] for one in found.by_class()[:-1]] == [0.0, *[1.0] * (CLASSES - 2)]
    assert found.errors()["loss"] == pytest.approx(np.log(CLASSES), rel=1e-12)
    assert tally(np.full((IMAGES, CLASSES), np.nan)).errors()["top5_error"] == 1.0


def test_the_matrix_of_pairs_is_there_once_and_only_where_it_is_asked_for() -> None:
    values, labels = torch.from_numpy(probabilities(2)), torch.from_numpy(LABELS)
    plain, full = Tally(CLASSES, torch.device("cpu")), Tally(CLASSES, torch.device("cpu"), pairs=True)
    assert plain.taken_CC is None and full.taken_CC is not None
    place, largest = full.taken_CC.data_ptr(), 0

    class Largest(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.data_ptr() != place:
                largest = max(largest, out.numel() * out.element_size())
            return out

    # One image, so that nothing else is as large.
    with Largest():
        full.add(values[:1], labels[:1])
    assert 0 < largest < full.taken_CC.untyped_storage().nbytes()
    plain.add(values, labels)
    full.add(values[1:], labels[1:])
    assert plain.errors()["top1_error"] == full.errors()["top1_error"]
    assert full.taken_CC.data_ptr() == place and int(full.taken_CC.sum()) == IMAGES


def test_weighted_mean() -> None:
    members = [torch.from_numpy(probabilities(seed)) for seed in range(3)]
    found = weighted_mean(members, [1, 1, 2])
    expected = (members[0] + members[1] + 2 * members[2]) / 4
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)
    assert torch.equal(weighted_mean([members[0]] * 2, [1.0, 1.0]), members[0])
    assert torch.equal(weighted_mean(members, [0.0, 5.0, 0.0]), members[1])
