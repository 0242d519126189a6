import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# A shell starts what it puts into the background deaf to Ctrl-C, and all that the tests start would be so too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is started under nohup is deaf to the end of its terminal. A handler leaves this process so, and is not inherited.
signal.signal(signal.SIGHUP, lambda number, frame: None)

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

REASONS = Path(__file__).with_name("skips.txt").read_text().splitlines()
EXPECTED_SKIPS = re.compile("|".join(line for line in REASONS if line and line[0] != "#"))
unexpected_skips: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not EXPECTED_SKIPS.search(reason):
            unexpected_skips.append(f"{report.nodeid}: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI, a skip that tests/skips.txt does not name is a failure."""
    if os.environ.get("CI") and unexpected_skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if unexpected_skips:
        terminalreporter.section("skips that tests/skips.txt does not name; they fail CI")
        for line in unexpected_skips:
            terminalreporter.line(line)


def pytest_runtest_setup() -> None:
    """Every test draws the same numbers, alone or among others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB in memory, to be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted (that is for root): {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
