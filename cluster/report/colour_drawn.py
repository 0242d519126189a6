"""The colour shares of kernels as a picture: one falling curve per column."""

import numpy as np
from numpy.typing import NDArray

from cluster.report.colour import THRESHOLD
from cluster.report.drawing import LETTERS, add_legend, as_png, legend_height, new_figure, prepare, style


def draw_colour(shares_O: NDArray[np.float64], columns: int) -> bytes:
    """shares: of kernels in the order of the columns, NaN for kernels of zeros, which are left out."""
    names = [f"column {number}" for number in range(columns)]
    figure = new_figure(3.3 + legend_height(names))
    axes, handles = figure.add_subplot(), []
    for number, own in enumerate(np.split(shares_O, columns)):
        known = np.sort(own[~np.isnan(own)])[::-1]
        handles += axes.plot(
            np.arange(1, len(known) + 1), known, **style(number), linewidth=1.8, marker="o", markersize=4
        )
    axes.axhline(THRESHOLD, color="#444444", linestyle=(0, (5, 4)), linewidth=1)
    axes.set_ylim(0, 1)
    prepare(axes, "kernels, most colourful first", "colour share")
    axes.tick_params(labelsize=LETTERS - 1)
    add_legend(figure, handles, names)
    return as_png(figure)
