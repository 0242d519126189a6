"""What all drawn curves share: size of letters, colours, a legend that finds room, and the way to a PNG."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.report.words import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.4
"""Inches. Narrow, so that letters can still be read where a page of this width is shown on a telephone."""
DOTS_PER_INCH = 160
LETTERS = 12
DISTINCT = (
    "#1f5fa8",
    "#d1495b",
    "#2e8b57",
    "#e08a00",
    "#7b4fa3",
    "#11808c",
    "#8c564b",
    "#c2559a",
    "#6b6b6b",
    "#9aa000",
)
DASHES = ("-", "--", ":", "-.")
LONGEST = 24
"""Letters of a name in a legend."""


def new_figure(height: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    return Figure((WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")


def style(number: int) -> dict[str, Any]:
    """Of the curve with this number: ten colours, then the same ones dashed otherwise."""
    return {
        "color": DISTINCT[number % len(DISTINCT)],
        "linestyle": DASHES[number // len(DISTINCT) % len(DASHES)],
    }


def prepare(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=LETTERS)
    axes.set_ylabel(y, fontsize=LETTERS)
    axes.tick_params(labelsize=LETTERS - 1)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend_height(names: Sequence[str]) -> float:
    """Inches that `add_legend` needs below the axes."""
    return 0.1 + 0.25 * -(-len(names) // _per_row(names)) if names else 0.0


def add_legend(figure: "Figure", handles: Sequence[Any], names: Sequence[str]) -> None:
    if names:
        shown = [plain(_cut(name)) for name in names]
        figure.legend(
            handles, shown, loc="outside lower center", ncols=_per_row(names), fontsize=LETTERS - 1, frameon=False
        )


def _per_row(names: Sequence[str]) -> int:
    longest = max(len(_cut(name)) for name in names)
    return max(1, min(len(names), 60 // (longest + 5)))


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def as_png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
