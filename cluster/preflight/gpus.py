"""GPUs as `nvidia-smi` tells of them: which this process may use, and whether somebody else uses them.

The formats are those of `nvidia-smi --help-query-gpu` and `--help-query-compute-apps`. Not run on a machine with GPUs so far.
"""

import csv
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

QUERY_SECONDS = 15.0
GPU_FIELDS = ("index", "uuid", "name", "memory.total", "memory.used")
PROCESS_FIELDS = ("gpu_uuid", "pid", "process_name", "used_memory")
MOSTLY_FREE = 0.9
"""Share of its memory that an idle GPU has at least; the driver itself takes some."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    index: int
    uuid: str
    model: str
    total_mib: int | None
    used_mib: int | None
    processes: tuple[str, ...] = ()
    """In words: name, pid and memory of each process that computes on it."""

    @property
    def busy(self) -> str:
        """In words, who uses it; empty if it is free."""
        if self.processes:
            return ", ".join(self.processes)
        if self.total_mib and self.used_mib is not None and self.used_mib > (1 - MOSTLY_FREE) * self.total_mib:
            return f"{self.used_mib:,} of {self.total_mib:,} MiB, by a process that is not shown here"
        return ""


@dataclass(frozen=True, kw_only=True)
class GpuReport:
    gpus: tuple[Gpu, ...] = ()
    """Those that Ray on this node may give to actors."""
    problem: str = ""
    """Why nothing is known; empty if all is well."""


def look_at_gpus() -> GpuReport:
    """Ask `nvidia-smi`. Never raises."""
    try:
        gpus, processes = _query("gpu", GPU_FIELDS), _query("compute-apps", PROCESS_FIELDS)
        found = parse(gpus, processes)
    except FileNotFoundError:
        return GpuReport(problem="there is no nvidia-smi")
    except subprocess.TimeoutExpired:
        return GpuReport(problem=f"nvidia-smi did not answer within {QUERY_SECONDS:g} s: the driver hangs")
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stdout", "") or str(error)  # nvidia-smi puts its errors on stdout
        return GpuReport(problem=f"nvidia-smi: {' '.join(said.split())[:200]}")
    return GpuReport(gpus=visible(found, os.environ.get("CUDA_VISIBLE_DEVICES")))


def parse(gpus: str, processes: str) -> tuple[Gpu, ...]:
    """The answers to the two queries, as csv without header and units. Raises ValueError if they are not of that form."""
    on: dict[str, list[str]] = {}
    for row in _rows(processes, len(PROCESS_FIELDS)):
        uuid, pid, name, used = row
        memory = _number(used)
        on.setdefault(uuid, []).append(f"{name} (pid {pid})" + ("" if memory is None else f" with {memory:,} MiB"))
    return tuple(
        Gpu(
            index=int(index),
            uuid=uuid,
            model=name,
            total_mib=_number(total),
            used_mib=_number(used),
            processes=tuple(on.get(uuid, ())),
        )
        for index, uuid, name, total, used in _rows(gpus, len(GPU_FIELDS))
    )


def visible(gpus: Iterable[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES names by index or by (the beginning of) their UUID; all if it is not set."""
    gpus = tuple(gpus)
    wanted = [part.strip() for part in (setting or "").split(",") if part.strip()]
    if not wanted or any(part.startswith("MIG-") for part in wanted):
        return gpus
    return tuple(
        gpu
        for gpu in gpus
        if any(part == str(gpu.index) or (not part.isdigit() and gpu.uuid.startswith(part)) for part in wanted)
    )


def _query(what: str, fields: Iterable[str]) -> str:
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=QUERY_SECONDS).stdout


def _rows(text: str, fields: int) -> list[list[str]]:
    """Lines of so many fields. The third is a name, which may hold commas."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True, quoting=csv.QUOTE_NONE):
        if not row or row[0].startswith("No running processes"):
            continue
        if len(row) < fields:
            raise ValueError(f"{', '.join(row)!r} has {len(row)} fields instead of {fields}")
        tail = len(row) - (fields - 3)
        found.append([*row[:2], ", ".join(row[2:tail]), *row[tail:]])
    return found


def _number(text: str) -> int | None:
    """None for [N/A], [Not Supported], [Insufficient Permissions] and the like."""
    return int(text) if text.strip().isdigit() else None
