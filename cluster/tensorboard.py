"""A sink that writes TensorBoard's event files: what a run's reports say in numbers, by step."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from workers.reports import EvaluationReport, Report, TrainReport

TRAIN = {
    "loss": "loss/train",
    "top1_error": "top-1 error/train",
    "top5_error": "top-5 error/train",
    "weights_rate": "rates/weights",
    "biases_rate": "rates/biases",
    "images_per_second": "speed/images per second",
}
EVALUATION = {"loss": "loss/validation", "top1_error": "top-1 error/validation", "top5_error": "top-5 error/validation"}


class TensorBoard:
    """One event file per start of a run. Written at once by tensorboardX's record writer: its `SummaryWriter` writes in a thread,
    which a full disk ends without a word, and then blocks whoever reports.

    ranks: names of the run's processes, in order. logged: the run's reports so far. Those that the files lack, because the last
    process was killed or left this sink out, are written first.
    """

    def __init__(self, folder: Path, ranks: tuple[str, ...], logged: Sequence[Report]) -> None:
        self._folder, self._ranks, self._logged = folder, ranks, logged
        self._writer: Any = None
        self._step = -1

    def report(self, report: Report) -> None:
        logged, self._logged = self._logged, ()
        last = last_written(self._folder) if logged else 0.0
        # From the end, for clocks may be set back; where the log does not have it, all is written again.
        lacking = list(takewhile(lambda one: one.time != last, reversed(logged)))
        for one in (*reversed(lacking), report):
            self._put(one)

    def _put(self, report: Report) -> None:
        values = list(scalars(report, self._ranks))
        if not values:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        step = report.step
        if self._writer is None or step < self._step:
            self._begin(step)
        self._step = step
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
        self._write(Event(wall_time=report.time, step=step, summary=summary))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self, step: int) -> None:
        """A file whose first event says that what earlier ones tell of this step and later ones has not been."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(str(self._folder / name))
        self._write(Event(wall_time=time.time(), step=step, file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


def last_written(folder: Path) -> float:
    """When the last report in a folder's event files was made, in seconds since 1970; 0 if there is none."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # its types are a package of their own
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.glob("events.out.tfevents.*"), reverse=True):
        data, at, event = file.read_bytes(), 0, Event()
        # Records of length, its checksum, an event, its checksum; the last may have been cut short, or be rubbish.
        with suppress(DecodeError):
            while (end := at + 16 + int.from_bytes(data[at : at + 8], "little")) <= len(data):
                event, at = Event.FromString(data[at + 12 : end - 4]), end
        if event.HasField("summary"):
            return float(event.wall_time)
    return 0.0


def scalars(report: Report, ranks: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """(tag, value) of what a report says in numbers. ranks: as in `TensorBoard`."""
    if isinstance(report, EvaluationReport):
        yield from ((tag, getattr(report, key)) for key, tag in EVALUATION.items())
    if not isinstance(report, TrainReport):
        return
    yield from ((tag, getattr(report, key)) for key, tag in TRAIN.items())
    spent = report.by_rank
    rows = zip(
        ranks, spent["data_wait_seconds"], spent["exchange_wait_seconds"], spent["compute_seconds"], strict=False
    )
    for name, data, exchange, compute in rows:
        whole = max(data + exchange + compute, 1e-9)
        yield f"data wait/{name}", data / whole
        yield f"exchange wait/{name}", exchange / whole
