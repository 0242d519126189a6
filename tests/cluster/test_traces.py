"""The merged trace of a real run, what it says of who computes and who waits, and the picture of it; weights stay as they are."""

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.timeline import main as timeline
from cluster.timeline_picture import find_step, lanes_of, read_trace
from cluster.traces import FILE, Process, decoding, events_of, merge, rows
from tests.cluster.runs import Run, finished
from workers.clocks import Clock

COLUMNS = ("column r0 c0", "column r0 c1")


@pytest.fixture(scope="module")
def profiled(undisturbed: Run, folder: Path) -> Run:
    """As the undisturbed run, with a trace of steps 7 to 9; after 6 comes an evaluation, after 5 a checkpoint."""
    return finished(folder, "profiled", "train.profile_steps=[7,9]")


def ranges(run: Run, process: str, name: str) -> list[tuple[float, float]]:
    """(begin, end) in microseconds."""
    found = [event for event in read_trace(run.folder)[process] if event["name"] == name]
    return [(event["ts"], event["ts"] + event["dur"]) for event in sorted(found, key=lambda event: event["ts"])]


def test_profiling_changes_no_weights_and_one_line_says_where_the_trace_is(profiled: Run, undisturbed: Run) -> None:
    assert profiled.weights() == undisturbed.weights()
    losses, expected = ([one["loss"] for one in run.reports("train")] for run in (profiled, undisturbed))
    assert losses == expected
    [line] = [line for line in profiled.text.splitlines() if "trace" in line]
    assert line.startswith(f"trace of steps 7 to 9: runs/profiled/profile/{FILE} (")
    [report] = profiled.reports("profile")
    assert (report["first"], report["last"], report["step"]) == (7, 9, 9)
    assert 0 <= report["clock_error_seconds"] < 1
    names = [FILE, *(f"{column.replace(' ', '-')}.json.gz" for column in COLUMNS)]
    sizes = [(profiled.folder / "profile" / name).stat().st_size for name in names]
    assert sizes == [report["file_bytes"], *report["bytes"]]


def test_the_file_is_what_perfetto_reads(profiled: Run) -> None:
    """The format is Google's "Trace Event Format": complete events with microseconds, and names of processes and threads."""
    content = json.loads(gzip.decompress((profiled.folder / "profile" / FILE).read_bytes()))
    names: dict[int, str] = {}
    for event in content["traceEvents"]:
        assert {"ph", "ts", "pid", "tid", "name"} <= set(event)
        assert event["ph"] in "XM" and event["ts"] >= 0
        if event["name"] == "process_name":
            names[event["pid"]] = event["args"]["name"]
    assert list(names.values()) == [*COLUMNS, "data worker r0 #0"]
    order = {e["pid"]: e["args"]["sort_index"] for e in content["traceEvents"] if e["name"] == "process_sort_index"}
    assert sorted(names, key=lambda pid: order[pid]) == list(names)


@pytest.mark.parametrize("column", COLUMNS)
def test_the_parts_of_each_step_are_named_and_in_order(profiled: Run, column: str) -> None:
    """A step exchanges at conv3, fc5 and the classifier, forward and backward."""
    for step in (7, 8, 9):
        [(begin, end)] = ranges(profiled, column, f"step {step}")
        order = []
        for name, count in (
            ("waiting for data", 1), ("preprocess", 1), ("forward", 1), ("loss", 1), ("backward", 1), ("update", 1),
            ("begin exchange", 6), ("own part", 6), ("others' part", 6), ("waiting for exchange", 6),
            ("waiting for all-reduce", 4),
        ):  # fmt: skip
            found = [one for one in ranges(profiled, column, name) if begin <= one[0] and one[1] <= end]
            assert len(found) == count, (name, found)
            order += [found[0]] if count == 1 else []
        assert order == sorted(order)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(order))
    # An exchange is under way between its begin and the end of waiting, and the own part is computed meanwhile.
    travels = sorted(ranges(profiled, column, "gloo:all_gather") + ranges(profiled, column, "gloo:all_to_all"))
    names = ("begin exchange", "waiting for exchange", "own part")
    begins, waits, own = (ranges(profiled, column, name) for name in names)
    assert len(travels) == len(begins) == len(waits) == len(own) == 3 * 6
    for start, travel, computing, wait in zip(begins, travels, own, waits, strict=True):
        assert start[0] <= travel[0] and travel[1] <= wait[1]
        assert start[1] <= computing[0] and computing[1] <= wait[0]


def test_both_columns_stand_on_one_clock(profiled: Run) -> None:
    """A collective ends on no column before it has begun on the other; with clocks a step apart, many would."""
    trace = read_trace(profiled.folder)
    first, second = (
        sorted((e["ts"], e["ts"] + e["dur"]) for e in trace[column] if e["name"].startswith("gloo:"))
        for column in COLUMNS
    )
    assert len(first) == len(second) >= 3 * (6 + 4)
    for one, other in zip(first, second, strict=True):
        assert one[1] >= other[0] and other[1] >= one[0]


