"""Figure 4 as two PNG files, for slides and papers; the page shows the same images with text that can be read anywhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.report.drawing import as_png
from cluster.report.figure4 import BARS, NEIGHBOURS, Neighbour, Predicted, Query
from cluster.report.letters import drawable
from cluster.report.words import plain, short_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRUE, OTHER = "#ffaaaa", "#aaaaff"
"""Of the bars, as in the authors' shownet.py."""
PER_ROW = 4


def draw_predictions(predicted: Sequence[Predicted], names: Sequence[str]) -> bytes:
    """Two rows of four: the image, its label, and a bar for each of the most probable classes."""
    from matplotlib.figure import Figure

    names = drawable(names)
    rows = -(-len(predicted) // PER_ROW)
    figure = Figure((10, 4.9 * rows), dpi=120, layout="constrained", facecolor="white")
    grid = figure.subplots(2 * rows, PER_ROW, squeeze=False, height_ratios=[2.4, 1.6] * rows)
    for place in range(rows * PER_ROW):
        row, column = divmod(place, PER_ROW)
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        upper.set_axis_off()
        lower.set_axis_off()
        if place >= len(predicted):
            continue
        one = predicted[place]
        _show(upper, one.image_SSC)
        upper.text(
            0.5, -0.03, plain(short_name(names[one.label])), transform=upper.transAxes, ha="center", va="top",
            fontsize=12, fontweight="bold",
        )  # fmt: skip
        for number, (label, probability) in enumerate(one.top):
            lower.barh(number, probability, color=TRUE if label == one.label else OTHER, height=0.85)
            lower.text(0.02, number, plain(short_name(names[label])), va="center", fontsize=11)
        lower.set_xlim(0, 1)
        lower.set_ylim(BARS - 0.4, -0.7)
    return as_png(figure)


def draw_neighbours(queries: Sequence[Query], names: Sequence[str]) -> bytes:
    """One row per query: the image, then its nearest training images."""
    from matplotlib.figure import Figure

    names = drawable(names)
    columns = 1 + NEIGHBOURS
    figure = Figure((10.5, 1.75 * len(queries) + 0.35), dpi=120, layout="constrained", facecolor="white")
    grid = figure.subplots(len(queries), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row, query in enumerate(queries):
        shown: list[Query | Neighbour] = [query, *query.neighbours]
        for column, one in enumerate(shown):
            axes = grid[row, column]
            _show(axes, one.image_SSC)
            axes.text(
                0.5, -0.03, plain(short_name(names[one.label], 18)), transform=axes.transAxes, ha="center", va="top",
                fontsize=9, fontweight="bold" if column == 0 else "normal",
                color="black" if one.label == query.label else "#b03030",
            )  # fmt: skip
    grid[0, 0].set_title("validation", fontsize=11)
    grid[0, 1].set_title("nearest training images, nearest first", fontsize=11, loc="left")
    return as_png(figure)


def _show(axes: Any, image_SSC: "NDArray[np.uint8]") -> None:
    axes.imshow(image_SSC, interpolation="nearest" if image_SSC.shape[0] < 100 else "antialiased")
