"""Which runs are one configuration with several seeds."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.report.records import RunRecord
from cluster.settings import ALIKE, Difference, differences, without

DATA_SET = "data set"
TRAINED_BY = "trained by"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs whose configs differ in their seeds and names alone, trained by the same program."""

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


def _learned(record: RunRecord) -> dict[str, Any]:
    settings: dict[str, Any] = without(record.settings, ALIKE)
    known = {**settings, DATA_SET: record.fingerprint or record.settings["data"]["path"]}
    return {**known, TRAINED_BY: "stock PyTorch"} if record.stock else known


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
