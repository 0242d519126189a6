"""What a check found, and how people read it."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Result:
    """One thing that a check found."""

    name: str
    """Of the check."""
    state: Literal["ok", "warning", "failed", "skipped"] = "failed"
    where: str = ""
    """The node, or the link between two; empty: the cluster, or what `what` names."""
    what: str
    todo: str = ""

    @property
    def ok(self) -> bool:
        """Whether a run may start in spite of it."""
        return self.state != "failed"

    @property
    def line(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{where}{self.what}" + (f". {self.todo[0].upper()}{self.todo[1:]}" if self.todo else "")


def summary(results: Sequence[Result], seconds: float) -> str:
    """How many checks passed, by name."""
    names = list(dict.fromkeys(result.name for result in results))
    worst = {name: {result.state for result in results if result.name == name} for name in names}
    failed = sum("failed" in states for states in worst.values())
    skipped = sum(states == {"skipped"} for states in worst.values())
    text = f"{len(names) - failed - skipped} checks passed"
    if failed:
        text += f", {failed} failed"
    return f"preflight: {text} in {seconds:.1f} s"


class Waiting:
    """A line on stderr for waits that last: after two seconds, then every five."""

    def __init__(self) -> None:
        self._next = time.monotonic() + 2.0

    def say(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 5.0
            print(f"preflight: {text}", file=sys.stderr, flush=True)
