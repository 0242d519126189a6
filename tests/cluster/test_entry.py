"""How commands end where nobody reads on."""

import subprocess
import sys

from tests.cluster.runs import PROJECT

TALKS = """
import sys
from cluster.entry import run_entry
def command():
    for line in range(100_000):
        print("line", line)
    return 0
sys.exit(run_entry(command))
"""


def test_a_closed_pipe_is_the_end_and_no_error() -> None:
    talking = subprocess.Popen(
        [sys.executable, "-c", TALKS], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert talking.stdout is not None and talking.stderr is not None
    assert talking.stdout.readline() == "line 0\n"
    talking.stdout.close()
    assert talking.wait(30) == 141  # 128 + SIGPIPE, as a shell says it
    assert talking.stderr.read() == ""
