"""Draws: functions of (seed, epoch, position) and nothing else, with the distributions that they should have."""

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.colour import AUTHORS_DEVIATIONS, AUTHORS_EIGENVECTORS, PixelStatistics, colour_basis
from alexnet.counter import VERSION
from configs.schema import Augment, ColourNoise
from tests.workers import by_hand
from workers.data.draws import Draws, crop_positions, draw, first_offset

SEED, OFFSETS = 3, 33
BASIS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0], [4.0, 0.0, 1.0]])
SHARED = Augment(crop_shared_by=32, colour_noise=ColourNoise(until_epoch=2))


def drawn(settings: Augment, epochs: Any, positions: Any, *, basis: Any = BASIS) -> Draws:
    epochs, positions = np.broadcast_arrays(np.asarray(epochs, np.int64), np.asarray(positions, np.int64))
    return draw(settings, seed=SEED, epochs=epochs, positions=positions, offsets_per_axis=OFFSETS, colour_basis=basis)


def arrays(draws: Draws) -> dict[str, Any]:
    return {field.name: getattr(draws, field.name) for field in dataclasses.fields(draws)}


def same(one: Draws, other: Draws, rows: Any) -> None:
    """Bitwise."""
    for name, array in arrays(one).items():
        np.testing.assert_array_equal(getattr(other, name), array[rows], err_msg=name)


EPOCHS, POSITIONS = np.repeat([0, 1, 5], 100), np.tile(np.arange(50, 150), 3)


@given(st.lists(st.integers(0, 299), min_size=1))
def test_whatever_rows_are_drawn_together_gives_the_same(rows: list[int]) -> None:
    """Cut into batches anywhere, in any order."""
    same(drawn(SHARED, EPOCHS, POSITIONS), drawn(SHARED, EPOCHS[rows], POSITIONS[rows]), rows)


def test_known_answers() -> None:
    """Of the project's version 1. If they change, runs do not repeat, and alexnet.counter.VERSION must rise."""
    assert VERSION == 1
    at: dict[str, Any] = {"epochs": np.array([0, 0, 1, 90]), "positions": np.array([0, 1, 0, 1281166])}
    found = draw(Augment(), seed=0, **at, offsets_per_axis=33, colour_basis=np.eye(3))
    assert found.offsets.tolist() == [[15, 30], [5, 5], [1, 30], [11, 7]]
    assert found.mirror.tolist() == [False, True, True, False]
    keys = [-3305504535109135618, -7757361481632563140, 7865984421858869351, -2871039029492646203]
    assert found.keys.tolist() == keys
    assert found.colour is not None
    # Logarithm and cosine may differ in the last bit from one C library to the next.
    assert found.colour[0].tolist() == pytest.approx([-1.831015452536027, -0.15040548632596604, 0.602461773033741])


@pytest.mark.parametrize("shared", [1, 5, 32])
def test_crop_and_mirror_follow_the_chunk_and_keys_the_image(shared: int) -> None:
    settings = Augment(crop_shared_by=shared)
    found, straight = drawn(settings, EPOCHS, POSITIONS), drawn(Augment(mirror=False), EPOCHS, POSITIONS)
    assert (found.offsets.dtype, found.mirror.dtype) == (np.int64, np.bool_) and not straight.mirror.any()
    for number, (epoch, position) in enumerate(zip(EPOCHS.tolist(), POSITIONS.tolist(), strict=True)):
        chunk = position // shared
        assert tuple(found.offsets[number]) == by_hand.crop(SEED, epoch, chunk, OFFSETS)
        assert found.mirror[number] == by_hand.mirrored(SEED, epoch, chunk)
        assert int(found.keys[number]) % 2**64 == by_hand.key(SEED, 6, epoch, position)
    assert found.colour is not None and len(np.unique(found.colour, axis=0)) == len(EPOCHS)


