"""A Ray that is started here: with any path, and gone without a trace."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ray_files
from tests.cluster.runs import PROJECT

TASK = """
import os
from cluster.ray_session import ray_session
with ray_session(None, num_cpus=1) as ray:
    told = ray.remote(lambda: os.environ["TOLD"]).options(runtime_env={"env_vars": {"TOLD": "by a worker"}})
    print(ray.get(told.remote(), timeout=150))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Whose name is short, for sockets have names of at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_path_with_blanks_and_parentheses_and_nothing_left_behind(place: Path) -> None:
    environment = place / "my (new) env"
    environment.symlink_to(sys.prefix, target_is_directory=True)
    python = environment / Path(sys.executable).relative_to(sys.prefix)
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(place)}
    ran = subprocess.run([python, "-c", TASK], env=env, capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "by a worker\n"), ran.stderr
    assert list((place / "ray").glob("session_*")) == []


@pytest.mark.parametrize(
    ("alive", "marked", "days", "stays"),
    [(False, True, 8, False), (False, True, 6, True), (False, False, 8, True), (True, True, 8, True)],
)
def test_old_sessions_of_ours_go(place: Path, alive: bool, marked: bool, days: int, stays: bool) -> None:
    session = place / f"session_2026-11-30_05-55-19_990348_{os.getpid() if alive else 2**22 + 1}"
    session.mkdir()
    (place / "session_latest").symlink_to(session)
    if marked:
        ray_files.mark(session)
        then = (session / ray_files.MARK).stat().st_mtime - days * 86_400
        os.utime(session / ray_files.MARK, (then, then))
    ray_files.sweep(place)
    assert session.exists() == (place / "session_latest").is_symlink() == stays
