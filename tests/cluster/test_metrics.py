"""What reports become in Ray's metrics and in TensorBoard's files, and what Prometheus and Grafana are told of them.

The real way to Prometheus was walked by hand (docs/monitoring.md).
"""

import json
import math
import re
import shutil
import struct
import subprocess
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util import metrics as ray_metrics
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cluster import metrics
from cluster.metrics import METRICS, RayMetrics
from cluster.tensorboard import TensorBoard
from tests.cluster.reports import attempt, end, evaluation, restart, saved, start, train
from tests.cluster.runs import PROJECT
from workers.mesh import Mesh
from workers.reports import Report

MONITORING = PROJECT / "configs" / "monitoring"
BOARD = (MONITORING / "grafana" / "board.json").read_text()
PANELS: list[dict[str, Any]] = json.loads(BOARD)["panels"]
MESH = Mesh(replicas=1, processes_per_replica=2, columns_per_process=1, device="cpu")

Values = dict[tuple[str, ...], float]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Values:
    """By (name, *values of tags in their order): what a scrape would find. Ray's own checks of tags and values still run."""
    values: Values = defaultdict(float)

    def record(metric: Any, value: float, tags: dict[str, str] | None = None) -> None:
        every = metric._get_final_tags(tags)
        metric._validate_tags(every)
        key = (metric._name, *(every[name] for name in metric._tag_keys))
        values[key] = values[key] + value if isinstance(metric, ray_metrics.Counter) else value

    monkeypatch.setattr(ray_metrics.Metric, "_record", record)
    monkeypatch.setattr(ray_metrics.Gauge, "_record", record)
    return values


def test_a_run(recorded: Values) -> None:
    sink = RayMetrics("a", MESH)
    first = train(20, data=(0.5, 0.0), exchange=(1.0, 2.0), compute=(3.0, 2.5), decoding=5.0)
    second, third = train(40, loss=0.5, decoding=7.0), train(60, loss=0.25, decoding=7.5)
    for report in (start(), first, second, evaluation(40), saved(40), third, end("finished", 60)):
        sink.report(report)
    sink.close()
    spent = {("0", "data"): 0.5, ("0", "exchange"): 2.0, ("1", "exchange"): 3.0, ("0", "compute"): 9.0}
    spent |= {("1", "compute"): 8.5, ("0", "evaluation"): 2.5, ("0", "checkpoint"): 1.5}
    whole = {
        "chance_loss": math.log(10), "whole_steps": 1000, "train_loss": 0.25, "train_top1_error": 0.5,
        "train_top5_error": 0.25, "validation_loss": 0.75, "validation_top1_error": 0.4, "validation_top5_error": 0.125,
        "weights_rate": 0.01, "biases_rate": 0.02, "step": 60, "epoch": 0.6, "images_per_second": 1280 / 3.5, "steps": 60,
        "images": 3 * 1280,
    }  # fmt: skip
    replica = {"feed_ready_batches": 3, "feed_window_batches": 4, "decode_seconds": 7.5, "decoded_images": 64 * 60}
    expected: Values = {(f"alexnet_{name}", "a"): value for name, value in whole.items()}
    expected |= {(f"alexnet_{name}", "a", "0"): value for name, value in replica.items()}
    expected |= {("alexnet_spent_seconds", "a", "0", *where): seconds for where, seconds in spent.items()}
    expected |= {("alexnet_exchanged_bytes", "a", "0", column): 3000 * (int(column) + 1) for column in "01"}
    del recorded["alexnet_last_report_seconds", "a"]
    assert recorded == pytest.approx(expected)


def test_gauges_are_set_again_and_again(recorded: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray forgets one that was not set for 20 s; an evaluation's would be gone before anybody looks."""
    monkeypatch.setattr(metrics, "AGAIN_SECONDS", 0.01)
    sink = RayMetrics("a", MESH)
    sink.report(evaluation(20))
    recorded.clear()
    limit = time.monotonic() + 20
    while ("alexnet_validation_loss", "a") not in recorded and time.monotonic() < limit:
        time.sleep(0.01)
    sink.close()
    assert recorded["alexnet_validation_loss", "a"] == 0.75
    assert not any(name.endswith("spent_seconds") for name, *_ in recorded), "counters are left alone"


def test_a_restart_counts_steps_again_and_a_new_feed_from_zero(recorded: Values) -> None:
    """Steps 21 to 60 are made twice; the second feed decodes 64 * 20 images until step 40."""
    sink = RayMetrics("a", MESH)
    again = train(40, decoding=3.0)
    assert again.feeds
    again.feeds[0]["decoded"] = 64 * 20
    for report in (start(20), train(60, decoding=12.0), restart(20), attempt(20), again):
        sink.report(report)
    assert recorded["alexnet_steps", "a"] == 40 + 20
    assert recorded["alexnet_decoded_images", "a", "0"] == 64 * 60 + 64 * 20
    assert recorded["alexnet_decode_seconds", "a", "0"] == 15.0
    assert recorded["alexnet_restarts", "a", "died"] == 1


def test_one_process_with_both_columns_is_called_so(recorded: Values) -> None:
    """And a feed that has not answered yet has no values."""
    sink = RayMetrics("a", Mesh(replicas=2, processes_per_replica=1, columns_per_process=2, device="cuda"))
    sink.report(replace(train(20, compute=(3.0, 4.0)), feeds=[{}]))
    assert recorded["alexnet_spent_seconds", "a", "1", "0-1", "compute"] == 4.0
    assert not any(name.startswith(("alexnet_feed", "alexnet_decode")) for name, *_ in recorded)


def test_help_says_units_where_names_do_not() -> None:
    for name, about in METRICS.items():
        assert name.startswith("alexnet_") and not name.endswith("_total"), "Ray adds that"
        if name.endswith("_error"):
            assert "0 to 1" in about.help
        if name.endswith("_loss"):
            assert "nats" in about.help
        if name.endswith("_seconds"):
            assert "econds" in about.help


EXPORTED = {f"ray_{name}" + ("_total" if about.kind == "counter" else ""): about for name, about in METRICS.items()}


def test_expressions_name_metrics_and_tags_that_there_are_and_every_metric_is_on_the_board() -> None:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    expressions = [target["expr"] for panel in PANELS for target in panel.get("targets", ())]
    for expression in (*expressions, *(rule["expr"] for group in groups for rule in group["rules"])):
        named = re.findall(r"(ray_\w+)(?:\{([^}]*)\})?", expression)
        assert named or "ALERTS" in expression
        for name, selector in named:
            tags = set(re.findall(r"(\w+)=", selector))
            assert name in EXPORTED and tags <= {"run", *EXPORTED[name].tags}, name
    # Decoded images are a means of checking the others.
    assert {name for name in EXPORTED if name not in BOARD} <= {"ray_alexnet_decoded_images_total"}


def test_the_board_asks_its_questions_in_order_and_its_panels_do_not_overlap() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == [
        "Is it learning", "How fast", "What is it waiting for", "What failed", "When is it done",
    ]  # fmt: skip
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    # Prometheus reads Ray's stable list.
    [job] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules.test.yml"),
    ],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


