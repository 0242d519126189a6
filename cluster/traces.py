"""One picture of what all columns and data workers did in the profiled steps: a trace in Chrome's format, for Perfetto.

A column's own trace has the times of its machine's clock, which `workers.clocks` has compared with rank 0's. Data workers note
times of their machine's, too; they are taken to be on their replica's. What torch records of calls that run on beside the
thread that made them (collectives over gloo) is put on rows of its own, for what stands in one row must not overlap. Operations
that are over within `SHORTEST_US` are left out, being most of all events; the columns' own traces have them.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.reports import ProfileReport, Report

if TYPE_CHECKING:
    from workers.clocks import Clock
    from workers.profiling import Trace

FILE = "trace.json.gz"
"""In the run's `profile` folder, beside the traces of single columns."""
COLLECTIVES = ("gloo:", "nccl:", "c10d::")
SHORTEST_US = 10.0
ASK_SECONDS = 60.0
"""How long the actors may take to hand over what they have; a data worker answers between two batches."""

Event = dict[str, Any]
Diary = Sequence[tuple[float, float, int]]


@dataclass(frozen=True, kw_only=True)
class Process:
    """name: as the Ray dashboard has it. events: complete ones, `ts` in microseconds after some moment by rank 0's clock, the
    same for all processes (since 1970 they would be so many that a float has no nanoseconds)."""

    name: str
    events: list[Event]


def with_traces(report: Report, group: Any, run_folder: Path, note: Callable[[str], None]) -> Report:
    """A report of rank 0; if it tells of traces, they are fetched and written first. What goes wrong is noted, and no more."""
    if not isinstance(report, ProfileReport):
        return report
    try:
        return write_traces(run_folder / "profile", group, report)
    except Exception as error:  # actors may be gone, disks full; it is no reason to end a run
        note(f"note: no trace could be written ({type(error).__name__}: {error}); the run goes on")
        return report


def write_traces(folder: Path, group: Any, report: ProfileReport) -> ProfileReport:
    """Fetch what a report of `group`'s columns tells of, and write it into `folder`.

    Returns the report with `file` and `file_bytes` of the merged trace. Raises OSError, or Ray's errors for actors that are gone.
    """
    import ray

    mesh = group.plan.mesh
    asked = [column.trace.remote() for column in group.columns]
    diaries = {
        (replica, name): worker.diary.remote()
        for replica, workers in enumerate(group.data_workers)
        for name, worker in workers.items()
    }
    traces: list[Trace | None] = ray.get(asked, timeout=ASK_SECONDS)
    ready, _ = ray.wait(list(diaries.values()), num_returns=len(diaries), timeout=ASK_SECONDS)
    folder.mkdir(parents=True, exist_ok=True)
    processes: list[Process] = []
    origin_ns = 0
    for rank, trace in enumerate(traces):
        if trace is not None:
            name, content = mesh.name(rank), json.loads(gzip.decompress(trace.content))
            (folder / f"{name.replace(' ', '-')}.json.gz").write_bytes(trace.content)
            origin_ns = origin_ns or content["baseTimeNanoseconds"]
            processes.append(Process(name=name, events=events_of(content, trace.clock, origin_ns)))
    clocks = [trace.clock.ahead_ns if trace else 0 for trace in traces]
    for (replica, name), reference in diaries.items():
        if reference in ready:
            ahead = clocks[replica * mesh.processes_per_replica]
            processes.append(Process(name=name, events=decoding(ray.get(reference), ahead, origin_ns)))
    merged = merge(processes)
    file = folder / FILE
    file.write_bytes(gzip.compress(json.dumps(merged).encode(), 6))
    error = max(trace.clock.error_ns for trace in traces if trace)
    return replace(report, file=str(file), file_bytes=file.stat().st_size, clock_error_seconds=error / 1e9)


def events_of(content: Mapping[str, Any], clock: "Clock", origin_ns: int) -> list[Event]:
    """The complete events of a column's trace. origin_ns: the moment that is 0, by rank 0's clock, since 1970."""
    later_us = (content["baseTimeNanoseconds"] - clock.ahead_ns - origin_ns) / 1e3
    found = []
    for event in content["traceEvents"]:
        if event.get("ph") != "X" or event.get("cat") in (None, "Trace"):
            continue
        if event["cat"] == "cpu_op" and event["dur"] < SHORTEST_US:
            continue
        own = {**event, "ts": event["ts"] + later_us}
        if event["cat"] in ("cpu_op", "user_annotation"):
            own.pop("args", None)  # nothing but torch's own numbers
        found.append(own)
    return found


def decoding(diary: Diary, ahead_ns: int, origin_ns: int) -> list[Event]:
    """What a data worker did. ahead_ns: of its machine's clock. origin_ns: as in `events_of`."""
    return [
        {
            "ph": "X", "cat": "data", "name": f"decoding {images} images", "tid": "decoding",
            "ts": (began - origin_ns / 1e9) * 1e6 - ahead_ns / 1e3, "dur": seconds * 1e6,
        }
        for began, seconds, images in diary
    ]  # fmt: skip


def merge(processes: Sequence[Process]) -> dict[str, Any]:
    """A Chrome trace of all processes, from the first event of a column to the last; names and order of its rows are given."""
    columns = [event for process in processes for event in process.events if event["cat"] != "data"]
    start = min(event["ts"] for event in columns)
    end = max(event["ts"] + event["dur"] for event in columns)
    events: list[Event] = []
    for number, process in enumerate(processes, start=1):
        events += _about(number, None, process.name, number)
        seen = [event for event in process.events if event["ts"] < end and event["ts"] + event["dur"] > start]
        for row, (name, inside) in enumerate(rows(seen).items(), start=1):
            events += _about(number, row, name, row)
            events += [{**event, "pid": number, "tid": row, "ts": round(event["ts"] - start, 3)} for event in inside]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def rows(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of a process by the row that they stand in: threads, busiest first, streams of a GPU, what runs beside."""
    threads: dict[str, list[Event]] = {}
    beside: list[Event] = []
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["name"].startswith(COLLECTIVES) and event["cat"] == "user_annotation":
            beside.append(event)
        else:
            where = str(event["tid"])
            if "stream" in event.get("args", {}):
                where = f"stream {event['args']['stream']} of the GPU"
                if event["cat"] == "gpu_user_annotation":
                    where += ", names"
            threads.setdefault(where, []).append(event)
    busiest = sorted(threads, key=lambda name: -sum(event["dur"] for event in threads[name]))
    named = {name if not name.isdigit() else f"thread {name}": threads[name] for name in busiest}
    for number, row in enumerate(_without_overlap(beside), start=1):
        named[f"collectives {number}"] = row
    return named


def _without_overlap(events: Iterable[Event]) -> list[list[Event]]:
    """As few rows as possible; events come by their begin."""
    found: list[list[Event]] = []
    for event in events:
        for row in found:
            if row[-1]["ts"] + row[-1]["dur"] <= event["ts"]:
                row.append(event)
                break
        else:
            found.append([event])
    return found


def _about(pid: int, tid: int | None, name: str, order: int) -> list[Event]:
    what = "process" if tid is None else "thread"
    where = {"ph": "M", "ts": 0, "pid": pid, "tid": tid or 0}
    return [
        {**where, "name": f"{what}_name", "args": {"name": name}},
        {**where, "name": f"{what}_sort_index", "args": {"sort_index": order}},
    ]
