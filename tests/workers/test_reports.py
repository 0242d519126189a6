"""Reports as lines of a log: what older and newer versions have written can be read, and the format stays what it is."""

from dataclasses import fields
from typing import Any

from workers.reports import KINDS, EvaluationReport, TrainReport, WarningReport, from_json

OLD = {"kind": "train", "step": 20, "epoch": 0.1, "images": 10, "loss": 2.0, "top1_error": 0.5, "top5_error": 0.2}
ALWAYS = {"kind", "step", "time"}
ERRORS = {"epoch", "images", "loss", "top1_error", "top5_error", "seconds"}
SHARES = {"images_per_second", "data_wait", "exchange_wait", "by_rank", "feeds"}
FORMAT = {
    "start": {"whole_steps", "batch_size", "classes", "ranks", "changed", "differences"},
    "attempt": {"number", "replicas"},
    "train": {*ERRORS, *SHARES, "weights_rate", "biases_rate"},
    "evaluation": {*ERRORS, "took_seconds"},
    "checkpoint": {"folder", "stopped_seconds", "waited_seconds", "commit_seconds", "seconds"},
    "profile": {"first", "last", "bytes", "file", "file_bytes", "clock_error_seconds", "seconds"},
    "warning": {"text", "seconds"},
    "failure": {"number", "cause", "what"},
    "restart": {"cause"},
    "verdict": {"text"},
    "end": {"ended", "why", "spent"},
}
"""Other people's sinks and scripts rely on it."""


def test_the_format_is_what_others_rely_on() -> None:
    found = {kind: {"kind", *(one.name for one in fields(made))} for kind, made in KINDS.items()}
    assert found == {kind: names | ALWAYS for kind, names in FORMAT.items()}


def test_what_is_not_known_is_left_out() -> None:
    expected = {"kind": "warning", "step": 1, "text": "a", "time": 0.0, "seconds": 0.0}
    assert WarningReport(step=1, text="a").as_json() == expected
    assert "feeds" not in from_json([{**OLD, "images_per_second": 1.0}])[0].as_json()


def test_other_versions_lines_are_read_as_far_as_they_are_understood() -> None:
    newer = {**OLD, "kind": "evaluation", "views": 10}
    unknown: list[dict[str, Any]] = [
        {"kind": "weather", "step": 3},
        {"step": 3},
        {"kind": ["train"], "step": 3},
        {"kind": "train", "step": 3},
    ]
    old, later = from_json([*unknown, {**OLD, "images_per_second": 1.0}, newer])
    assert isinstance(old, TrainReport) and (old.weights_rate, old.by_rank["compute_seconds"]) == (0.0, [])
    assert isinstance(later, EvaluationReport) and later.took_seconds == 0.0
    assert from_json([old.as_json(), later.as_json()]) == [old, later]
