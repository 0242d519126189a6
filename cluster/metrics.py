"""A sink that gives a run's reports to Ray's metrics, from where Prometheus fetches them (docs/monitoring.md).

Made in the driver. Ray puts `ray_` before each name, and `_total` behind those of counters. Means over time come from two
counters: Ray works the sums of histograms out from the middles of their buckets, so they are wrong. And it forgets a gauge
that was not set for twice its interval of 10 s, so all are set again every few seconds, with the values that they have.
"""

import math
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

from cluster.totals import held_seconds, step_seconds
from workers import reports
from workers.mesh import Mesh


@dataclass(frozen=True)
class About:
    """A metric: what Prometheus says of it, and the tags that it has beside `run`."""

    kind: Literal["gauge", "counter"]
    help: str
    tags: tuple[str, ...] = ()


EACH = ("replica", "column")
METRICS = {
    "alexnet_train_loss": About("gauge", "Mean loss of the training images since the report before, in nats"),
    "alexnet_train_top1_error": About("gauge", "Top-1 error of the training images since the report before, 0 to 1"),
    "alexnet_train_top5_error": About("gauge", "Top-5 error of the training images since the report before, 0 to 1"),
    "alexnet_validation_loss": About("gauge", "Mean loss of the validation images at the last evaluation, in nats"),
    "alexnet_validation_top1_error": About(
        "gauge", "Top-1 error of the validation images at the last evaluation, 0 to 1"
    ),
    "alexnet_validation_top5_error": About(
        "gauge", "Top-5 error of the validation images at the last evaluation, 0 to 1"
    ),
    "alexnet_chance_loss": About("gauge", "Loss of a network that knows nothing: ln(classes), in nats"),
    "alexnet_weights_rate": About("gauge", "Learning rate of the weights"),
    "alexnet_biases_rate": About("gauge", "Learning rate of the biases"),
    "alexnet_step": About("gauge", "Updates made, of this run's whole life"),
    "alexnet_whole_steps": About("gauge", "Updates that the run is to make"),
    "alexnet_epoch": About("gauge", "Passes over the training set, of this run's whole life"),
    "alexnet_images_per_second": About("gauge", "Images trained on per second of step time since the report before"),
    "alexnet_last_report_seconds": About("gauge", "When the last report came, in seconds since 1970"),
    "alexnet_steps": About("counter", "Updates made since this start"),
    "alexnet_images": About("counter", "Images trained on since this start"),
    "alexnet_spent_seconds": About(
        "counter",
        "Seconds by what they were spent on: data (waiting for a batch), exchange (waiting for other columns), compute, "
        "evaluation, checkpoint; the last two are told by replica 0, column 0",
        (*EACH, "what"),
    ),
    "alexnet_exchanged_bytes": About("counter", "Bytes sent to other columns in training steps", EACH),
    "alexnet_feed_ready_batches": About("gauge", "Batches that are finished and wait for a column", ("replica",)),
    "alexnet_feed_window_batches": About("gauge", "Batches that may be under way or waiting", ("replica",)),
    "alexnet_decode_seconds": About("counter", "Seconds that data workers spent making batches", ("replica",)),
    "alexnet_decoded_images": About("counter", "Images decoded, evaluations' too", ("replica",)),
    "alexnet_repeated_batches": About("counter", "Batches asked for again after a data worker died", ("replica",)),
    "alexnet_corrupt_records": About("counter", "Training images found damaged", ("replica",)),
    "alexnet_restarts": About("counter", "Restarts of the columns, by cause", ("cause",)),
}
TRAIN = {
    "alexnet_train_loss": "loss",
    "alexnet_train_top1_error": "top1_error",
    "alexnet_train_top5_error": "top5_error",
    "alexnet_weights_rate": "weights_rate",
    "alexnet_biases_rate": "biases_rate",
    "alexnet_step": "step",
    "alexnet_epoch": "epoch",
    "alexnet_images_per_second": "images_per_second",
}
EVALUATION = {
    "alexnet_validation_loss": "loss",
    "alexnet_validation_top1_error": "top1_error",
    "alexnet_validation_top5_error": "top5_error",
}
AGAIN_SECONDS = 5.0
"""How often gauges are set again."""
FEED = {
    "alexnet_decode_seconds": "seconds_decoding",
    "alexnet_decoded_images": "decoded",
    "alexnet_repeated_batches": "repeated",
    "alexnet_corrupt_records": "corrupt_records",
}


