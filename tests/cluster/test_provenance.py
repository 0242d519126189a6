"""What a start of a run ran on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from cluster.provenance import FILE, commit, is_alive, note_actors, note_start, read_starts

PROJECT = Path(__file__).parents[2]


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


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
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
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
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
    if ran.returncode:
        assert found is None
    else:
        assert found is not None and found.rstrip("+") == ran.stdout.strip()
