"""What a run reports. A line of `log.jsonl` is a report as JSON: its `kind`, and the fields of its class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

Ended = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Fields with a default are missing in logs of older versions, or of other runs than of `cluster.train`."""

    kind: ClassVar[str] = ""
    step: int
    """Updates made."""
    time: float = 0.0
    """When the driver took it, in seconds since 1970."""

    def as_json(self) -> dict[str, Any]:
        """As plain data, without the fields that are None."""
        return {"kind": self.kind, **{name: value for name, value in vars(self).items() if value is not None}}


class ByRank(TypedDict):
    """Lists over ranks, of the time since the report before: `compute_seconds` is all that was not waiting."""

    data_wait_seconds: list[float]
    exchange_wait_seconds: list[float]
    compute_seconds: list[float]
    exchanged_bytes: NotRequired[list[int]]
    """Sent by that rank."""


NO_TIMES: ByRank = {"data_wait_seconds": [], "exchange_wait_seconds": [], "compute_seconds": []}


@dataclass(frozen=True, kw_only=True)
class ColumnReport(Report):
    """One that rank 0 makes."""

    seconds: float = 0.0
    """Since its process was started."""


@dataclass(frozen=True, kw_only=True)
class ErrorsReport(ColumnReport):
    """Means over `images`: loss in nats, errors from 0 to 1."""

    epoch: float
    images: int
    loss: float
    top1_error: float
    top5_error: float


@dataclass(frozen=True, kw_only=True)
class TrainReport(ErrorsReport):
    """Of the steps since the report before. Waits are shares of rank 0's time."""

    kind = "train"
    images_per_second: float
    data_wait: float = 0.0
    exchange_wait: float = 0.0
    weights_rate: float = 0.0
    biases_rate: float = 0.0
    by_rank: ByRank = field(default_factory=lambda: NO_TIMES)
    feeds: list[dict[str, Any]] | None = None
    """Counters of each replica's feed (`Feed.status`); the driver adds them."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReport(ErrorsReport):
    kind = "evaluation"
    took_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CheckpointReport(ColumnReport):
    """Seconds that training stood still (of these `waited_seconds` for the save before), and from the copy to the commit."""

    kind = "checkpoint"
    folder: str
    stopped_seconds: float = 0.0
    waited_seconds: float = 0.0
    commit_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ProfileReport(ColumnReport):
    """Traces of steps `first` to `last`; `bytes` by rank. What the driver has made of them is None if it could not."""

    kind = "profile"
    first: int
    last: int
    bytes: list[int]
    file: str | None = None
    file_bytes: int | None = None
    clock_error_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class WarningReport(ColumnReport):
    kind = "warning"
    text: str


@dataclass(frozen=True, kw_only=True)
class StartReport(Report):
    """A command begins. changed: settings that differ from the last start's. differences: of a stock run, from the config."""

    kind = "start"
    whole_steps: int = 0
    batch_size: int = 0
    classes: int = 0
    ranks: Sequence[str] = ()
    changed: list[str] | None = None
    differences: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptReport(Report):
    """The columns begin after `step`."""

    kind = "attempt"
    number: int
    replicas: int = 1


@dataclass(frozen=True, kw_only=True)
class FailureReport(Report):
    kind = "failure"
    number: int
    """Of the attempt."""
    cause: str
    what: str


@dataclass(frozen=True, kw_only=True)
class RestartReport(Report):
    kind = "restart"
    cause: str
    """In a word or two, for it becomes a tag of a metric."""


@dataclass(frozen=True, kw_only=True)
class VerdictReport(Report):
    kind = "verdict"
    text: str


@dataclass(frozen=True, kw_only=True)
class EndReport(Report):
    kind = "end"
    ended: Ended
    why: str = ""
    spent: dict[str, Any] | None = None
    """`Totals.as_json`."""


KINDS: dict[Any, type[Report]] = {
    one.kind: one
    for one in (
        StartReport, AttemptReport, TrainReport, EvaluationReport, CheckpointReport, ProfileReport, WarningReport, VerdictReport,
        FailureReport, RestartReport, EndReport,
    )
}  # fmt: skip


def from_json(entries: Iterable[Mapping[str, Any]]) -> list[Report]:
    """Reports of what `as_json` made. What other versions have more is left out, entries of other kinds too."""
    found = []
    for entry in entries:
        kind = KINDS.get(str(entry.get("kind")), Report)
        names = {one.name for one in fields(kind)}
        try:
            report = kind(**{name: value for name, value in entry.items() if name in names})
        except TypeError:  # a field is missing
            continue
        if report.kind:
            found.append(report)
    return found
