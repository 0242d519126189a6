"""Traces of a loop's steps: which steps they hold, whatever becomes of the run; and that a broken profiler ends nothing."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from alexnet.ranges import named
from tests.workers.test_loop import Started
from workers import profiling
from workers.checkpoint_list import committed
from workers.profiling import Profiling


def started(root: Path, group: dist.ProcessGroup, steps: tuple[int, int], **options: Any) -> Started:
    run = Started(root, group, **options)
    run.loop.config = replace(run.loop.config, train=replace(run.loop.config.train, profile_steps=steps))
    run.loop.profiling = Profiling(steps, "cpu", group)
    return run


def traced(run: Started) -> list[str]:
    """Names of the steps in the trace, in order."""
    assert run.loop.profiling.trace is not None
    content: dict[str, Any] = json.loads(gzip.decompress(run.loop.profiling.trace.content))
    events = [event for event in content["traceEvents"] if str(event.get("name", "")).startswith("step ")]
    return [event["name"] for event in sorted(events, key=lambda event: event["ts"])]


def profiles(run: Started) -> list[dict[str, Any]]:
    return [report for report in run.reports if report["kind"] == "profile"]


def test_a_trace_has_the_steps_that_were_asked_for(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    run = started(tmp_path, alone, (2, 4))
    assert run.loop.train()[0] == "finished"
    [report] = profiles(run)
    trace = run.loop.profiling.trace
    assert trace is not None
    assert report | {"kind": "profile", "first": 2, "last": 4, "step": 4, "bytes": [len(trace.content)]} == report
    assert traced(run) == ["step 2", "step 3", "step 4"]
    assert run.step.trained == 6


def test_a_run_that_is_stopped_in_between_and_goes_on_traces_the_rest(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    first = started(tmp_path, alone, (2, 5), stop=lambda step: step.trained >= 3)
    assert first.loop.train()[0] == "stopped"
    assert profiles(first) == [] and first.loop.profiling.trace is None
    first.loop.profiling.close()
    second = started(tmp_path, alone, (2, 5), start=committed(str(tmp_path))[-1])
    second.loop.train()
    assert traced(second) == ["step 4", "step 5"]
    [report] = profiles(second)
    assert (report["first"], report["last"]) == (4, 5)
    past = started(tmp_path, alone, (2, 5), start=committed(str(tmp_path))[-1])
    past.loop.train()
    assert profiles(past) == []


@pytest.mark.parametrize("when", ["start", "export_chrome_trace"])
def test_a_profiler_that_fails_ends_nothing(
    alone: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fails(self: object, *arguments: object) -> None:
        raise RuntimeError("no counters")

    monkeypatch.setattr(profiling.profile, when, fails)
    run = started(tmp_path, alone, (2, 4))
    assert run.loop.train()[0] == "finished"
    [warning] = [report for report in run.reports if report["kind"] == "warning"]
    assert warning["text"] == "no trace of steps 2 to 4: RuntimeError: no counters"
    assert profiles(run) == []


def test_without_a_profiler_a_name_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fails(name: str) -> None:
        raise AssertionError("record_function costs microseconds")

    monkeypatch.setattr(torch.profiler, "record_function", fails)
    with named("part"):
        pass
