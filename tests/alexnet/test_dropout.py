"""Dropout masks: bit by bit those of the counter hash in numpy, however they are cut up, and as often silent as asked."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet import counter
from alexnet.dropout import Dropout, keep_mask
from tests import reference

UNSIGNED = counter.keys(0, 3, np.arange(128))
KEYS = torch.from_numpy(UNSIGNED.view(np.int64))


@pytest.mark.parametrize("layer", [0, 5, 6, 40])
@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_equals_numpy_bitwise(layer: int, dropout: float) -> None:
    """Sign bits too: torch has no uint64 arithmetic, and its right shift of a negative number fills with ones."""
    for unsigned in (UNSIGNED, np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)):
        expected = reference.dropout_mask(unsigned, layer, 500, dropout)
        assert 0 < expected.mean() < 1
        found = keep_mask(torch.from_numpy(unsigned.view(np.int64)), layer, 0, 500, dropout)
        assert np.array_equal(found.numpy(), expected)


def test_slices_of_units_and_images_are_slices_of_the_mask() -> None:
    whole = keep_mask(KEYS, 5, 0, 256, 0.5)
    assert torch.equal(keep_mask(KEYS, 5, 128, 128, 0.5), whole[:, 128:])
    assert torch.equal(keep_mask(KEYS[32:64], 5, 0, 256, 0.5), whole[32:64])
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(keep_mask(KEYS[order], 5, 0, 256, 0.5), whole[order])


@pytest.mark.parametrize("dropout", [0.2, 0.5, 0.75])
def test_rate_over_all_and_per_unit_and_image(dropout: float) -> None:
    kept = keep_mask(KEYS, 5, 0, 2048, dropout).double()
    deviation = (dropout * (1 - dropout)) ** 0.5
    assert abs(kept.mean().item() - (1 - dropout)) < 5 * deviation / kept.numel() ** 0.5
    for dim in (0, 1):
        means = kept.mean(dim)
        error = deviation / kept.shape[dim] ** 0.5
        # Of 2048 normal numbers the largest is beyond 5 once in a thousand tries; this is one try, made once for all.
        assert (means - (1 - dropout)).abs().max().item() < 5 * error
        # Too even would be wrong as well: the means must spread as binomial ones do.
        assert abs(means.std().item() / error - 1) < 5 / (2 * len(means)) ** 0.5


def correlation(first: Tensor, second: Tensor) -> float:
    """In standard deviations from 0."""
    agree = (first == second).double().mean().item()
    return (2 * agree - 1) * first.numel() ** 0.5


def test_images_layers_units_and_epochs_are_independent() -> None:
    whole = keep_mask(KEYS, 5, 0, 2048, 0.5)
    other_epoch = torch.from_numpy(counter.keys(0, 4, np.arange(128)).view(np.int64))
    others = [
        keep_mask(KEYS, 6, 0, 2048, 0.5),
        keep_mask(KEYS, 5, 2048, 2048, 0.5),
        keep_mask(other_epoch, 5, 0, 2048, 0.5),
        whole.roll(1, 0),
        whole.roll(1, 1),
    ]
    for first, second in combinations([whole, *others], 2):
        assert abs(correlation(first, second)) < 5


def test_training_does_not_rescale_and_testing_halves() -> None:
    module = Dropout(0.5, layer=5, first_unit=0, units=64)
    features = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    kept = torch.from_numpy(reference.dropout_mask(UNSIGNED, 5, 64, 0.5))
    assert torch.equal(module.train()(features, KEYS), torch.where(kept, features, torch.zeros(())))
    assert torch.equal(module.eval()(features, None), features * 0.5)
    with pytest.raises(ValueError, match="keys_B"):
        module.train()(features, None)
