"""`environment.json` in a run's folder: what each start of the run ran on. Versions, commit, machines, devices, command."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from cluster.cpus import usable_cpus
from workers.data.storage import without_keys_in

PACKAGES = ("torch", "ray", "numpy", "pyarrow", "simplejpeg", "pillow", "safetensors", "pydantic")
FILE = "environment.json"
GIT_SECONDS = 10.0


def note_start(folder: Path) -> None:
    """Add this process's start to the file; earlier ones stay. Raises OSError."""
    starts = [*read_starts(folder), _start()]
    _write(folder, starts)


def note_actors(folder: Path, about: list[dict[str, Any]]) -> None:
    """Add to the last start where its columns run. about: as `WorkerGroup.about`. Raises OSError."""
    starts = read_starts(folder)
    if starts:
        starts[-1]["columns"] = [{key: one[key] for key in ("name", "pid", "node", "device")} for one in about]
        _write(folder, starts)


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """All starts of a run, oldest first; none if the file is not there or cannot be read."""
    try:
        starts = json.loads((folder / FILE).read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return starts if isinstance(starts, list) else []


def is_alive(start: dict[str, Any]) -> bool | None:
    """Whether the process of a start still runs; None if that was on another machine."""
    if start["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(start["pid"])
        # Numbers of processes are used again; times of birth are not.
        is_it = abs(process.create_time() - start["process_started"]) < 2.0
        return is_it and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def commit() -> str | None:
    """The commit of the project's checkout, with `+` behind it if files differ from it; None if it is no checkout."""
    root = Path(__file__).parents[1]
    head = _git(root, "rev-parse", "HEAD")
    # A folder inside somebody else's checkout (a virtual environment, say) is none of ours.
    if head is None or _git(root, "ls-files", "--error-unmatch", str(Path(__file__).relative_to(root))) is None:
        return None
    return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        ran = subprocess.run(
            [git, "-C", str(root), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip()


def _start() -> dict[str, Any]:
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [without_keys_in(word) for word in sys.orig_argv],
        "working_folder": os.getcwd(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "system": platform.platform(),
        "cpus": usable_cpus(),
        "memory_bytes": psutil.virtual_memory().total,
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("two-column-alexnet", *PACKAGES)},
        "columns": [],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write(folder: Path, starts: list[dict[str, Any]]) -> None:
    temporary = folder / "environment.tmp"
    temporary.write_text(json.dumps({"starts": starts}, indent=1), encoding="utf-8")
    temporary.replace(folder / FILE)
