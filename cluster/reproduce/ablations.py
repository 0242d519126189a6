"""`python -m cluster.reproduce ablations`: what each part of the network is worth, by several seeds of small networks."""

import contextlib
import functools
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from cluster.console import print_plan
from cluster.reproduce.series import Series, Wanted, has_diverged, train_reports
from cluster.reproduce.variations import FULL, VARIATIONS
from cluster.run_state import read_result
from configs.errors import UserError
from configs.loader import load

VIEWS: tuple[Literal[1, 10], ...] = (1, 10)
Errors = dict[str, Any]
PLACES = ("data.path=", "data.cache_folder=", "checkpoint.folder=")
"""Settings that say where something is now, which tests need too."""


@dataclass(frozen=True, kw_only=True)
class Ablations:
    """What is asked. seeds: of each network; the full one, with which all are compared, has one more. only: names; empty: all."""

    config: str
    settings: Sequence[str]
    out: Path
    seeds: int
    only: Sequence[str] = ()

    def names(self) -> list[str]:
        """Of the networks, the full one first. Raises UserError for one that there is not."""
        if unknown := [name for name in self.only if name not in VARIATIONS]:
            raise UserError(f"--only {', '.join(unknown)}: no such network; there are {', '.join(VARIATIONS)}")
        return [name for name in VARIATIONS if not self.only or name in self.only]

    def runs(self) -> list[tuple[str, int]]:
        """(name, seed), one seed of all networks after the other, so that a table can be made early."""
        names = self.names()
        full = [(FULL, seed) for seed in range(self.seeds + 1)] if FULL in names else []
        return full + [(name, seed) for seed in range(self.seeds) for name in names if name != FULL]

    def left(self) -> list[tuple[str, int]]:
        """Those of `runs` that are still to be trained; one that diverged would do so again. Raises UserError as `complete`."""
        whole = {folder for name in self.names() for folder in self.complete(name)}
        return [one for one in self.runs() if (at := self.run(*one).folder) not in whole and not has_diverged(at)]

    def run(self, name: str, seed: int) -> Wanted:
        settings = [*self.settings, *VARIATIONS[name].settings, f"train.seed={seed}"]
        return Wanted(config=self.config, settings=settings, folder=self.out / f"{name}-{seed}")

    def complete(self, name: str) -> list[Path]:
        """Folders of a network's runs that are at their end, of all seeds that there are.

        Raises UserError if one was trained with other settings, or for longer, than is asked now.
        """
        runs = [self.run(name, seed) for seed in range(self.seeds + (name == FULL))]
        return [run.folder for run in runs if self._is_complete(run)]

    def _is_complete(self, run: Wanted) -> bool:
        run.check()
        result = read_result(run.folder)
        if result is not None and result["step"] > self.steps:
            raise UserError(
                f"{run.folder} was trained for {result['step']:,} steps, and {self.steps:,} are asked for; give another --out"
            )
        return result is not None and result["step"] == self.steps

    @functools.cached_property
    def steps(self) -> int:
        """Of each run. Raises UserError if there is no data set."""
        from cluster.dataset import dataset_size
        from cluster.plan import make_plan

        config = load(self.config, self.settings)
        size = dataset_size(config)
        if size is None:
            raise UserError(
                f"no data set at {config.data.path}; make it, from Tiny ImageNet for example, with "
                f"`python -m cluster.prepare tiny-imagenet --classes {config.network.classes} --out "
                f"{quote(config.data.path)}`, or set data.path"
            )
        return make_plan(config, 0, size).program().total_steps


def run_ablations(wanted: Ablations, *, plan_only: bool = False, table_only: bool = False) -> int:
    """Train what is missing, test, compare; returns 0. Raises UserError for wrong input, RunFailed if a run failed."""
    runs = wanted.runs()
    left = wanted.left()
    print_plan(
        [
            ("networks", ", ".join(wanted.names())),
            (
                "runs",
                f"{len(runs)} of {wanted.steps:,} steps, {len(runs) - len(left)} of them done, in {wanted.out}",
            ),
            ("time", "about 6 minutes each on two quiet cores; measured after the first"),
        ]
    )
    if plan_only:
        return 0
    if not table_only:
        series = Series([1.0] * len(left))
        for name, seed in left:
            if series.train(wanted.run(name, seed), 1.0) == "diverged":
                print(f"{wanted.run(name, seed).folder} diverged: it is not in the tables", flush=True)
    diverged = [run.folder.name for run in (wanted.run(*one) for one in runs) if has_diverged(run.folder)]
    found = {name: evaluated(wanted, name) for name in wanted.names() if wanted.complete(name)}
    if not found:
        raise UserError(f"no run in {wanted.out} is complete; leave out --table to train them")
    from cluster.reproduce.ablation_table import tell_and_write

    overfitting = {name: [overfits_by(run) for run in wanted.complete(name)] for name in found}
    tell_and_write(wanted.out, found, overfitting, diverged)
    return 0


def overfits_by(run: Path) -> float:
    """How far the error on the validation set (top-1, centre) lies above that in the last epoch of training, 0 to 1.

    Below 0 where dropout, crops and colour noise make training the harder of the two.
    """
    result = read_result(run)
    assert result is not None, f"{run} is not complete"
    reports = train_reports(run)
    last = [report for report in reports if report.epoch > reports[-1].epoch - 1]
    wrong = sum(report.top1_error * report.images for report in last)
    return float(result["validation"]["top1_error"]) - wrong / sum(report.images for report in last)


def evaluated(wanted: Ablations, name: str) -> dict[int, Errors]:
    """By number of views: the errors of each seed (`members`), and of all together."""
    places = [setting for setting in wanted.settings if setting.startswith(PLACES)]
    return {
        views: _evaluate(wanted.out / f"{name}-views{views}.json", wanted.complete(name), views, places)
        for views in VIEWS
    }


def _evaluate(file: Path, runs: list[Path], views: Literal[1, 10], places: list[str]) -> Errors:
    """Test the runs and their ensemble, unless that has been done since their end."""
    from cluster.ensemble import Wanted as Asked
    from cluster.ensemble import run_ensemble

    known = _read(file)
    newest = max((run / "result.json").stat().st_mtime for run in runs)
    if known is not None and len(known["members"]) == len(runs) and file.stat().st_mtime >= newest:
        return known
    print(f"testing {', '.join(run.name for run in runs)}, {views} view{'s' if views > 1 else ''}", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        run_ensemble([str(run) for run in runs], places, Asked(views=views, json_file=str(file)))
    found = _read(file)
    assert found is not None, f"{file} was not written"
    return found


def _read(file: Path) -> Errors | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "members" in content else None
