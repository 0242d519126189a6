"""Traces of some steps by torch's profiler (`train.profile_steps`): the loop starts and stops it, the driver fetches them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from workers.clocks import Clock, compare
from workers.reports import ProfileReport, WarningReport


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Of one process, as it is handed to the driver."""

    content: bytes
    """torch's Chrome trace, gzipped JSON."""
    clock: Clock


class Profiling:
    """Of one process, for updates `steps[0]` to `steps[1]`; every rank calls `begin` and `end` before and after each update.

    group: all ranks, for tensors on the CPU. A profiler that fails leaves the run without a trace, and is no reason to end it.
    A start that goes on from the middle of these steps traces the rest of them.
    """

    def __init__(self, steps: tuple[int, int] | None, device: str, group: dist.ProcessGroup) -> None:
        self._steps, self._device, self._group = steps or (0, -1), device, group
        self._profile: profile | None = None
        self._failed = ""
        self._first = 0
        self.trace: Trace | None = None

    def begin(self, step: int) -> None:
        """Before update number `step`, from 1."""
        first, last = self._steps
        if not first <= step <= last or self._first:
            return
        self._first = step
        self._clock = compare(self._group)
        try:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self._device == "cuda")
            self._profile = profile(activities=activities)
            self._profile.start()
        except Exception as error:  # whatever it is, training goes on
            self._failed, self._profile = f"{type(error).__name__}: {error}", None

    def end(self, step: int) -> ProfileReport | WarningReport | None:
        """After update number `step`. What is to be reported after the last one: sizes are 0 for ranks without a trace; a warning
        if no rank has one. By then every rank's `trace` is there."""
        if step != self._steps[1] or not self._first:
            return None
        if self._profile is not None:
            try:
                self.trace = Trace(content=self._content(), clock=self._clock)
            except Exception as error:  # as above; a full disk, for one
                self._failed = f"{type(error).__name__}: {error}"
        sizes = torch.zeros(self._group.size(), dtype=torch.int64)
        sizes[self._group.rank()] = len(self.trace.content) if self.trace else 0
        dist.all_reduce(sizes, group=self._group)
        if not sizes.any():
            return WarningReport(step=step, text=f"no trace of steps {self._first} to {step}: {self._failed}")
        return ProfileReport(step=step, first=self._first, last=step, bytes=sizes.tolist())

    def close(self) -> None:
        """Forget a trace that has not come to its end."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _content(self) -> bytes:
        if self._device == "cuda":
            torch.cuda.synchronize()
        assert self._profile is not None
        ended, self._profile = self._profile, None
        ended.stop()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "trace.json.gz")
            ended.export_chrome_trace(str(file))
            return file.read_bytes()
