"""What a run's folder says of it: settings, reports of its log, errors, time. Without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster.evaluations import read as read_evaluations
from cluster.network import find_run
from cluster.run_state import STOCK, RunState, read_log, read_run, that_count
from cluster.totals import Totals
from configs.errors import UserError
from configs.loader import load, to_dict
from configs.schema import Config
from workers.reports import EvaluationReport, StartReport, TrainReport


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Errors on a validation set (0 to 1; loss in nats)."""

    views: Literal[1, 10]
    step: int
    images: int
    loss: float
    top1: float
    top5: float
    early: str = ""
    """What to say of it because it is not the error of the whole run: after which step, or what became of the run."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """Errors of several networks' averaged probabilities."""

    networks: int
    equal: bool
    """Whether all had the same weight; of older evaluations, which do not say, it is taken to be so."""
    pretrained: int | None
    """How many began from another run's weights; None if it is not known."""
    early: str
    """As `Measured.early`, of this run among them."""
    views: Literal[1, 10]
    images: int
    top1: float
    top5: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    label: str
    """Its folder's name; with the folder above it where two are called the same."""
    given: Path
    """What was named: the run's folder, or a checkpoint's in it."""
    path: Path
    config: Config
    stock: bool
    """Whether it was trained by plain PyTorch (`python -m cluster.reproduce stock`)."""
    settings: dict[str, Any]
    """The config as plain data."""
    state: RunState
    train: list[TrainReport]
    """Reports of training, by step; what was gone over again after a failure counts once."""
    tested: list[EvaluationReport]
    """Evaluations in the course of training, likewise."""
    kept: list[dict[str, Any]]
    """Evaluations by `python -m cluster.evaluate`."""
    totals: Totals
    """Of all reports, also of steps that were gone over again."""
    wall_seconds: float
    """From each start of the run to its last word."""
    classes: int
    fingerprint: str | None
    """Of the data set; None if the run's folder does not keep it."""
    source: str
    """Where the images of the data set came from, in words; empty if it is not there to be asked."""

    @property
    def epochs(self) -> float:
        return self.train[-1].epoch if self.train else 0.0

    def errors(self, views: Literal[1, 10]) -> Measured | None:
        """The newest known of the run's own validation set and settings: of the latest step, and of that the last evaluation."""
        found = [_measured(vars(report), 1) for report in self.tested if views == 1]
        own = self.tested[-1].images if self.tested else None
        for entry in self.kept:
            alike = self._is_own(entry) and own in (None, entry["images"])
            if "members" not in entry and entry["views"] == views and alike:
                found.append(_measured(entry, views))
        newest = max(reversed(found), key=lambda one: one.step, default=None)  # of equal ones the first, so the last
        return None if newest is None else replace(newest, early=self._early(newest.step))

    def _is_own(self, entry: dict[str, Any]) -> bool:
        """Whether an evaluation had this run's data set and settings; older ones do not say, and are taken to."""
        same = entry.get("dataset") is None or self.fingerprint in (None, entry["dataset"])
        return same and not entry.get("overrides")

    def _early(self, step: int) -> str:
        if step < self.state.step:
            return f"after step {step:,} of {self.state.step:,}"
        return "" if self.state.state == "complete" else self.state.state

    def together(self) -> list[Together]:
        """Ensembles that this run was part of."""
        return [
            Together(
                networks=len(entry["members"]),
                equal=len(set(entry.get("weights", []))) < 2,
                pretrained=sum(entry["pretrained"]) if "pretrained" in entry else None,
                early=self._early(int(entry.get("step", self.state.step))),
                views=entry["views"],
                images=entry["images"],
                top1=entry["top1_error"],
                top5=entry["top5_error"],
            )
            for entry in self.kept
            if "members" in entry and self._is_own(entry)
        ]


def read_records(runs: Iterable[Path]) -> list[RunRecord]:
    """Of each run, once. Raises UserError if one is no run, or its config is damaged."""
    given: dict[Path, Path] = {}
    for run in runs:
        given.setdefault(find_run(run)[0].resolve(), run)
    names = [path.name for path in given]
    return [
        _read(run, path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}")
        for path, run in given.items()
    ]


def _read(given: Path, label: str) -> RunRecord:
    from workers.data.facts import DataFacts

    path = find_run(given)[0]
    config = load(path / "config.yaml")
    totals = Totals()
    wall, begun, last, stock = 0.0, 0.0, 0.0, False
    logged = read_log(path / "log.jsonl")
    train, tested = that_count(logged)
    for report in logged:
        if isinstance(report, StartReport):
            wall, begun, stock = wall + last - begun, report.time, stock or list(report.ranks) == [STOCK]
        last = max(report.time, begun)
        totals.add(report)
    try:
        facts = DataFacts.load(path)
    except UserError:
        facts = None  # whoever draws the network will say so
    return RunRecord(
        label=label,
        given=given,
        path=path,
        config=config,
        stock=stock,
        settings=to_dict(config),
        state=read_run(path),
        train=train,
        tested=tested,
        kept=read_evaluations(path),
        totals=totals,
        wall_seconds=wall + last - begun,
        classes=config.network.classes,
        fingerprint=None if facts is None else facts.fingerprint,
        source=_source(config, None if facts is None else facts.fingerprint),
    )


def _source(config: Config, fingerprint: str | None) -> str:
    from workers.data.manifest import Manifest
    from workers.data.storage import is_url

    if is_url(config.data.path):
        return ""
    try:
        manifest = Manifest.load(Path(config.data.path))
    except UserError:
        return ""
    # Another data set may be there by now.
    return manifest.source if fingerprint in (None, manifest.fingerprint) else ""


def _measured(report: Mapping[str, Any], views: Literal[1, 10]) -> Measured:
    return Measured(
        views=views,
        step=int(report.get("step", 0)),
        images=int(report["images"]),
        loss=float(report["loss"]),
        top1=float(report["top1_error"]),
        top5=float(report["top5_error"]),
    )
