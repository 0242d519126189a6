"""Figure 3: where each kernel stands, what its pixels are, and how colourful it is said to be."""

import numpy as np
import pytest

from cluster.report.colour import UNTRAINED, by_column, chance, colour_shares, in_words
from cluster.report.kernels import KernelSheet, as_colours, draw_kernels, first_layer
from configs.loader import load


def kernels(count: int, side: int = 5) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize(("count", "columns", "side"), [(96, 2, 11), (32, 2, 5), (48, 1, 11), (12, 4, 3), (2, 2, 11)])
def test_every_kernel_stands_where_its_column_is(count: int, columns: int, side: int) -> None:
    weights = kernels(count, side)
    drawn = draw_kernels(weights, columns)
    sheet = KernelSheet(count, columns, side)
    colours = as_colours(weights)
    for number in range(count):
        y, x = sheet.corner(number)
        patch = drawn[y : y + sheet.zoom * side : sheet.zoom, x : x + sheet.zoom * side : sheet.zoom]
        np.testing.assert_array_equal(patch, colours[number])
        # White all around it.
        assert (drawn[y - 1, x : x + sheet.zoom * side] == 255).all()
        assert (drawn[y : y + sheet.zoom * side, x - 1] == 255).all()
    own = count // columns
    for column in range(1, columns):
        above = max(sheet.corner(number)[0] for number in range((column - 1) * own, column * own))
        below = min(sheet.corner(number)[0] for number in range(column * own, (column + 1) * own))
        assert below > above + sheet.zoom * side + 20, "columns are told apart by a gap with a name in it"
    if (count, columns) == (96, 2):
        # Column 0 is above column 1, and kernels follow each other.
        corners = [sheet.corner(number) for number in range(96)]
        assert corners[0][0] == corners[15][0] < corners[16][0] < corners[32][0] < corners[48][0]
        assert corners[0][1] == corners[16][1] == corners[48][1] < corners[1][1]


def test_each_kernel_is_scaled_to_itself_and_zero_is_grey() -> None:
    weights = np.zeros((3, 3, 2, 2), np.float32)
    weights[0, 0, 0, 0], weights[0, 2, 1, 1] = 1e-4, -0.5e-4
    weights[1] = 7.0
    pixels = as_colours(weights)
    assert pixels[0, 0, 0].tolist() == [255, 128, 128]
    assert pixels[0, 1, 1].tolist() == [128, 128, 64]
    assert (pixels[1] == 255).all()
    assert (pixels[2] == 128).all()


def test_grey_has_no_colour_and_opposites_have_nothing_else() -> None:
    pattern = np.random.default_rng(1).standard_normal((7, 7))
    grey = np.stack([pattern] * 3)
    opposite = np.stack([pattern, -pattern, 0 * pattern])
    red = np.stack([pattern, 0 * pattern, 0 * pattern])
    uniform = np.stack([np.ones((7, 7)), -0.5 * np.ones((7, 7)), -0.5 * np.ones((7, 7))])
    shares = colour_shares(np.stack([grey, opposite, red, uniform, 5 * red, 0 * red]))
    np.testing.assert_allclose(shares[:5], [0, 1, 2 / 3, 1, 2 / 3], atol=1e-12)
    assert np.isnan(shares[5])
    # Random ones measure two thirds.
    assert colour_shares(kernels(2000)).mean() == pytest.approx(UNTRAINED, abs=0.01)
    with pytest.raises(ValueError, match="three colours"):
        colour_shares(np.zeros((4, 1, 5, 5)))


def test_columns_that_specialise_are_told_from_chance() -> None:
    generator = np.random.default_rng(2)
    grey, coloured = 0.1 * generator.random(48), 0.6 + 0.3 * generator.random(48)
    apart = np.concatenate([grey, coloured])
    first, second = by_column(apart, 2)
    assert first.above == 0 and second.above == 1
    assert first.mean == pytest.approx(grey.mean()) and second.mean == pytest.approx(coloured.mean())
    assert chance(apart, 2) == 0
    assert "Column 1's kernels" in in_words([first, second], chance(apart, 2))
    assert "hardly chance" in in_words([first, second], chance(apart, 2))
    mixed = generator.permutation(apart)
    by_chance = chance(mixed, 2)
    assert by_chance is not None and by_chance > 0.05
    assert chance(apart, 1) is None
    # Of four kernels in two columns there are 6 deals, 2 of which differ as much as the best.
    assert chance(np.array([0.0, 0.1, 0.8, 0.9]), 2) == pytest.approx(2 / 6, abs=0.02)


def test_networks_without_first_kernels_have_none() -> None:
    assert first_layer(load("original.yaml").network) == "conv1"
    assert first_layer(load("original.yaml", ["network.convs.conv1.local=true"]).network) is None
