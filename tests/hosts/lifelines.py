"""Processes that live as long as a pipe to them, and end with all that runs in their namespaces."""

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Mapping

import psutil

START_SECONDS = 20.0


class HostsError(Exception):
    """A pretend host did not do what was asked of it; the message has the output of the command."""


def start(command: list[str], settings: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that lives as long as the pipe to it; out of reach of the terminal's Ctrl-C, for the caller tidies up."""
    return subprocess.Popen(
        command,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until_up(process: subprocess.Popen[str], what: str) -> None:
    """It says so in a line of its own."""
    assert process.stdout is not None
    output, end = "", time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 0.1)[0]:
            read = os.read(process.stdout.fileno(), 4096).decode(errors="replace")
            if not read:
                break
            output += read
            if "up" in output.splitlines():
                return
    raise HostsError(f"{what} did not come up:\n{output}")


def child(process: subprocess.Popen[str], what: str) -> int:
    """The first process inside: the only child of `unshare --fork`."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        children = psutil.Process(process.pid).children()
        if children:
            return children[0].pid
        time.sleep(0.01)
    raise HostsError(f"{what} did not start")


def stop(process: subprocess.Popen[str]) -> None:
    """Kill a host or the switch. The first process inside dies first, and with it all others, before unshare returns."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            child.kill()
            child.wait(START_SECONDS)
        process.kill()
    process.wait(START_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
