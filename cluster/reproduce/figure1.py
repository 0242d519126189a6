"""`python -m cluster.reproduce figure1`: epochs to 25 % training error with rectifiers and with tanh [P 3.1, figure 1].

What the paper does not say, and what is taken here: which net of four layers (figure1_small.yaml's three convolutional layers and
a classifier), the batch (128), initial weights (the same for both), the rates (the best of a search, "chosen independently"), and
how the training error is counted: as it is while the epoch is trained, from the reports in the log.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from rich.table import Table

from cluster.console import print_plan, print_table
from cluster.reproduce.search import Point, best_rate, epochs_to, error_at_end, next_rate, smoothed
from cluster.reproduce.series import Reports, Series, Wanted, has_diverged, train_reports
from configs.errors import UserError
from configs.loader import load
from workers import json_lines

UNITS = ("relu", "tanh")
STYLES = {"relu": "-", "tanh": "--"}
"""Of the paper's figure."""
PAPER = {"relu": 6.0, "tanh": 36.0}
"""Epochs, read off the figure; "six times faster" is its caption."""
FURTHER = 2
"""Rates that are tried beyond those given, at most, for each kind of unit."""


@dataclass(frozen=True, kw_only=True)
class Figure1:
    """What is asked. rates: tried for each kind of unit, of weights; biases learn at twice the rate, as in the authors' files."""

    config: str
    settings: Sequence[str]
    out: Path
    rates: Sequence[float]
    search_epochs: float
    most_epochs: float
    target: float

    def run(self, units: str, rate: float, epochs: float) -> Wanted:
        return Wanted(
            config=self.config,
            settings=[
                *self.settings,
                f"network.activation={units}",
                f"schedule={{kind: stages, stages: [{{from_epoch: 0, weights: {rate}, biases: {2 * rate:g}}}]}}",
                f"train.epochs={epochs:g}",
                "train.steps=null",
            ],
            folder=self.out / f"{units}-{rate:g}",
        )


@dataclass(kw_only=True)
class Curve:
    """What came of one kind of unit."""

    rate: float
    searched: dict[float, float | None]
    """Training error at the end of the search, by rate; None where training diverged."""
    epochs_to_target: float | None
    trained_epochs: float
    points: list[Point] = field(default_factory=list)


def run_figure1(wanted: Figure1, *, plan_only: bool = False) -> int:
    """Search, train on, draw; returns 0. Raises UserError for wrong input, RunFailed if a run failed."""
    config = load(wanted.config, [*wanted.settings, f"train.epochs={wanted.most_epochs:g}", "train.steps=null"])
    from cluster.dataset import dataset_size

    _say_plan(wanted)
    if dataset_size(config) is None:
        raise UserError(
            f"no data set at {config.data.path}; make it with `python -m cluster.prepare cifar10 --out {quote(config.data.path)} "
            "--encoding raw`, or set data.path"
        )
    if plan_only:
        return 0
    curves = {units: _curve(wanted, units) for units in UNITS}
    _write(wanted, curves)
    _tell(wanted, curves)
    return 0


def _curve(wanted: Figure1, units: str) -> Curve:
    errors: dict[float, float | None] = {}
    _search(wanted, units, wanted.rates, errors)
    for _ in range(FURTHER):
        further = next_rate(errors) if any(error is not None for error in errors.values()) else None
        if further is None:
            break
        print(f"{units}: the best rate so far, {best_rate(errors):g}, is at the edge of those tried", flush=True)
        _search(wanted, units, [further], errors)
    if all(error is None for error in errors.values()):
        raise UserError(
            f"{units}: training diverged at every rate of {', '.join(map(str, errors))}; give lower --rates"
        )
    rate = best_rate(errors)
    print(
        f"{units}: rate {rate:g}, with {errors[rate]:.1%} training error after {wanted.search_epochs:g} epochs",
        flush=True,
    )
    _train_on(wanted, units, rate)
    reports = train_reports(wanted.run(units, rate, 1).folder)
    points = smoothed(reports)
    return Curve(
        rate=rate,
        searched=errors,
        epochs_to_target=epochs_to(points, wanted.target),
        trained_epochs=reports[-1].epoch,
        points=points,
    )


