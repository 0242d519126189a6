"""`evaluations.jsonl` in a run's folder: the errors that `python -m cluster.evaluate` found, one evaluation per line."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers import json_lines

FILE = "evaluations.jsonl"
ERRORS = ("images", "loss", "top1_error", "top5_error")


def keep(run: Path, evaluation: Mapping[str, Any]) -> None:
    """Add an evaluation to a run's folder. A folder that cannot be written is none of its business: the errors were printed.

    evaluation: `checkpoint`, `step` (of this run's network), `views`, `data`, `dataset` (its fingerprint), `overrides` (names of
    settings that were not the run's) and `ERRORS`; of several networks together, `members` in place of the first: the folders
    of their checkpoints, with their `weights`, and whether each was `pretrained`.
    """
    with contextlib.suppress(OSError):
        json_lines.append(run / FILE, {**evaluation, "time": time.time()})


def as_json(views: int, data: str, errors: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `--json` writes. members: of each network its `checkpoint`, `updates` and `weight`, and the errors of it alone."""
    return {"views": views, "data": data, **errors, "members": [*members]}


def read(run: Path) -> list[dict[str, Any]]:
    """All that were kept, oldest first; lines that cannot be understood are passed over."""
    return [
        entry
        for entry in json_lines.read(run / FILE)
        if all(isinstance(entry.get(key), int | float) for key in (*ERRORS, "views"))
    ]
