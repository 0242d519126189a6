"""One setting over a range of values: a table of forecasts, and a drawing of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.forecast.model import Forecast
from cluster.forecast.words import long, number, seconds, share
from configs.errors import UserError

LONGEST = 64
HEADINGS = (
    "",
    "devices",
    "nodes",
    "images/s",
    "each",
    "step",
    "exchange",
    "averaging",
    "data",
    "data CPUs",
    "run",
    "kWh",
    "cost",
)


@dataclass(frozen=True, kw_only=True)
class Range:
    key: str
    """A setting; `replicas` and `batch` are short for cluster.replicas and train.batch_size."""
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    title: str
    rows: tuple[tuple[int, Forecast | str], ...]
    """(value, its forecast or why there is none)."""


SHORT = {"replicas": "cluster.replicas", "batch": "train.batch_size"}


def parse_range(text: str) -> Range:
    """`key=1..1024` doubles from the first to the last; `key=1,2,6` takes these. Raises UserError."""
    key, equals, wanted = text.partition("=")
    key = SHORT.get(key, key)
    try:
        if ".." in wanted:
            first, last = (int(end) for end in wanted.split("..", 1))
            values = [first * 2**power for power in range(LONGEST) if 0 < first * 2**power <= last]
        else:
            values = [int(value) for value in wanted.split(",")]
    except ValueError:
        values = []
    if not key or not equals or not values or min(values) < 1:
        raise UserError(
            f"--sweep {text}: a sweep looks like replicas=1..1024 (doubling), batch=32,64,256 or cluster.data_workers=1..8"
        )
    return Range(key=key, values=tuple(values[:LONGEST]))


def curves(wanted: Range, batch: int, predict: Callable[[list[str]], Forecast]) -> list[Curve]:
    """predict: the forecast with these settings; raises UserError where they are impossible.

    More replicas may share the batch, which changes nothing in what is learned, or have as many images each, which does.
    """
    if wanted.key != "cluster.replicas":
        return [Curve(title=f"{wanted.key}", rows=_rows(wanted, predict, lambda value: []))]
    return [
        Curve(
            title=f"a batch of {batch:,} shared by the replicas: the same training",
            rows=_rows(wanted, predict, lambda value: []),
        ),
        Curve(
            title=f"{batch:,} images for each replica: a batch of {batch:,} x replicas, which needs other learning rates",
            rows=_rows(wanted, predict, lambda value: [f"train.batch_size={batch * value}"]),
        ),
    ]


def _rows(
    wanted: Range, predict: Callable[[list[str]], Forecast], more: Callable[[int], list[str]]
) -> tuple[tuple[int, Forecast | str], ...]:
    rows: list[tuple[int, Forecast | str]] = []
    for value in wanted.values:
        try:
            rows.append((value, predict([f"{wanted.key}={value}", *more(value)])))
        except UserError as error:
            rows.append((value, str(error).splitlines()[-1].strip()))
    return tuple(rows)


def table(wanted: Range, curve: Curve) -> str:
    """Under its title. `each` is what a device does, beside what it does in the first row."""
    told = [found for _, found in curve.rows if isinstance(found, Forecast)]
    first = told[0].images_per_second / told[0].devices if told else 0.0
    lines: list[tuple[str, ...]] = [(wanted.key.split(".")[-1], *HEADINGS[1:])]
    lines += [_cells(value, found, first) for value, found in curve.rows if isinstance(found, Forecast)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    without = [(value, found) for value, found in curve.rows if isinstance(found, str)]
    if without:
        values = ", ".join(f"{value:,}" for value, _ in without)
        text.append(f"not possible with {values}: {without[0][1]}")
    return "\n".join([curve.title, *text])


def _cells(value: int, found: Forecast, first: float) -> tuple[str, ...]:
    return (
        f"{value:,}",
        f"{found.devices:,}",
        f"{found.nodes:,}",
        number(found.images_per_second),
        f"{found.images_per_second / found.devices / first:.0%}",
        seconds(found.step_seconds),
        share(found.exchange_seconds, found),
        share(found.averaging_seconds, found),
        share(found.data_wait_seconds, found),
        f"{found.data_cpus:,.1f}",
        "?" if found.run_seconds is None else long(found.run_seconds),
        "?" if found.kilowatt_hours is None else number(found.kilowatt_hours),
        "?" if found.cost is None else f"{found.cost:,.0f}",
    )


def draw(wanted: Range, drawn: list[Curve], title: str, file: Path) -> None:
    """images/s over the setting, both logarithmic, as PNG (or what the file's ending says). Raises UserError."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=150, layout="constrained")
    for curve, colour in zip(drawn, ("#0072b2", "#d55e00"), strict=False):
        points = [(value, found.images_per_second) for value, found in curve.rows if isinstance(found, Forecast)]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=curve.title.split(":")[0])
    longest = next((curve for curve in reversed(drawn) if any(isinstance(f, Forecast) for _, f in curve.rows)), None)
    if longest and wanted.key == "cluster.replicas":
        one = next((value, found) for value, found in longest.rows if isinstance(found, Forecast))
        ends = [one[0], wanted.values[-1]]
        axes.plot(
            ends, [one[1].images_per_second * end / one[0] for end in ends], ":", color="#777777", label="in proportion"
        )
    axes.set(xscale="log", yscale="log", xlabel=wanted.key, ylabel="images/s (predicted)", title=title)
    axes.set_xticks(wanted.values, [f"{value:,}" for value in wanted.values])
    axes.minorticks_off()
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot {file} cannot be written: {error}") from None
    finally:
        pyplot.close(figure)
