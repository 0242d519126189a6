"""CPUs of a process that may not use all of the machine's."""

import os
from pathlib import Path

import pytest

from cluster.cpus import usable_cpus

V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("allowed", "groups", "files", "cpus"),
    [
        (8, None, {}, 8),
        (1, "0::/", {}, 1),
        (8, "0::/a/b", {"a/b/cpu.max": "max 100000"}, 8),
        (8, "0::/a/b", {"a/b/cpu.max": "350000 100000"}, 3),
        (8, "0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2),
        (8, "0::/a", {"a/cpu.max": "50000 100000"}, 1),
        (2, "0::/", {"cpu.max": "400000 100000"}, 2),
        (8, "4:memory:/x\n3:cpu,cpuacct:/a", {f"cpu,cpuacct/a/{V1[0]}": "-1", f"cpu,cpuacct/a/{V1[1]}": "100000"}, 8),
        (8, "3:cpu,cpuacct:/host/a", {f"cpu,cpuacct/{V1[0]}": "250000", f"cpu,cpuacct/{V1[1]}": "100000"}, 2),
    ],
)
def test_what_affinity_and_control_groups_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, groups: str | None, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    if groups is not None:
        (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert usable_cpus(tmp_path / "groups", tmp_path / "root") == cpus