def test_the_picture_and_what_is_wrong_with_a_wish_for_one(
    profiled: Run, undisturbed: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "step.png", str(profiled.folder)
    assert timeline([run, "--out", str(out)]) == 0
    assert "step 8 of" in capsys.readouterr().out
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size < 200_000
    trace = read_trace(profiled.folder)
    lanes = lanes_of(trace)
    rows = [COLUMNS[0], "parts", "under way", COLUMNS[1], "parts", "under way", "data worker r0 #0"]
    assert [lane.name for lane in lanes] == rows
    begin, end, _ = find_step(trace, 9)
    for lane in lanes[:6]:
        assert any(begin <= bar[0] < end for bar in lane.bars), lane.name
    for arguments, said in (
        ([str(undisturbed.folder), "--out", "x.png"], "train with train.profile_steps=[first,last]"),
        ([run, "--out", str(tmp_path / "x.png"), "--step", "3"], "the trace has no step 3; it has 7, 8, 9"),
        ([run, "--out", str(tmp_path / "x.doc")], "cannot be written"),
    ):
        assert timeline(arguments) == 2
        assert said in capsys.readouterr().err
    late = Run(folder, "late", "train.profile_steps=[29,31]")
    assert late.finish(90) == 2
    assert "train.profile_steps: ends at update 31, and the run at train.steps = 30" in late.text


ORIGIN_NS = 90_000_000_000


def events(ahead_ns: int, base_ns: int, *events: tuple[str, float, float]) -> list[dict[str, Any]]:
    """By a clock that is ahead; (name, begin, duration) in microseconds after `base_ns` of it."""
    made = [
        {"ph": "X", "cat": "user_annotation", "name": name, "ts": ts, "dur": dur, "pid": 77, "tid": 5}
        for name, ts, dur in events
    ]
    made += [{"ph": "M", "name": "process_name", "pid": 77, "tid": 0, "ts": 0, "args": {"name": "python"}}]
    made += [{"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "ts": 0, "dur": 9e9, "pid": "Spans", "tid": 1}]
    content = {"baseTimeNanoseconds": base_ns, "traceEvents": made}
    return events_of(content, Clock(ahead_ns=ahead_ns, error_ns=10), ORIGIN_NS)


def test_clocks_of_two_hosts_are_brought_together() -> None:
    """Both begin at the same moment, which is second 100 here and second 103.5 there; the data worker is on the first host."""
    here = Process(name="a", events=events(0, 99_000_000_000, ("step 1", 1e6, 500.0)))
    there = Process(name="b", events=events(3_500_000_000, 100_000_000_000, ("step 1", 3.5e6, 600.0)))
    worker = Process(name="w", events=decoding([(100.0002, 0.0001, 8), (50.0, 1.0, 8)], 0, ORIGIN_NS))
    merged = merge([here, there, worker])
    found = {(e["pid"], e["name"]): (e["ts"], e["dur"]) for e in merged["traceEvents"] if e["ph"] == "X"}
    assert found == {
        (1, "step 1"): (0.0, 500.0),
        (2, "step 1"): (0.0, 600.0),
        (3, "decoding 8 images"): (pytest.approx(200.0, abs=1), pytest.approx(100.0)),
    }


def event(name: str, ts: float, dur: float, **more: Any) -> dict[str, Any]:
    return {"cat": "user_annotation", "name": name, "ts": ts, "dur": dur, "tid": 5, **more}


def test_rows_of_a_process() -> None:
    """Collectives that run at the same time stand in rows of their own; a GPU's streams have theirs."""
    kernel = {"cat": "kernel", "tid": 7, "args": {"stream": 7}}
    found = rows(
        [
            event("step 1", 0.0, 100.0), event("relu", 5.0, 1.0, tid=6), event("gloo:all_gather", 10.0, 20.0),
            event("gloo:all_reduce", 20.0, 20.0), event("gloo:all_reduce", 30.0, 5.0), event("conv", 15.0, 2.0, **kernel),
            event("forward", 15.0, 2.0, **{**kernel, "cat": "gpu_user_annotation"}),
        ]
    )  # fmt: skip
    assert {name: [(one["name"], one["ts"]) for one in row] for name, row in found.items()} == {
        "thread 5": [("step 1", 0.0)],
        "thread 6": [("relu", 5.0)],
        "stream 7 of the GPU": [("conv", 15.0)],
        "stream 7 of the GPU, names": [("forward", 15.0)],
        "collectives 1": [("gloo:all_gather", 10.0), ("gloo:all_reduce", 30.0)],
        "collectives 2": [("gloo:all_reduce", 20.0)],
    }
