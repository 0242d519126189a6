"""Made-up reports of a run of two columns, as rank 0 gives them and `Reporting` passes them on."""

from typing import Any


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
) -> dict[str, Any]:
    """A report of 20 steps of 64 images, with 4 seconds for 20 steps unless told otherwise.

    decoding: seconds that the data workers have spent by now (default: as two of them do that are always busy).
    """
    seconds = data[0] + exchange[0] + compute[0]
    by_rank = {
        f"{name}_seconds": [*of]
        for name, of in (("data_wait", data), ("exchange_wait", exchange), ("compute", compute))
    }
    feed = {
        "batches": step, "decoded": 64 * step, "repeated": 0, "batches_held": 4, "corrupt_records": 0,
        "seconds_decoding": 0.4 * step if decoding is None else decoding, "batches_ready": 3, "window": 4,
    }  # fmt: skip
    return _report(
        "train", step, time, images=1280, loss=loss, top1_error=0.5, top5_error=0.25, images_per_second=1280 / seconds,
        data_wait=data[0] / seconds, exchange_wait=exchange[0] / seconds, weights_rate=rate, biases_rate=2 * rate, feeds=[feed],
        by_rank={**by_rank, "exchanged_bytes": [1000 * (rank + 1) for rank in range(len(data))]},
    )  # fmt: skip


def evaluation(step: int, time: float | None = None) -> dict[str, Any]:
    errors = {"loss": 0.75, "top1_error": 0.4, "top5_error": 0.125}
    return _report("evaluation", step, time, images=1000, took_seconds=2.5, **errors)


def saved(step: int, time: float | None = None) -> dict[str, Any]:
    return _report("checkpoint", step, time, folder="runs/a/checkpoints/step-00000020", stopped_seconds=1.5)


def _report(kind: str, step: int, time: float | None, **more: Any) -> dict[str, Any]:
    """Five steps are made in a second, and 100 are an epoch."""
    seconds = step / 5
    when = {"step": step, "epoch": step / 100, "seconds": seconds, "time": seconds if time is None else time}
    return {"kind": kind, **when, **more}


def start(step: int = 0, time: float = 0.0) -> dict[str, Any]:
    return {
        "kind": "start", "step": step, "whole_steps": 1000, "batch_size": 64, "classes": 10,
        "ranks": ["column r0 c0", "column r0 c1"], "time": time,
    }  # fmt: skip


def end(ended: str, step: int, why: str = "", time: float = 0.0) -> dict[str, Any]:
    seconds = {"compute": 60.0, "exchange": 10.0, "data": 5.0, "evaluation": 5.0, "checkpoint": 0.0}
    spent = {"images": 1280, "images_per_second": 64.0, "seconds": seconds}
    return {"kind": "end", "ended": ended, "step": step, "why": why, "spent": spent, "time": time}