def _search(wanted: Figure1, units: str, rates: Sequence[float], errors: dict[float, float | None]) -> None:
    """Train with these rates for a few epochs, as far as that has not been done, and add the errors."""
    runs = {rate: wanted.run(units, rate, wanted.search_epochs) for rate in rates}
    left = [rate for rate, run in runs.items() if not _searched(wanted, run)]
    series = Series([wanted.search_epochs] * len(left))
    for rate in left:
        series.train(runs[rate], wanted.search_epochs)
    for rate, run in runs.items():
        errors[rate] = error_at_end(train_reports(run.folder), wanted.search_epochs)


def _searched(wanted: Figure1, run: Wanted) -> bool:
    run.check()
    if error_at_end(train_reports(run.folder), wanted.search_epochs) is not None:
        return True
    return has_diverged(run.folder)


def _train_on(wanted: Figure1, units: str, rate: float) -> None:
    """Continue the run of the search until the target is reached, or for the most epochs."""
    run, enough = wanted.run(units, rate, wanted.most_epochs), _reaches(wanted.target)
    reports = train_reports(run.folder)
    if enough(reports) or reports[-1].epoch >= wanted.most_epochs - 1e-6:
        return
    Series([wanted.most_epochs]).train(run, wanted.most_epochs, until=enough)


def _reaches(target: float) -> Callable[[Reports], bool]:
    return lambda reports: epochs_to(smoothed(reports), target) is not None


def ratio(curves: dict[str, Curve]) -> float | None:
    """How many times fewer epochs rectifiers took; None if either did not reach the target."""
    relu, tanh = (curves[units].epochs_to_target for units in UNITS)
    return None if relu is None or tanh is None else tanh / relu


def _say_plan(wanted: Figure1) -> None:
    runs = len(UNITS) * len(wanted.rates)
    least = runs * wanted.search_epochs
    most = least + len(UNITS) * (wanted.most_epochs + (FURTHER - 1) * wanted.search_epochs)
    print_plan(
        [
            ("search", f"{runs} runs of {wanted.search_epochs:g} epochs: {', '.join(f'{r:g}' for r in wanted.rates)}"),
            (
                "then",
                f"the best of each goes on to {wanted.target:.0%} training error, at most {wanted.most_epochs:g} epochs",
            ),
            ("in all", f"{least:g} to {most:g} epochs; the time is told after the first run"),
            ("runs", str(wanted.out)),
        ]
    )


def _write(wanted: Figure1, curves: dict[str, Curve]) -> None:
    content: dict[str, Any] = {
        "config": wanted.config,
        "settings": list(wanted.settings),
        "target": wanted.target,
        "search_epochs": wanted.search_epochs,
        "ratio": ratio(curves),
        "paper": {**PAPER, "ratio": PAPER["tanh"] / PAPER["relu"]},
        "curves": {units: asdict(curve) for units, curve in curves.items()},
    }
    try:
        wanted.out.mkdir(parents=True, exist_ok=True)
        (wanted.out / "figure1.json").write_text(json_lines.dumps(content, indent=1), encoding="utf-8")
        _draw(wanted, curves, wanted.out / "figure1.png")
    except OSError as error:
        raise UserError(f"{wanted.out} cannot be written: {error}") from None


def _draw(wanted: Figure1, curves: dict[str, Curve], file: Path) -> None:
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for units, curve in curves.items():
        told = "not reached" if curve.epochs_to_target is None else f"{curve.epochs_to_target:.1f} epochs"
        epochs, errors = [point.epoch for point in curve.points], [point.error for point in curve.points]
        axes.plot(epochs, errors, STYLES[units], color="black", label=f"{units}, rate {curve.rate:g}: {told}")
    axes.axhline(wanted.target, color="grey", linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error", ylim=(0, 0.8), xlim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=150)


def _tell(wanted: Figure1, curves: dict[str, Curve]) -> None:
    table = Table()
    for heading in ("units", "rate", f"epochs to {wanted.target:.0%} training error", "paper, read off"):
        table.add_column(heading, justify="left" if heading == "units" else "right")
    for units, curve in curves.items():
        reached = f"{curve.epochs_to_target:.1f}" if curve.epochs_to_target else f"not in {curve.trained_epochs:.0f}"
        table.add_row(units, f"{curve.rate:g}", reached, f"about {PAPER[units]:g}")
    found = ratio(curves)
    table.add_row("tanh / relu", "", "not known" if found is None else f"{found:.1f}", "six times")
    print_table(table)
    print_plan([("JSON", str(wanted.out / "figure1.json")), ("PNG", str(wanted.out / "figure1.png"))])
