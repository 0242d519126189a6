"""Errors by class: the worst and the best as a table, and which class is taken for which as a picture."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.console import print_table
from cluster.paths import check_file
from cluster.report.letters import drawable
from configs.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN = 10
"""Classes in each of the two tables."""
MOST_NAMED = 60
"""Classes whose names a picture has room for."""
DOTS_PER_INCH = 100


def class_tables(names: Sequence[str], classes: list[dict[str, Any]]) -> None:
    """Print the classes with the largest and the smallest top-1 errors. classes: of each, what `Tally.by_class` says."""
    order = sorted(
        (number for number, found in enumerate(classes) if found["images"]),
        key=lambda number: (-classes[number]["top1_error"], -classes[number]["top5_error"], number),
    )
    if len(order) <= 2 * SHOWN:
        _table("classes, worst first", names, classes, order)
        return
    _table(f"the {SHOWN} worst of {len(order):,} classes", names, classes, order[:SHOWN])
    _table(f"the {SHOWN} best, best first", names, classes, order[: -SHOWN - 1 : -1])


def _table(title: str, names: Sequence[str], classes: list[dict[str, Any]], shown: list[int]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for heading in ("class", "images", "top-1 error", "top-5 error", "most often taken for"):
        table.add_column(heading, justify="left" if heading in ("class", "most often taken for") else "right")
    for number in shown:
        found = classes[number]
        other = found["most_taken_for"]
        table.add_row(
            Text(names[number]),
            f"{found['images']:,}",
            f"{found['top1_error']:.1%}",
            f"{found['top5_error']:.1%}",
            Text("" if other is None else f"{names[other[0]]} ({other[1]:,})"),
        )
    print_table(table)


def check_picture(path: Path) -> None:
    """Raises UserError if a PNG cannot go there; before anything long."""
    if path.suffix != ".png":
        raise UserError(f"--confusion {path} must end in .png")
    check_file(path, "--confusion")


def draw_confusion(names: Sequence[str], taken_CC: "NDArray[np.int64]", path: Path) -> None:
    """Draw how often the row's class is taken for the column's, as shares of each row, into a PNG.

    taken_CC: images, [classes, classes]. Raises UserError if the file cannot be written.
    """
    import numpy as np
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    classes = len(names)
    shares = taken_CC / np.maximum(taken_CC.sum(axis=1, keepdims=True), 1)
    # At least a dot for every class: a single bright one is what is looked for.
    side = max(6.0, 1.15 * classes / DOTS_PER_INCH)
    labels = classes <= MOST_NAMED
    margin = 3.0 if labels else 1.0
    figure = Figure((side + margin + 1.0, side + margin), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    # Square roots, for most shares beside the diagonal are small.
    image = axes.imshow(np.sqrt(shares), cmap="magma", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xlabel("taken for")
    axes.set_ylabel("true class")
    if labels:
        shown = drawable(names)
        axes.set_xticks(range(classes), [_short(name) for name in shown], rotation=90, fontsize=7)
        axes.set_yticks(range(classes), [_short(name) for name in shown], fontsize=7)
        for name, instead in zip(names, shown, strict=True):
            if name != instead:
                print(f"note: {instead} in {path} is {name}; no font here has its letters", file=sys.stderr)
    ticks = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    bar = figure.colorbar(image, ax=axes, ticks=[tick**0.5 for tick in ticks], shrink=0.8)
    bar.ax.set_yticklabels([f"{tick:.0%}" for tick in ticks])
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"--confusion {path} cannot be written: {error.strerror}") from None


def _short(name: str) -> str:
    # A dollar sign would begin a formula.
    return (name if len(name) <= 30 else f"{name[:29]}…").replace("$", r"\$")
