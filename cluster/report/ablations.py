"""What settings are worth: errors of each configuration against the first one's, by mean and spread over its runs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from cluster.paper import CHANGES, Change
from cluster.report.groups import Group
from cluster.report.records import Measured, RunRecord
from cluster.settings import ALIKE, Difference, differences, without
from configs.loader import load, to_dict

BESIDE = ("schedule", "train.epochs", "augment.colour_noise.until_epoch", "network.lrn", "network.spatial_lrn")
"""Does not tell one ablation from another: when the authors lowered rates by hand, and norms that are set and not used."""

OF_A_SIZE = (".maps", ".units", ".padding")
"""Settings that are others in a network of another size."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Of a configuration's runs; shares, 0 to 1."""

    runs: int
    top1: float
    top5: float
    top1_spread: float | None
    """Standard deviation over runs; None of a single one."""
    top5_spread: float | None


@dataclass(frozen=True, kw_only=True)
class Row:
    group: Group
    errors: Errors | None
    """None if none of its runs is complete and has been tested so at its end."""
    top1_change: float | None
    """From the first configuration."""
    top5_change: float | None
    top1_doubt: float | None
    """Standard error of the change, from the spreads over runs; None unless both configurations have several."""
    paper: Change | None


def views_of_all(groups: Sequence[Group]) -> Literal[1, 10]:
    """Ten if every complete run has been tested by ten views at its end, else the centre, which training itself tests by."""
    runs = [run for group in groups for run in group.runs if run.state.state == "complete"]
    return 10 if runs and all(_at_end(run, 10) for run in runs) else 1


def left_out(groups: Sequence[Group], views: Literal[1, 10]) -> list[str]:
    """Runs that are in no mean because their errors are not those of a whole run: each with the reason."""
    runs = [(run, run.errors(views)) for group in groups for run in group.runs]
    return [f"{run.label} ({found.early})" for run, found in runs if found is not None and found.early]


def rows(groups: Sequence[Group], views: Literal[1, 10]) -> list[Row]:
    """One per configuration; the first is the reference."""
    first = _errors(groups[0], views)
    return [_row(group, _errors(group, views), first, reference=group is groups[0]) for group in groups]


def sampling_deviation(error: float, images: int) -> float:
    """Standard deviation of an error counted on so many images, for these images are a sample too."""
    return math.sqrt(error * (1 - error) / max(images, 1))


def _errors(group: Group, views: Literal[1, 10]) -> Errors | None:
    found = [one for one in (_at_end(run, views) for run in group.runs) if one is not None]
    if not found:
        return None
    top1, top5 = [one.top1 for one in found], [one.top5 for one in found]
    several = len(found) > 1
    return Errors(
        runs=len(found),
        top1=statistics.fmean(top1),
        top5=statistics.fmean(top5),
        top1_spread=statistics.stdev(top1) if several else None,
        top5_spread=statistics.stdev(top5) if several else None,
    )


def _at_end(run: RunRecord, views: Literal[1, 10]) -> Measured | None:
    """Errors of a complete run after its last step."""
    found = run.errors(views)
    return None if found is None or found.early else found


def _row(group: Group, own: Errors | None, first: Errors | None, *, reference: bool) -> Row:
    if reference or own is None or first is None:
        return Row(group=group, errors=own, top1_change=None, top5_change=None, top1_doubt=None, paper=None)
    doubt = None
    if own.top1_spread is not None and first.top1_spread is not None:
        doubt = math.sqrt(own.top1_spread**2 / own.runs + first.top1_spread**2 / first.runs)
    return Row(
        group=group,
        errors=own,
        top1_change=own.top1 - first.top1,
        top5_change=own.top5 - first.top5,
        top1_doubt=doubt,
        paper=paper_change(group.differences, group.runs[0].config.network.input_size),
    )


def paper_change(found: Sequence[Difference], input_size: int) -> Change | None:
    """What the paper or its authors found for the same change, also where it is made to a smaller network.

    The same change: the same settings differ, and are as in the variant after; widths and paddings, which another network has
    others of, need be so only where they were as in original.yaml before. Paddings that another input size needs no other of
    may stay. input_size: of the network that is changed.
    """
    ours, same_size = _telling(found), input_size == load("original.yaml").network.input_size
    for name, known in CHANGES.items():
        theirs = _changes(name)
        if not same_size:
            theirs = {path: one for path, one in theirs.items() if path in ours or not path.endswith(".padding")}
        if ours and ours.keys() == theirs.keys() and all(_alike(ours[path], one) for path, one in theirs.items()):
            return known
    return None


def _alike(ours: Difference, theirs: Difference) -> bool:
    return ours.after == theirs.after or (theirs.path.endswith(OF_A_SIZE) and ours.before != theirs.before)


@cache
def _changes(variant: str) -> dict[str, Difference]:
    before, after = (without(to_dict(load(name)), ALIKE) for name in ("original.yaml", f"{variant}.yaml"))
    return _telling(differences(before, after))


def _telling(found: Sequence[Difference]) -> dict[str, Difference]:
    beside = tuple(f"{path}." for path in BESIDE if not path.startswith("network."))
    return {one.path: one for one in found if one.path not in BESIDE and not one.path.startswith(beside)}
