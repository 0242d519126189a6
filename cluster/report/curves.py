"""Figure 1 and the other curves over epochs: training and validation error, loss, learning rates, speed."""

from collections.abc import Callable, Sequence
from typing import Any

from cluster.report.drawing import LETTERS, add_legend, as_png, legend_height, new_figure, prepare, style
from cluster.report.groups import Group
from cluster.report.records import RunRecord
from cluster.reproduce.search import epochs_to, smoothed
from workers.reports import TrainReport

GOAL = 0.25
"""The training error that figure 1's dashed line stands at."""
WIDTHS = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Parts of an epoch that reports are averaged over; the largest that leaves `POINTS` points."""
POINTS = 12


def part_of_epoch(epochs: float) -> float:
    """Over which training reports of a run of this length are averaged."""
    return next((width for width in WIDTHS if epochs / width >= POINTS), WIDTHS[-1])


def averaged(reports: Sequence[TrainReport], key: str, width: float) -> list[tuple[float, float]]:
    """(epoch of the last report, mean by images) of the reports of each `width` of an epoch, in order."""
    found: list[tuple[float, float]] = []
    images = total = 0.0
    last = 0.0
    for number, report in enumerate(reports):
        images += report.images
        total += report.images * getattr(report, key)
        ends = number + 1 == len(reports) or _part(reports[number + 1], width) != _part(report, width)
        if ends:
            last = report.epoch
            found.append((last, total / max(images, 1)))
            images = total = 0.0
    return found


def _part(report: TrainReport, width: float) -> int:
    # A report at the very end of a part belongs to it.
    return int(report.epoch / width - 1e-9)


def reached(record: RunRecord, goal: float = GOAL) -> float | None:
    """Epochs until the training error was first at the goal, as `cluster.reproduce figure1` counts them; None if it never was."""
    return epochs_to(smoothed(record.train), goal)


def draw_figure1(groups: Sequence[Group]) -> bytes:
    """Training error over epochs; runs that differ in their seeds alone have one colour."""

    def draw(axes: Any, run: RunRecord, look: dict[str, Any]) -> None:
        _plot(axes, _training(run, "top1_error"), look, linewidth=1.8)

    def finish(axes: Any) -> None:
        axes.axhline(GOAL, color="#444444", linestyle=(0, (5, 4)), linewidth=1)
        axes.annotate(
            "25 %", (1.0, GOAL), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
            ha="right", fontsize=LETTERS - 1, color="#444444",
        )  # fmt: skip
        axes.set_ylim(0, min(1.0, max(0.78, axes.get_ylim()[1])))

    return _drawn(groups, draw, finish, y="training error rate")


def draw_errors(groups: Sequence[Group]) -> bytes:
    """Validation errors, with the training error of the same runs behind them."""

    def draw(axes: Any, run: RunRecord, look: dict[str, Any]) -> None:
        _plot(axes, _training(run, "top1_error"), {**look, "linestyle": "-"}, linewidth=0.8, alpha=0.4)
        for key, thick in (("top1_error", 2.0), ("top5_error", 1.0)):
            points = [(report.epoch, getattr(report, key)) for report in run.tested]
            _plot(axes, points, look, linewidth=thick, marker="o", markersize=2 + thick)

    title = "thick: validation top-1   thin: validation top-5   faint: training"
    return _drawn(
        groups, draw, lambda axes: axes.set_ylim(0, min(1.0, axes.get_ylim()[1])), y="error rate", title=title
    )


def draw_losses(groups: Sequence[Group]) -> bytes:
    """Loss in training, drawn faint, and in validation."""

    def draw(axes: Any, run: RunRecord, look: dict[str, Any]) -> None:
        _plot(axes, _training(run, "loss"), {**look, "linestyle": "-"}, linewidth=0.8, alpha=0.4)
        points = [(report.epoch, report.loss) for report in run.tested]
        _plot(axes, points, look, linewidth=2, marker="o", markersize=4)

    title = "thick: validation   faint: training"
    return _drawn(groups, draw, lambda axes: axes.set_ylim(bottom=0), y="loss, nats", title=title)


def draw_rates(groups: Sequence[Group]) -> bytes:
    """Learning rates of weights and biases; steps on a logarithmic scale."""

    def draw(axes: Any, run: RunRecord, look: dict[str, Any]) -> None:
        for key, thick in (("weights_rate", 2.0), ("biases_rate", 1.0)):
            points = [(report.epoch, getattr(report, key)) for report in run.train if getattr(report, key)]
            _plot(axes, points, look, linewidth=thick, drawstyle="steps-pre")

    title = "thick: weights   thin: biases"
    return _drawn(groups, draw, lambda axes: axes.set_yscale("log"), y="learning rate", title=title)


def draw_speed(groups: Sequence[Group]) -> bytes:
    """Images per second in training steps."""

    def draw(axes: Any, run: RunRecord, look: dict[str, Any]) -> None:
        points = [(report.epoch, report.images_per_second) for report in run.train]
        _plot(axes, points, look, linewidth=1.2)

    return _drawn(groups, draw, lambda axes: axes.set_ylim(bottom=0), y="images/s")


def _drawn(
    groups: Sequence[Group],
    draw: Callable[[Any, RunRecord, dict[str, Any]], None],
    finish: Callable[[Any], object],
    *,
    y: str,
    title: str = "",
) -> bytes:
    """Axes over epochs with every run in its group's colour, and a legend if there are several groups."""
    from matplotlib.lines import Line2D

    names = [group.label for group in groups] if len(groups) > 1 else []
    figure = new_figure(3.9 + legend_height(names))
    axes = figure.add_subplot()
    for number, group in enumerate(groups):
        for run in group.runs:
            draw(axes, run, style(number))
    axes.set_xlim(left=0)
    finish(axes)
    prepare(axes, "epochs", y)
    if title:
        axes.set_title(title, fontsize=LETTERS - 1, color="#444444")
    add_legend(figure, [Line2D([], [], **style(number), linewidth=2) for number in range(len(names))], names)
    return as_png(figure)


def _training(run: RunRecord, key: str) -> list[tuple[float, float]]:
    return averaged(run.train, key, part_of_epoch(run.epochs))


def _plot(axes: Any, points: list[tuple[float, float]], look: dict[str, Any], **more: Any) -> None:
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], **{**look, **more})
