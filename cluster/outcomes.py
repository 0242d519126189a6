"""How an attempt at a run can end, and what is decided then: types without behaviour."""

from dataclasses import dataclass
from typing import Any, Literal

from configs.errors import Nature


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The program was gone through to its end."""

    results: list[dict[str, Any]]
    """Of each rank: `ended`, `step`, `errors`."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """All ranks stopped at the same step and saved, because they were asked to."""

    why: Literal["signal", "drain", "resize"]
    """A signal in the driver; a node that will be taken away; nodes that have come back."""
    step: int
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something died, hung or raised. The actors that are left are of no use any more."""

    kind: Literal["death", "hang", "no room", "error"]
    what: str
    """One line: who, where, how."""
    nature: Nature = "away"
    counts_as: Literal["failure", "preemption"] = "failure"


Outcome = Finished | Stopped | Failure


@dataclass(frozen=True, kw_only=True)
class Restart:
    after_seconds: float
    why: str


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    why: str


Decision = Restart | GiveUp
