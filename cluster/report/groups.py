"""Which runs are one configuration with several seeds, and what settings differ between configurations."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.report.records import RunRecord
from configs.loader import to_dict
from configs.schema import Config

ALIKE = (
    "name",
    "runs_folder",
    "data",
    "cluster",
    "fault",
    "checkpoint",
    "compute.fused",
    "compute.channels_last",
    "compute.compile",
    "train.seed",
    "train.report_every_steps",
    "train.evaluate_every_epochs",
    "train.evaluate_batch_size",
    "train.profile_steps",
)
"""Settings that do not make another configuration: where, how fast and how often, and the seed. Data sets are told apart by
their fingerprints."""
DATA_SET = "data set"
ABSENT = "absent"
"""In place of the value of a setting, such as of a layer, that is not there."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting, or a section that is there in one config alone."""

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs whose configs differ in their seeds and names alone."""

    label: str
    runs: tuple[RunRecord, ...]
    differences: tuple[Difference, ...]
    """From the first group."""


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """In the order of each group's first run."""
    grouped: dict[str, list[RunRecord]] = {}
    for record in records:
        key = json.dumps(_learned(record), sort_keys=True)
        grouped.setdefault(key, []).append(record)
    first = _learned(records[0]) if records else {}
    return [
        Group(label=_label(runs), runs=tuple(runs), differences=tuple(differences(first, _learned(runs[0]))))
        for runs in grouped.values()
    ]


def differences(before: Any, after: Any, path: str = "") -> list[Difference]:
    """Between two configs as plain data; lists are compared as wholes."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in [*before, *(key for key in after if key not in before)]:
            at = f"{path}.{key}" if path else str(key)
            found += differences(before.get(key, ABSENT), after.get(key, ABSENT), at)
        return found
    return [] if before == after else [Difference(path=path, before=before, after=after)]


def without(settings: Any, ignored: Iterable[str], path: str = "") -> Any:
    """The same plain data without these paths."""
    if not isinstance(settings, dict):
        return settings
    kept = {}
    for key, value in settings.items():
        at = f"{path}.{key}" if path else str(key)
        if at not in ignored:
            kept[key] = without(value, ignored, at)
    return kept


def overrides(own: Config, used: Config) -> list[str]:
    """Names of settings, other than those of places and speeds, that an evaluation had otherwise than the run it tested."""
    before, after = (without(to_dict(config), ALIKE) for config in (own, used))
    return [one.path for one in differences(before, after)]


def _learned(record: RunRecord) -> dict[str, Any]:
    settings: dict[str, Any] = without(record.settings, ALIKE)
    return {**settings, DATA_SET: record.fingerprint or record.settings["data"]["path"]}


def _label(runs: Sequence[RunRecord]) -> str:
    labels = [run.label for run in runs]
    if len(labels) == 1:
        return labels[0]
    # Letter by letter: these are names, not paths.
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*labels, strict=False))
    return "".join(letters[0] for letters in same).rstrip("-_. ") or labels[0]


def value_in_words(path: str, value: Any) -> str:
    """Short enough for a cell of a table."""
    if path == DATA_SET:
        return str(value)[:12]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "set"
    if isinstance(value, list):
        if any(isinstance(one, dict) for one in value):
            return f"{len(value)} entries"
        return ", ".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)
