"""JSON as all programs read it, and files of one object per line, by processes that may be killed while they write."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NO_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""As text, for JSON has no such numbers; `loads` makes numbers of it again."""

ANY = re.compile('"(NaN|-?Infinity)"')


def dumps(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_as_text(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Raises ValueError."""
    value = json.loads(text)
    # Looking at every value takes ten times as long as reading it, and few texts have such numbers.
    return _as_numbers(value) if ANY.search(text if isinstance(text, str) else text.decode()) else value


def append(file: Path, entry: Mapping[str, Any]) -> None:
    """As a line of its own, whatever became of the last one. Raises OSError."""
    # Opened each time, so that the folder may be moved, and a full disk that has room again is noticed.
    with file.open("ab+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
        whole = stream.read(1) in (b"", b"\n")
        stream.write((b"" if whole else b"\n") + dumps(entry).encode() + b"\n")


def read(file: Path) -> list[dict[str, Any]]:
    """What can be read: of a line that was being written when the machine went down, nothing; of no file, nothing either."""
    try:
        return parse(file.read_bytes().splitlines())
    except OSError:
        return []


def parse(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            entry = loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def _as_text(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _everywhere(_as_text, value)


def _as_numbers(value: Any) -> Any:
    return NO_NUMBERS.get(value, value) if isinstance(value, str) else _everywhere(_as_numbers, value)


def _everywhere(change: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: change(below) for key, below in value.items()}
    return [change(below) for below in value] if isinstance(value, list | tuple) else value
