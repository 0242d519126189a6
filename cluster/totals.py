"""What the time of a run went on, added up from its reports."""

from typing import Any

from cluster.console import clock
from workers.reports import CheckpointReport, EvaluationReport, Report, TrainReport

WORDS = {
    "compute": "computing",
    "exchange": "waiting for other columns",
    "data": "waiting for data",
    "evaluation": "evaluations",
    "checkpoint": "checkpoints",
}


class Totals:
    """Images trained on, and seconds by what they were spent on: means over ranks for steps, rank 0's for the rest."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds = dict.fromkeys(WORDS, 0.0)

    def add(self, report: Report) -> None:
        if isinstance(report, TrainReport):
            for what, seconds in step_seconds(report).items():
                self.seconds[what] += sum(seconds) / max(len(seconds), 1)
            self.images += report.images
        elif isinstance(report, EvaluationReport | CheckpointReport):
            self.seconds[report.kind] += held_seconds(report)

    @property
    def images_per_second(self) -> float:
        """In training steps."""
        in_steps = sum(self.seconds[what] for what in ("compute", "exchange", "data"))
        return self.images / in_steps if in_steps else 0.0

    def as_json(self) -> dict[str, Any]:
        return {"images": self.images, "images_per_second": self.images_per_second, "seconds": self.seconds}


def held_seconds(report: EvaluationReport | CheckpointReport) -> float:
    """How long an evaluation, or a checkpoint that is then saved while training goes on, kept the steps waiting."""
    return report.took_seconds if isinstance(report, EvaluationReport) else report.stopped_seconds


def step_seconds(report: TrainReport) -> dict[str, list[float]]:
    """Of a training report: seconds of each rank, by what they were spent on."""
    spent = report.by_rank
    return {
        "data": spent["data_wait_seconds"],
        "exchange": spent["exchange_wait_seconds"],
        "compute": spent["compute_seconds"],
    }


def total_lines(totals: dict[str, Any], whole_seconds: float) -> list[tuple[str, str]]:
    """`Totals.as_json` in words. whole_seconds: of all that the run did, its start included."""
    whole = max(whole_seconds, 1e-9)
    spent = {words: totals["seconds"][what] / whole for what, words in WORDS.items()}
    spent["starting and all else"] = max(0.0, 1.0 - sum(spent.values()))
    parts = ", ".join(f"{words} {share:.0%}" for words, share in spent.items() if share >= 0.005)
    return [
        ("speed", f"{totals['images_per_second']:,.0f} images/s in training steps"),
        ("time", f"{clock(whole_seconds)}: {parts}"),
    ]
