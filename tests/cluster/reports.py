"""Made-up reports of a run of two columns, as rank 0 gives them and `Reporting` passes them on."""

from collections.abc import Iterable
from typing import Any

from workers import json_lines, reports


def train(
    step: int,
    *,
    loss: float = 1.0,
    data: tuple[float, ...] = (0.0, 0.0),
    exchange: tuple[float, ...] = (0.5, 0.5),
    compute: tuple[float, ...] = (3.0, 3.0),
    rate: float = 0.01,
    decoding: float | None = None,
    time: float | None = None,
) -> reports.TrainReport:
    """A report of 20 steps of 64 images, with 4 seconds for 20 steps unless told otherwise.

    decoding: seconds that the data workers have spent by now (default: as two of them do that are always busy).
    """
    seconds = data[0] + exchange[0] + compute[0]
    feed = {
        "batches": step, "decoded": 64 * step, "repeated": 0, "batches_held": 4, "corrupt_records": 0,
        "seconds_decoding": 0.4 * step if decoding is None else decoding, "batches_ready": 3, "window": 4,
    }  # fmt: skip
    return reports.TrainReport(
        **_at(step, time), images=1280, loss=loss, top1_error=0.5, top5_error=0.25, images_per_second=1280 / seconds,
        data_wait=data[0] / seconds, exchange_wait=exchange[0] / seconds, weights_rate=rate, biases_rate=2 * rate, feeds=[feed],
        by_rank={
            "data_wait_seconds": [*data], "exchange_wait_seconds": [*exchange], "compute_seconds": [*compute],
            "exchanged_bytes": [1000 * (rank + 1) for rank in range(len(data))],
        },
    )  # fmt: skip


def evaluation(step: int, time: float | None = None) -> reports.EvaluationReport:
    at = _at(step, time)
    return reports.EvaluationReport(**at, images=1000, took_seconds=2.5, loss=0.75, top1_error=0.4, top5_error=0.125)


def saved(step: int, time: float | None = None) -> reports.CheckpointReport:
    at = _at(step, time)
    del at["epoch"]
    return reports.CheckpointReport(**at, folder="runs/a/checkpoints/step-00000020", stopped_seconds=1.5)


def _at(step: int, time: float | None) -> dict[str, Any]:
    """Five steps are made in a second, and 100 are an epoch."""
    seconds = step / 5
    return {"step": step, "epoch": step / 100, "seconds": seconds, "time": seconds if time is None else time}


def start(step: int = 0, time: float = 0.0) -> reports.StartReport:
    ranks = ["column r0 c0", "column r0 c1"]
    return reports.StartReport(step=step, whole_steps=1000, batch_size=64, classes=10, ranks=ranks, time=time)


def attempt(step: int, time: float = 0.0) -> reports.AttemptReport:
    return reports.AttemptReport(step=step, number=2, time=time)


def restart(step: int, time: float = 0.0) -> reports.RestartReport:
    return reports.RestartReport(step=step, cause="died", time=time)


def end(ended: reports.Ended, step: int, why: str = "", time: float = 0.0) -> reports.EndReport:
    seconds = {"compute": 60.0, "exchange": 10.0, "data": 5.0, "evaluation": 5.0, "checkpoint": 0.0}
    spent = {"images": 1280, "images_per_second": 64.0, "seconds": seconds}
    return reports.EndReport(ended=ended, step=step, why=why, spent=spent, time=time)


def lines(made: Iterable[reports.Report]) -> str:
    """As a log has them."""
    return "".join(json_lines.dumps(report.as_json()) + "\n" for report in made)
