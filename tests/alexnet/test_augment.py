"""The arithmetic of augmentation against a numpy loop over images, and the colour basis against the authors' figures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics, colour_basis
from alexnet.layout import channels_last
from configs.loader import load
from configs.schema import Augment, ColourNoise
from tests import reference

B, CROP, SIDE = 6, 5, 9
GENERATOR = np.random.default_rng(0)
MEAN = GENERATOR.uniform(60, 190, (SIDE, SIDE, 3)).astype(np.float32)
IMAGES = GENERATOR.integers(0, 256, (B, CROP, CROP, 3), dtype=np.uint8)
OFFSETS = GENERATOR.integers(0, SIDE - CROP + 1, (B, 2))
MIRROR = np.array([True, False, True, False, True, True])
COLOUR = GENERATOR.normal(0, 12, (B, 3))
NOISY = np.array([True, True, False, False, True, False])

STATISTICS = PixelStatistics(
    mean_SSC=MEAN, eigenvalues=(100.0, 400.0, 2500.0), eigenvectors=((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
)

MEANS: list[Any] = ["centre", "position", "channel"]
ROUNDING = 2e-5
"""The device works in float32: 2**-24 of values up to 255, some three times over."""


def found(settings: Augment, *, double: bool = False, **training: np.ndarray) -> np.ndarray:
    module = Preprocess(settings, STATISTICS, CROP)
    tensors = {name: torch.from_numpy(array) for name, array in training.items()}
    images = (module.double() if double else module)(torch.from_numpy(IMAGES), torch.from_numpy(OFFSETS), **tensors)
    assert images.shape == (B, 3, CROP, CROP)
    assert images.dtype == (torch.float64 if double else torch.float32)
    result: np.ndarray = images.numpy()
    return result


TRAINING: dict[str, Any] = {"mirror_B": MIRROR, "colour_BC": COLOUR, "noisy_B": NOISY}


NOISE = ColourNoise(strength=0.25)


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [
        *((Augment(mean=mean, colour_noise=NOISE), 1.25) for mean in MEANS),
        (Augment(colour_noise=replace(NOISE, rescale=False)), 1.0),
        (Augment(colour_noise=None), 1.0),
        (Augment(pixel_scale=0.5, colour_noise=NOISE), 1.25),
    ],
)
@pytest.mark.parametrize("given", [(), ("mirror_B",), ("mirror_B", "colour_BC"), ("mirror_B", "colour_BC", "noisy_B")])
def test_equals_a_loop_over_images(settings: Augment, divisor: float, given: tuple[str, ...]) -> None:
    """In training and, with nothing given, in testing."""
    training = {name: TRAINING[name] for name in given}
    how: dict[str, Any] = {"mean": settings.mean, "divisor": divisor, "scale": settings.pixel_scale}
    expected = reference.preprocessed(IMAGES, MEAN, OFFSETS, **how, **training)
    np.testing.assert_allclose(found(settings, **training), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("last", [True, False])
def test_maps_lie_in_memory_as_the_images_do(last: bool) -> None:
    layout, model = torch.contiguous_format, torch.nn.Conv2d(3, 8, 3)
    if last:
        layout, model = torch.channels_last, channels_last(model)
    module = Preprocess(Augment(), STATISTICS, CROP, channels_last=last)
    given = module(torch.from_numpy(IMAGES), torch.from_numpy(OFFSETS))
    assert given.is_contiguous(memory_format=layout)
    assert model(given).is_contiguous(memory_format=layout)


def test_double_means_double_throughout() -> None:
    """The parity tests rest on it."""
    expected = reference.preprocessed(IMAGES, MEAN, OFFSETS, mean="centre", divisor=1.1, **TRAINING)
    np.testing.assert_allclose(found(Augment(), double=True, **TRAINING), expected, rtol=0, atol=1e-12)


def test_the_modes_differ_here() -> None:
    """With a flat mean image or offsets in the middle the tests above could not tell them apart."""
    images = [found(Augment(mean=mean), mirror_B=MIRROR) for mean in MEANS]
    assert all(abs(images[i] - images[j]).max() > 1 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_given_images_stay_as_they_are_and_the_result_s_memory_is_used_again() -> None:
    images = torch.from_numpy(IMAGES.copy())
    offsets, colour = torch.from_numpy(OFFSETS.copy()), torch.from_numpy(COLOUR.copy())
    module = Preprocess(Augment(), STATISTICS, CROP)
    first = module(images, offsets, None, colour, torch.from_numpy(NOISY))
    assert {module(images[:n], offsets[:n]).data_ptr() for n in (2, B)} == {first.data_ptr()}
    assert np.array_equal(images.numpy(), IMAGES)
    assert np.array_equal(offsets.numpy(), OFFSETS) and np.array_equal(colour.numpy(), COLOUR)
    assert np.array_equal(module.mean_SSC.numpy(), MEAN)


def test_colour_noise_of_original_is_as_wide_as_the_authors() -> None:
    """Standard deviations along the three principal axes, in levels of 0..255, before the division by 1.1."""
    noise = load("original.yaml").augment.colour_noise
    assert noise is not None
    basis = colour_basis(noise, STATISTICS)
    lengths = np.linalg.norm(basis, axis=0)
    np.testing.assert_allclose(sorted(lengths, reverse=True), [12.18, 3.71, 1.97], atol=0.005)
    directions = basis / lengths
    # Six digits of each component were published.
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=5e-6)
    # The widest one is nearly grey: brightness.
    np.testing.assert_allclose(directions[:, lengths.argmax()], [-0.563510, -0.576184, -0.592003], atol=1e-6)


def test_colour_basis_of_a_data_set() -> None:
    noise = ColourNoise(strength=0.1, statistics="dataset")
    x, y, z = np.eye(3)
    # Eigenvectors are columns: the first, (0, 0, 1), has variance 100, so a deviation of 10.
    np.testing.assert_allclose(colour_basis(noise, STATISTICS), np.stack([1 * z, 2 * x, 5 * y], axis=1))
    # The paper's eigenvalues, for pixels from 0 to 1: 0.1 * 100 / 255**2 of 255 levels.
    literal = colour_basis(replace(noise, scale="eigenvalue"), STATISTICS)
    np.testing.assert_allclose(literal, 0.1 / 255 * np.stack([100 * z, 400 * x, 2500 * y], axis=1))
    # Rounding below zero is taken for zero.
    grey = replace(STATISTICS, eigenvalues=(-1e-9, 0.0, 9.0))
    assert np.isfinite(colour_basis(ColourNoise(), grey)).all()
