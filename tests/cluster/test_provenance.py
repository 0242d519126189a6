"""What a start of a run ran on, and what `ray up` asks on each machine before Ray is started there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.check_host import check_host, main
from cluster.provenance import FILE, commit, is_alive, note_actors, note_start, read_starts
from configs.errors import UserError
from tests.cluster.runs import PROJECT


def test_each_start_is_added_and_columns_belong_to_the_last(tmp_path: Path) -> None:
    note_start(tmp_path)
    note_start(tmp_path)
    note_actors(tmp_path, [{"name": "column r0 c0", "pid": 7, "node": "10.0.0.1", "device": "a GPU", "node_id": "ab"}])
    first, second = read_starts(tmp_path)
    assert first["columns"] == []
    assert second["columns"] == [{"name": "column r0 c0", "pid": 7, "node": "10.0.0.1", "device": "a GPU"}]
    assert second["pid"] == os.getpid() and second["cpus"] and second["memory_bytes"] > 2**28
    assert set(second["versions"]) >= {"torch", "ray", "numpy"} and all(second["versions"].values())
    assert not list(tmp_path.glob("*.tmp"))
    # A damaged file is begun anew.
    for content in ("{", "[]", '{"starts": 5}', ""):
        (tmp_path / FILE).write_text(content)
        assert read_starts(tmp_path) == []
        note_actors(tmp_path, [])
    note_start(tmp_path)
    assert len(json.loads((tmp_path / FILE).read_text())["starts"]) == 1


def test_alive_until_it_ends(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cluster.provenance import note_start; "
        f"note_start(Path({str(tmp_path)!r})); print(1, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    [start] = read_starts(tmp_path)
    assert is_alive(start)
    assert is_alive({**start, "host": "another-machine"}) is None
    assert not is_alive({**start, "process_started": start["process_started"] - 100})
    process.communicate()
    assert not psutil.pid_exists(process.pid) and not is_alive(start)


def test_commit_is_that_of_the_checkout() -> None:
    ran = subprocess.run(["git", "-C", str(PROJECT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found = commit()
    assert found is None if ran.returncode else found is not None and found.rstrip("+") == ran.stdout.strip()


def test_machine_that_has_all_says_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")  # programs may be absent where tests run
    told = check_host(PROJECT)
    assert "ray 2." in told and "torch 2." in told and "Python 3." in told


def test_everything_that_is_missing_is_told_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = ['numpy>=1', 'ray<2', 'no-such-package>=3']\n")
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "rsync" else f"/usr/bin/{tool}")
    with pytest.raises(UserError) as caught:
        check_host(tmp_path)
    for words in ("ray<2 is wanted, 2.", "no program rsync", "constraints.txt 'ray<2' 'no-such-package>=3'"):
        assert words in str(caught.value)
    assert "numpy" not in str(caught.value)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: ")
