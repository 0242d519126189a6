"""The ablations' table: errors by seeds, differences beside the paper's, verdicts; on the terminal, as JSON and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from cluster.console import print_plan, print_table
from cluster.paper import CHANGES, OVERFITTING, Change
from cluster.reproduce.comparison import Noise, pooled, spread, verdict
from cluster.reproduce.variations import FULL, VARIATIONS
from configs.errors import UserError
from workers import json_lines

KINDS = ("top1_error", "top5_error")
TABLE_WIDTH = 150
"""Characters; the longest names and verdicts fit on one line."""
Found = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Evaluations by network and number of views, as `cluster.reproduce.ablations.evaluated`."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of error of one network. All in percent; differences to the full network, + is worse."""

    mean: float
    spread: float | None
    """Standard deviation between seeds."""
    difference: float | None
    limit: float | None
    """What chance alone explains of the difference."""
    paper: float | None
    paper_in_words: str
    """What the paper says where it has no number; else the number. Empty if it says nothing."""
    verdict: str


def compare(found: Found, views: int, kind: str) -> dict[str, Cell]:
    """A cell for each network."""
    errors = {name: [100 * one[kind] for one in by_views[views]["members"]] for name, by_views in found.items()}
    noise = pooled(errors)
    return {name: _cell(name, errors, noise, kind) for name in errors}


def compare_overfitting(overfitting: Mapping[str, Sequence[float]]) -> dict[str, Cell]:
    """A cell for each network: by how much the error on the validation set lies above that in training, in percent."""
    gaps = {name: [100 * one for one in by_seed] for name, by_seed in overfitting.items()}
    noise = pooled(gaps)
    return {name: _cell(name, gaps, noise, "overfitting") for name in gaps}


def _cell(name: str, errors: Mapping[str, list[float]], noise: Noise | None, kind: str) -> Cell:
    own, full = errors[name], errors.get(FULL)
    known = CHANGES.get(name, Change())
    if (known.said == OVERFITTING) != (kind == "overfitting"):
        known = Change()  # that is no claim about this
    paper, words = (known.top5, known.in_words[1]) if kind == "top5_error" else (known.top1, known.in_words[0])
    difference = limit = None
    told = ""
    if full and name != FULL:
        difference = fmean(own) - fmean(full)
        limit = noise.of_difference(len(own), len(full)) if noise else None
        told = verdict(difference, limit, paper)
    return Cell(
        mean=fmean(own),
        spread=spread(own),
        difference=difference,
        limit=limit,
        paper=None if known.said else paper,
        paper_in_words=words,
        verdict=told,
    )


def ensemble(found: Found) -> dict[str, float] | None:
    """Top-1 and top-5 of the full network's seeds together against their mean, by views; None if there is one seed."""
    full = found.get(FULL)
    if full is None or len(full[1]["members"]) < 2:
        return None
    numbers = {}
    for views, tested in full.items():
        for kind in KINDS:
            numbers[f"{kind}_{views}_members"] = 100 * fmean([one[kind] for one in tested["members"]])
            numbers[f"{kind}_{views}_ensemble"] = 100 * tested[kind]
    return numbers


def tell_and_write(
    out: Path, found: Found, overfitting: Mapping[str, Sequence[float]], diverged: Sequence[str] = ()
) -> None:
    """Print the tables, and write ablations.json and ablations.png into `out`. Raises UserError if that cannot be written.

    overfitting: of each seed of each network, as `cluster.reproduce.ablations.overfits_by`.
    diverged: names of runs whose loss was no number in the end; they are in no mean.
    """
    cells = {(views, kind): compare(found, views, kind) for views in (1, 10) for kind in KINDS}
    seeds = {name: len(by_views[1]["members"]) for name, by_views in found.items()}
    for (views, kind), by_name in cells.items():
        what = f"{'top-1' if kind == 'top1_error' else 'top-5'} error, {'ten views' if views == 10 else 'centre'}"
        _print(f"{what}, percent", "worse by", by_name, seeds)
    gaps = compare_overfitting(overfitting)
    title = "overfitting: top-1 error on the validation set (centre) less that in the last epoch of training"
    _print(title, "more by", gaps, seeds)
    if diverged:
        print(f"diverged, and so in no mean: {', '.join(diverged)}")
    together = ensemble(found)
    if together is not None:
        _print_ensemble(together, seeds[FULL])
    content = {
        "units": "percent; differences to the full network, + is worse",
        "seeds": seeds,
        "diverged": [*diverged],
        "networks": {
            name: {
                "what": VARIATIONS[name].what,
                "source": CHANGES.get(name, Change()).source,
                "paper": CHANGES.get(name, Change()).said or None,
                **{f"{kind}_views{views}": asdict(by_name[name]) for (views, kind), by_name in cells.items()},
                "overfitting": asdict(gaps[name]),
            }
            for name in found
        },
        "ensemble": together,
    }
    json_file, png = out / "ablations.json", out / "ablations.png"
    try:
        json_file.write_text(json_lines.dumps(content, indent=1), encoding="utf-8")
        _draw({name: cells[10, "top1_error"][name] for name in found if name != FULL}, png)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from None
    print_plan([("JSON", str(json_file)), ("PNG", str(png))])


def _print(title: str, worse: str, cells: Mapping[str, Cell], seeds: Mapping[str, int]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("network", "seeds", "mean", "spread", worse, "by chance", "paper"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    table.add_column("verdict")
    for name, cell in cells.items():
        table.add_row(
            VARIATIONS[name].what,
            str(seeds[name]),
            f"{cell.mean:.2f}",
            "" if cell.spread is None else f"{cell.spread:.2f}",
            _signed(cell.difference),
            "" if cell.limit is None else f"±{cell.limit:.2f}",
            "" if cell.difference is None else cell.paper_in_words,
            cell.verdict,
        )
    print_table(table, TABLE_WIDTH)


def _print_ensemble(numbers: Mapping[str, float], seeds: int) -> None:
    table = Table(title=f"{seeds} seeds of the full network, percent", title_justify="left")
    for heading in ("", "top-1, centre", "top-1, ten views", "top-5, centre", "top-5, ten views"):
        table.add_column(heading, justify="right" if heading else "left")
    for row, what in (("members", "mean of the members"), ("ensemble", "ensemble")):
        table.add_row(what, *(f"{numbers[f'{kind}_{views}_{row}']:.2f}" for kind in KINDS for views in (1, 10)))
    print_table(table)


def _signed(number: float | None) -> str:
    return "" if number is None else f"{number:+.2f}"


def _draw(cells: Mapping[str, Cell], file: Path) -> None:
    """Differences in top-1 error with ten views, what chance explains as grey bars, the paper's as crosses."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a screen

    shown = {name: cell for name, cell in reversed(list(cells.items())) if cell.difference is not None}
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    labels = [VARIATIONS[name].what for name in shown]
    limits = [cell.limit or 0.0 for cell in shown.values()]
    axes.barh(
        labels, [2 * limit for limit in limits], left=[-limit for limit in limits], color="#dddddd", label="chance"
    )
    axes.plot([cell.difference or 0.0 for cell in shown.values()], labels, "o", color="black", label="here")
    papers = [(cell.paper, VARIATIONS[name].what) for name, cell in shown.items() if cell.paper is not None]
    axes.plot([paper for paper, _ in papers], [label for _, label in papers], "x", color="black", label="paper")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="top-1 error with ten views,\npercentage points worse than the full network")
    axes.legend()
    figure.savefig(file, dpi=150)