class RayMetrics:
    """run: name of the run, the tag of all its metrics. Needs a process that is connected to Ray."""

    def __init__(self, run: str, mesh: Mesh) -> None:
        from ray.util import metrics

        make = {"gauge": metrics.Gauge, "counter": metrics.Counter}
        self._metrics: dict[str, Any] = {}
        for name, about in METRICS.items():
            metric = make[about.kind](name, description=about.help, tag_keys=("run", *about.tags))
            self._metrics[name] = metric.set_default_tags({"run": run})
        self._places = [
            {"replica": str(mesh.replica(rank)), "column": _columns(mesh, rank)} for rank in range(mesh.size)
        ]
        self._step = 0
        self._feeds: list[dict[str, Any]] = []
        self._gauges: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._set_again, name="metrics", daemon=True).start()

    def report(self, report: reports.Report) -> None:
        match report:
            case reports.StartReport():
                self._step = report.step
                self._set("alexnet_chance_loss", math.log(report.classes))
                self._set("alexnet_whole_steps", report.whole_steps)
            case reports.TrainReport():
                self._train(report)
            case reports.EvaluationReport():
                for name, key in EVALUATION.items():
                    self._set(name, getattr(report, key))
            case reports.AttemptReport():
                self._step = report.step
            case reports.RestartReport():
                self._add("alexnet_restarts", 1, {"cause": report.cause})
        if isinstance(report, reports.EvaluationReport | reports.CheckpointReport):
            self._add("alexnet_spent_seconds", held_seconds(report), {**self._places[0], "what": report.kind})
        self._set("alexnet_last_report_seconds", time.time())

    def close(self) -> None:
        """Gauges are gone soon after; the last values of counters stay."""
        self._closed.set()

    def _train(self, report: reports.TrainReport) -> None:
        for name, key in TRAIN.items():
            self._set(name, getattr(report, key))
        # After a restart steps are made a second time, and count a second time.
        self._add("alexnet_steps", max(0, report.step - self._step))
        self._step = report.step
        self._add("alexnet_images", report.images)
        # Replicas that are missing come last.
        for what, seconds in step_seconds(report).items():
            for place, value in zip(self._places, seconds, strict=False):
                self._add("alexnet_spent_seconds", value, {**place, "what": what})
        for place, count in zip(self._places, report.by_rank.get("exchanged_bytes", ()), strict=False):
            self._add("alexnet_exchanged_bytes", count, place)
        for replica, feed in enumerate(report.feeds or ()):
            self._feed(replica, feed)

    def _feed(self, replica: int, feed: dict[str, Any]) -> None:
        if not feed:
            return  # nothing was heard of it yet
        while len(self._feeds) <= replica:
            self._feeds.append({})
        before, place = self._feeds[replica], {"replica": str(replica)}
        self._feeds[replica] = feed
        self._set("alexnet_feed_ready_batches", feed["batches_ready"], place)
        self._set("alexnet_feed_window_batches", feed["window"], place)
        # A feed that was started again counts from 0.
        again = feed["decoded"] < before.get("decoded", 0)
        for name, key in FEED.items():
            self._add(name, feed[key] - (0 if again else before.get(key, 0)), place)

    def _set(self, name: str, value: float, tags: dict[str, str] | None = None) -> None:
        with self._lock:
            self._gauges[name, frozenset((tags or {}).items())] = value
            self._metrics[name].set(value, tags=tags)

    def _set_again(self) -> None:
        while not self._closed.wait(AGAIN_SECONDS):
            with self._lock:
                for (name, tags), value in self._gauges.items():
                    self._metrics[name].set(value, tags=dict(tags))

    def _add(self, name: str, value: float, tags: dict[str, str] | None = None) -> None:
        if value > 0:  # Ray refuses to add nothing
            self._metrics[name].inc(value, tags=tags)


def _columns(mesh: Mesh, rank: int) -> str:
    """The tag of a process's columns: 0, or 0-1 where one process owns both."""
    first = mesh.first_column(rank)
    last = first + mesh.columns_per_process - 1
    return str(first) if first == last else f"{first}-{last}"
