"""How colour-specific the first layer's kernels are, by column: the specialisation of [P 6.1] as a number.

Shape suffixes: O kernels, C the three colours, K positions each way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.report.words import percent

THRESHOLD = 0.5
"""A kernel above it has more energy in colour than in brightness."""
UNTRAINED = 2 / 3
"""Expected of independent random weights: two of three directions are off the grey axis."""
DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class ColumnColour:
    """Of one column's kernels; NaN where it has none that are not zero."""

    kernels: int
    mean: float
    """Of their colour shares."""
    above: float
    """Share of kernels above the threshold."""


def colour_shares(weights_OCKK: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of each kernel's energy that lies off the grey axis, 0..1, [O]; NaN for a kernel of zeros.

    At each position the kernel has a vector of three weights, for red, green and blue. Its part along (1, 1, 1) sees brightness
    alone. The share is 1 - sum of (r + g + b)² / 3 over sum of (r² + g² + b²): 0 if all three are equal everywhere, 1 if they
    add up to 0 everywhere. Raises ValueError unless there are three colours.
    """
    if weights_OCKK.ndim != 4 or weights_OCKK.shape[1] != 3:
        raise ValueError(f"kernels of three colours are wanted, not {list(weights_OCKK.shape)}")
    weights = weights_OCKK.astype(np.float64)
    grey = (weights.sum(axis=1) ** 2).sum(axis=(1, 2)) / 3
    whole = (weights**2).sum(axis=(1, 2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.clip(1 - grey / whole, 0.0, 1.0)  # rounding may lead a hair beyond
    return np.where(whole > 0, shares, np.nan)


def by_column(shares_O: NDArray[np.float64], columns: int) -> list[ColumnColour]:
    """Of each column; kernels are split evenly, in their order."""
    found = []
    for own in np.split(shares_O, columns):
        known = own[~np.isnan(own)]
        found.append(
            ColumnColour(
                kernels=len(own),
                mean=float(known.mean()) if len(known) else float("nan"),
                above=float((known > THRESHOLD).mean()) if len(known) else float("nan"),
            )
        )
    return found


def chance(shares_O: NDArray[np.float64], columns: int, draws: int = DRAWS) -> float | None:
    """How often columns' means differ at least as much if the same kernels are dealt out at random; None of one column.

    The difference is that of the largest and the smallest mean. By `draws` random deals, from a fixed seed.
    """
    known = np.nan_to_num(shares_O, nan=0.0)
    if columns < 2 or not len(known):
        return None

    def spread(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        means = shares.reshape(*shares.shape[:-1], columns, -1).mean(axis=-1)
        difference: NDArray[np.float64] = means.max(axis=-1) - means.min(axis=-1)
        return difference

    generator = np.random.default_rng(0)
    dealt = generator.permuted(np.tile(known, (draws, 1)), axis=1)
    return float((spread(dealt) >= spread(known) - 1e-12).mean())


def in_words(columns: Sequence[ColumnColour], by_chance: float | None) -> str:
    """What the numbers say, in a sentence."""
    if by_chance is None or any(np.isnan(column.mean) for column in columns):
        return "There is one column, so nothing can be said of specialisation." if len(columns) < 2 else ""
    order = sorted(range(len(columns)), key=lambda number: -columns[number].mean)
    most, least = order[0], order[-1]
    told = (
        f"Column {most}'s kernels are the more colour-specific ones ({columns[most].mean:.2f} against "
        f"{columns[least].mean:.2f} in column {least}). "
    )
    often = "less than 0.1 %" if by_chance < 0.001 else percent(by_chance)
    judged = "That is hardly chance" if by_chance < 0.01 else "That may be chance"
    return f"{told}{judged}: the same kernels dealt out to columns at random differ so much in {often} of deals."
