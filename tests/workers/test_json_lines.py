"""Logs after a crash, and numbers that JSON does not have."""

import json
import math
from pathlib import Path

import pytest

from workers.json_lines import append, dumps, loads, read


@pytest.mark.parametrize("end", ["", "\n", '{"kind": "tr', "\xff"])
def test_a_torn_line_takes_no_other_with_it(tmp_path: Path, end: str) -> None:
    file = tmp_path / "log.jsonl"
    assert read(file) == []
    append(file, {"step": 1})
    with file.open("ab") as log:
        log.write(end.encode("latin-1"))
    for step in (2, 3):
        append(file, {"step": step})
    assert [entry["step"] for entry in read(file)] == [1, 2, 3]


@pytest.mark.parametrize("indent", [None, 1])
def test_numbers_that_are_none_are_written_as_text_and_read_as_numbers(indent: int | None) -> None:
    written = dumps({"a": [math.nan, 1.5], "b": {"c": (math.inf, -math.inf)}, "d": "é"}, indent=indent)
    plain = json.loads(written, parse_constant=pytest.fail)
    assert plain == {"a": ["NaN", 1.5], "b": {"c": ["Infinity", "-Infinity"]}, "d": "é"}
    again = loads(written)
    assert math.isnan(again["a"][0]) and again["b"]["c"] == [math.inf, -math.inf] and again["d"] == "é"