RANKS = ("column r0 c0", "column r0 c1")


def checksum(data: bytes) -> int:
    """CRC-32C, bit by bit, masked as TFRecord files want it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events(file: Path) -> list[Any]:
    data, found = file.read_bytes(), []
    while data:
        length, of_length = struct.unpack("<QI", data[:12])
        event, (of_event,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
        assert (of_length, of_event) == (checksum(data[:8]), checksum(event))
        found.append(Event.FromString(event))
        data = data[16 + length :]
    return found


def scalars(file: Path) -> dict[tuple[str, int], float]:
    return {(value.tag, event.step): value.simple_value for event in events(file) for value in event.summary.value}


def test_what_reports_say_in_numbers(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path / "events", RANKS, [])
    sink.report(start())
    assert not (tmp_path / "events").exists(), "a run that never trains has no file"
    trained = train(20, data=(1.0, 0.5), exchange=(1.0, 1.5), loss=2.25)
    for report in (trained, evaluation(20), saved(20), end("finished", 20)):
        sink.report(report)
    [file] = (tmp_path / "events").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    # It is there already: a run that is killed has what it reported.
    found = scalars(file)
    sink.close()
    expected = {
        "loss/train": 2.25, "loss/validation": 0.75, "top-1 error/train": 0.5, "top-1 error/validation": 0.4,
        "top-5 error/train": 0.25, "top-5 error/validation": 0.125, "rates/weights": 0.01, "rates/biases": 0.02,
        "speed/images per second": 256.0, "data wait/column r0 c0": 0.2, "data wait/column r0 c1": 0.1,
        "exchange wait/column r0 c0": 0.2, "exchange wait/column r0 c1": 0.3,
    }  # fmt: skip
    assert found == pytest.approx({(tag, 20): value for tag, value in expected.items()})


def test_a_run_that_goes_back_takes_back_what_it_had_reported(tmp_path: Path) -> None:
    """A restart from the checkpoint of step 20, after step 60: a new file says that steps from 40 on have not been."""
    sink = TensorBoard(tmp_path / "events", RANKS, [])
    for step in (20, 40, 60, 40, 60):
        sink.report(train(step))
    sink.close()
    first, second = (events(file) for file in sorted((tmp_path / "events").iterdir()))
    assert [event.step for event in first] == [20, 20, 20, 40, 60]
    assert [event.step for event in second] == [40, 40, 40, 60]
    for written in (first, second):
        assert written[0].file_version == "brain.Event:2"
        assert written[1].session_log.status == SessionLog.START
    # A full disk is an error at once.
    (tmp_path / "file").write_text("where the folder should be")
    with pytest.raises(OSError, match="file"):
        TensorBoard(tmp_path / "file", RANKS, []).report(train(20))


@pytest.mark.parametrize("torn", [False, True])
def test_what_the_log_has_and_a_killed_process_had_not_written_is_written_by_the_next(
    tmp_path: Path, torn: bool
) -> None:
    """Also where the last event was being written."""
    logged: list[Report] = [
        start(time=1.0),
        *(train(step) for step in (20, 40, 60)),
        evaluation(60, time=12.5),
        start(60, time=13.0),
    ]
    sink = TensorBoard(tmp_path / "events", RANKS, [])
    for report in logged[: 4 if torn else 3]:
        sink.report(report)
    [file] = (tmp_path / "events").iterdir()
    if torn:
        file.write_bytes(file.read_bytes()[:-3])
    for step in (80, 100):  # twice, for what is there is not written again
        logged.append(train(step))
        again = TensorBoard(tmp_path / "events", RANKS, logged[:-1])
        again.report(start(60))
        again.report(logged[-1])
        again.close()
    first, second, third = sorted((tmp_path / "events").iterdir())
    assert torn or [event.step for event in events(first)] == [20, 20, 20, 40]
    assert [event.step for event in events(second)] == [60, 60, 60, 60, 80]
    assert [event.step for event in events(third)] == [100, 100, 100]
    assert scalars(second)["loss/validation", 60] == 0.75
