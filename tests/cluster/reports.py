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
    return {
        "kind": "train",
        "step": step,
        "epoch": step / 100,
        "images": 1280,
        "loss": loss,
        "top1_error": 0.5,
        "top5_error": 0.25,
        "images_per_second": 1280 / seconds,
        "data_wait": data[0] / seconds,
        "exchange_wait": exchange[0] / seconds,
        "by_rank": {
            "data_wait_seconds": [*data],
            "exchange_wait_seconds": [*exchange],
            "compute_seconds": [*compute],
            "exchanged_bytes": [1000 * (rank + 1) for rank in range(len(data))],
        },
        "weights_rate": rate,
        "biases_rate": 2 * rate,
        "seconds": step / 5,
        "feeds": [
            {
                "batches": step, "decoded": 64 * step, "repeated": 0, "batches_held": 4, "corrupt_records": 0,
                "seconds_decoding": 0.4 * step if decoding is None else decoding, "batches_ready": 3, "window": 4,
            }
        ],
        "time": step / 5 if time is None else time,
    }  # fmt: skip


def evaluation(step: int, time: float | None = None) -> dict[str, Any]:
    return {
        "kind": "evaluation", "step": step, "epoch": step / 100, "images": 1000, "loss": 0.75, "top1_error": 0.4,
        "top5_error": 0.125, "took_seconds": 2.5, "seconds": step / 5, "time": step / 5 if time is None else time,
    }  # fmt: skip


def saved(step: int, time: float | None = None) -> dict[str, Any]:
    return {
        "kind": "checkpoint", "step": step, "folder": "runs/a/checkpoints/step-00000020", "stopped_seconds": 1.5,
        "seconds": step / 5, "time": step / 5 if time is None else time,
    }  # fmt: skip


def start(step: int = 0, time: float = 0.0) -> dict[str, Any]:
    return {
        "kind": "start", "step": step, "whole_steps": 1000, "batch_size": 64, "classes": 10,
        "ranks": ["column r0 c0", "column r0 c1"], "time": time,
    }  # fmt: skip


def end(ended: str, step: int, why: str = "", time: float = 0.0) -> dict[str, Any]:
    seconds = {"compute": 60.0, "exchange": 10.0, "data": 5.0, "evaluation": 5.0, "checkpoint": 0.0}
    spent = {"images": 1280, "images_per_second": 64.0, "seconds": seconds}
    return {"kind": "end", "ended": ended, "step": step, "why": why, "spent": spent, "time": time}
