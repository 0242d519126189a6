"""What a Ray that was started here leaves in its temporary folder: a folder per session, hundreds of kB even of a short one."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil

MARK = "two-column-alexnet"
"""A file in the folders of our sessions; others are none of our business."""
KEPT_SECONDS = 7 * 86_400.0
"""How long the logs of a session that failed, or was killed, are there to be looked at."""


def mark(session: Path) -> None:
    with contextlib.suppress(OSError):
        (session / MARK).touch()


def remove(session: Path) -> None:
    """Of a session that has ended."""
    shutil.rmtree(session, ignore_errors=True)
    latest = session.with_name("session_latest")
    with contextlib.suppress(OSError):
        if latest.is_symlink() and not latest.exists():
            latest.unlink()


def sweep(folder: Path | None = None) -> None:
    """Remove our old sessions whose process is gone. folder: of all sessions (default: Ray's)."""
    folder = folder or Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    with contextlib.suppress(OSError):
        for file in folder.glob(f"session_*_*/{MARK}"):
            pid = file.parent.name.rpartition("_")[2]  # of the process that started it
            if pid.isdigit() and not psutil.pid_exists(int(pid)) and time.time() - file.stat().st_mtime > KEPT_SECONDS:
                remove(file.parent)