def test_crops_in_the_centre() -> None:
    """Where those of testing are, for even and odd rests; mirror, colour and keys stay as they are with random crops."""
    settings, free = Augment(crop="centre", crop_positions=33, mirror=True), Augment(mirror=True)
    for size, crop, centre in ((256, 224, 16), (256, 227, 14), (32, 32, 0), (28, 25, 1)):
        assert (crop_positions(settings, size, crop), first_offset(settings, size, crop)) == (1, centre)
        assert first_offset(free, size, crop) == 0
    with pytest.raises(ValueError, match="smaller than the crop of 33"):
        crop_positions(settings, 32, 33)
    given: dict[str, Any] = {"seed": SEED, "epochs": EPOCHS, "positions": POSITIONS, "colour_basis": BASIS}
    found = draw(settings, offsets_per_axis=1, first=16, **given)
    assert (found.offsets == 16).all() and found.offsets.shape == (len(EPOCHS), 2)
    other = draw(free, offsets_per_axis=33, **given)
    for name in ("mirror", "colour", "keys"):
        np.testing.assert_array_equal(arrays(found)[name], arrays(other)[name])


@pytest.mark.parametrize("scale", ["standard_deviation", "eigenvalue"])
@pytest.mark.parametrize("statistics", ["dataset", "authors"])
def test_colour_noise_along_the_principal_components(
    scale: Literal["standard_deviation", "eigenvalue"], statistics: Literal["dataset", "authors"]
) -> None:
    strength, count = 0.1, 40_000
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    noise = ColourNoise(strength=strength, scale=scale, statistics=statistics)
    found = PixelStatistics(
        mean_SSC=np.zeros((1, 1, 3), np.float32),
        eigenvalues=(4.0, 400.0, 10_000.0),
        eigenvectors=tuple(tuple(row) for row in rotation.tolist()),
    )
    deviations = np.array([2.0, 20.0, 100.0])
    if statistics == "authors":
        rotation, deviations = np.array(AUTHORS_EIGENVECTORS), np.array(AUTHORS_DEVIATIONS)
    # [P 4.1] takes eigenvalues of pixels from 0 to 1, and the offset is wanted for pixels from 0 to 255.
    expected = strength * (deviations if scale == "standard_deviation" else 255 * (deviations / 255) ** 2)
    draws = drawn(Augment(colour_noise=noise), 0, np.arange(count), basis=colour_basis(noise, found))
    assert draws.colour is not None and draws.noisy is not None
    assert draws.colour.dtype == np.float32 and draws.noisy.all()
    components = draws.colour.astype(np.float64) @ rotation / expected
    # Of standard normal numbers: the mean is off by 1 / sqrt(n), the deviation by 1 / sqrt(2 n), a correlation by 1 / sqrt(n).
    assert np.abs(components.mean(axis=0)).max() < 5 / np.sqrt(count)
    assert np.abs(components.std(axis=0) - 1).max() < 5 / np.sqrt(2 * count)
    assert np.abs(np.corrcoef(components.T) - np.eye(3)).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize(("until", "noisy_epochs"), [(None, [0, 1, 2, 3]), (2.0, [0, 1]), (1.5, [0, 1]), (0.5, [0])])
def test_colour_noise_ends(until: float | None, noisy_epochs: list[int]) -> None:
    settings = Augment(colour_noise=ColourNoise(until_epoch=until))
    epochs = np.repeat(np.arange(4), 50)
    found = drawn(settings, epochs, np.tile(np.arange(50), 4))
    assert found.colour is not None and found.noisy is not None
    assert found.noisy.dtype == np.bool_
    np.testing.assert_array_equal(found.noisy, np.isin(epochs, noisy_epochs))
    np.testing.assert_array_equal((found.colour != 0).all(axis=1), found.noisy)
    np.testing.assert_array_equal((found.colour == 0).all(axis=1), ~found.noisy)
    none = drawn(Augment(colour_noise=None), 0, np.arange(4))
    assert none.colour is None and none.noisy is None


def test_crop_positions_and_crops_that_do_not_fit() -> None:
    for wished, size, crop, expected in ((None, 256, 224, 33), (32, 256, 224, 32), (1, 9, 9, 1)):
        assert crop_positions(Augment(crop_positions=wished), size, crop) == expected
    with pytest.raises(ValueError, match=r"stored images are 200x200, smaller than the crop of 224 .*--size"):
        crop_positions(Augment(), 200, 224)
    with pytest.raises(ValueError, match=r"augment.crop_positions = 34, but a crop of 224 has 33 in an image of 256"):
        crop_positions(Augment(crop_positions=34), 256, 224)
