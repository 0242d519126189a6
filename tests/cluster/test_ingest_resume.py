"""A preparation that is killed goes on when the same command is given again, and ends with the very same files."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.data.archives import TEST_DATA
from tests.data.pictures import draw_folders
from workers.data.journal import FILE, NOTE_SUFFIX

ROOT = Path(__file__).parents[2]
# A few, each resuming what the last one left. With a larger number in the environment each is followed by a run to the end.
KILLS = int(os.environ.get("ALEXNET_TEST_KILLS", "3"))
DEADLINE_SECONDS = 120.0


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    """The command as a user runs it, as the head of a process group."""
    line = [sys.executable, "-m", "cluster.prepare", *arguments]
    return subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def kill_all(process: "subprocess.Popen[str]") -> None:
    """kill -9 of the command, of Ray's daemons and of all workers."""
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()
    assert not psutil.wait_procs(family, timeout=10)[1]


def finish(process: "subprocess.Popen[str]") -> str:
    """What the command printed."""
    printed, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, printed
    return printed


def wait_until_it_writes(process: "subprocess.Popen[str]", out: Path) -> None:
    """Until the command has the folder to itself, which is when it begins with the shards."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (out.is_dir() and is_locked(out)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_locked(folder: Path) -> bool:
    """Read, not tried: a lock of our own could get in the command's way."""
    ending = f":{folder.stat().st_ino}"
    return any(line.split()[1] == "FLOCK" and line.split()[5].endswith(ending) for line in open("/proc/locks"))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def source_arguments(folder: Path) -> list[str]:
    """5,000 real photos where they are, else drawn pictures. At sizes that make it encode anew, so that it takes its time."""
    photos = TEST_DATA / "tiny-imagenet-100" / "validation-00000-of-00001.parquet"
    if photos.is_file():
        return ["parquet", str(photos), "--size", "96"]
    return ["folder", str(draw_folders(folder / "in", per_class=500, size=64)), "--size", "96"]


@pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="needs /proc/locks to see when the command begins to write"
)
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_files(tmp_path: Path) -> None:
    arguments = [*source_arguments(tmp_path), "--shard-rows", "100", "--workers", "2"]
    undisturbed = start([*arguments, "--out", str(tmp_path / "undisturbed")])
    wait_until_it_writes(undisturbed, tmp_path / "undisturbed")
    started = time.monotonic()
    while not (tmp_path / "undisturbed/manifest.json").exists() and undisturbed.poll() is None:
        time.sleep(0.01)
    seconds = time.monotonic() - started
    finish(undisturbed)
    expected = contents(tmp_path / "undisturbed")
    assert {"manifest.json", "mean.npy"} < set(expected)
    assert all(name.endswith((".arrow", ".json", ".npy")) for name in expected)

    out, random_moments = tmp_path / "killed", random.Random(KILLS)
    for number in range(1, KILLS + 1):
        process = start([*arguments, "--out", str(out)])
        wait_until_it_writes(process, out)
        moment = random_moments.uniform(0, 0.8 * seconds)
        time.sleep(moment)
        kill_all(process)
        told = f"kill {number} after {moment:.2f} of {seconds:.2f} s left {len(list(out.glob('*.arrow')))} shards"
        if number == KILLS or KILLS > 4 or (out / "manifest.json").exists():
            told += f"; {go_on(out, arguments)}: the same files"
            assert contents(out) == expected
            shutil.rmtree(out)
        print(told)


def go_on(out: Path, arguments: list[str]) -> str:
    """Give the command again, with another number of workers. Returns what it found, in words."""
    if (out / "manifest.json").exists() and not (out / FILE).exists():
        return "it was done"
    unfinished, notes = not (out / "manifest.json").exists(), len(list(out.glob(f"*{NOTE_SUFFIX}")))
    printed = finish(start([*arguments, "--out", str(out), "--workers", "1"]))
    assert (f"continuing: {notes} of" in printed) == (unfinished and notes > 0), printed
    return f"gone on with {notes}" if unfinished else "cleaned up"
