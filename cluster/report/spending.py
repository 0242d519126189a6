"""What the time of each run went on: shares of the whole, as numbers and as bars."""

from collections.abc import Sequence

from cluster.report.drawing import LETTERS, add_legend, as_png, legend_height, new_figure
from cluster.report.records import RunRecord
from cluster.report.words import plain
from cluster.totals import WORDS

REST = "starting and all else"
COLOURS = ("#2e8b57", "#e08a00", "#d1495b", "#1f5fa8", "#7b4fa3", "#b8b8b8")
LONGEST = 22


def shares(record: RunRecord) -> dict[str, float]:
    """Of the run's wall time, by what it went on, 0..1; all 0 if the run has not come far enough to say.

    Seconds of training steps are means over the columns; evaluations and checkpoints count as far as training stood still.
    """
    seconds = {words: record.totals.seconds[what] for what, words in WORDS.items()}
    whole = max(record.wall_seconds, sum(seconds.values()))
    if not whole:
        return dict.fromkeys([*seconds, REST], 0.0)
    found = {words: spent / whole for words, spent in seconds.items()}
    return {**found, REST: max(0.0, 1.0 - sum(found.values()))}


def draw_spending(records: Sequence[RunRecord]) -> bytes:
    """One bar per run."""
    from matplotlib.patches import Patch

    parts = [shares(record) for record in records]
    names = list(parts[0])
    figure = new_figure(0.7 + 0.42 * len(records) + legend_height(names))
    axes = figure.add_subplot()
    for place, spent in enumerate(parts):
        left = 0.0
        for name, colour in zip(names, COLOURS, strict=True):
            axes.barh(place, spent[name], left=left, color=colour, height=0.62)
            if spent[name] >= 0.09:
                axes.text(
                    left + spent[name] / 2, place, f"{spent[name]:.0%}", ha="center", va="center", color="white",
                    fontsize=LETTERS - 2,
                )  # fmt: skip
            left += spent[name]
    labels = [record.label if len(record.label) <= LONGEST else f"{record.label[: LONGEST - 1]}…" for record in records]
    axes.set_yticks(range(len(records)), [plain(label) for label in labels], fontsize=LETTERS - 1)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.set_xticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    add_legend(figure, [Patch(color=colour) for colour in COLOURS], names)
    return as_png(figure)
