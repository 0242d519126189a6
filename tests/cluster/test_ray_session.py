"""A Ray that is started here: with any path, and gone without a trace."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import ray_files, ray_token
from cluster.ray_token import use_token
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


def test_token_is_made_once_and_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ray_token.MODE, ray_token.TOKEN):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    use_token(make=False)
    assert ray_token.MODE not in os.environ and not any(tmp_path.iterdir())
    use_token(make=True)
    file = tmp_path / ray_token.PLACE
    token = file.read_text()
    assert os.environ.pop(ray_token.MODE) == "token" and len(token) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and [*file.parent.iterdir()] == [file]
    use_token(make=True)
    assert os.environ.pop(ray_token.MODE) == "token" and file.read_text() == token
    assert ray_token.TOKEN not in os.environ

    monkeypatch.setenv("HOME", str(file))  # where no folder can be made
    use_token(make=True)
    assert os.environ.pop(ray_token.MODE) == "token" and len(os.environ[ray_token.TOKEN]) == 64
    monkeypatch.setenv(ray_token.MODE, "disabled")
    use_token(make=True)
    assert os.environ[ray_token.MODE] == "disabled"
