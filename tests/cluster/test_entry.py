"""How commands end where nobody reads on, or what they say cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.runs import PROJECT

TALKS = """
import sys
from pathlib import Path
from cluster.entry import run_entry
def command():
    for line in range(int(sys.argv[1])):
        print("line", line, "caf\\u00e9")
        print("note", line, file=sys.stderr, flush=True)
    Path("done").touch()
    return 0
sys.exit(run_entry(command, leaves_files=sys.argv[2] == "leaves"))
"""


@pytest.mark.parametrize(
    ("lines", "kind", "redirected", "code", "said"),
    [
        (100_000, "result", "2> err | head -1 > out", 141, "line 0 caf"),
        (100_000, "leaves", "2> err | head -1 > out", 0, "line 0 caf"),
        (9, "result", "> /dev/full 2> err", 2, "error: what it found could not be written: No space left"),
        (9, "leaves", "> /dev/full 2> err", 0, "note 8"),
        (9, "result", "2> /dev/full > out", 0, "line 8 caf"),
        (9, "leaves", "< /dev/null >&- 2>&-", 0, ""),
        (9, "result", "> out 2> err", 0, "caf\\xe9"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, lines: int, kind: str, redirected: str, code: int, said: str) -> None:
    command = f'"$1" -c "$2" {lines} {kind} {redirected}\nexit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, TALKS], cwd=tmp_path, env=env, capture_output=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (code, b"")
    assert said in "".join((tmp_path / name).read_text() for name in ("out", "err") if (tmp_path / name).exists())
    assert (tmp_path / "done").exists() or kind == "result"
