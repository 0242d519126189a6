"""How many CPUs this process may use: of those that are built in, what its container, job or `taskset` leaves it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """At least 1; of a share of a CPU, as a quota may be, nothing is left over."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(groups, root)])))


def _quotas(groups: Path, root: Path) -> Iterator[float]:
    """CPU time per time, as set for the control groups that this process is in. Both versions of them; cgroups(7)."""
    with contextlib.suppress(OSError):
        for line in groups.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounted = root / controllers
            group = mounted / path.lstrip("/")
            # In a container the path may be that of the host, and the mount be the group itself.
            for folder in (group, *group.parents):
                yield from _quota(folder)
                if folder == mounted:
                    break


def _quota(folder: Path) -> Iterator[float]:
    with contextlib.suppress(OSError, ValueError):  # "max": none
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{what}_us").read_text(encoding="utf-8") for what in ("quota", "period"))
        if int(quota) > 0:  # -1: none
            yield int(quota) / int(period)
