"""Files that appear under their name only when they are whole, whatever happens while they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write; it replaces `path` at the end, on disk, and leaves nothing behind if the writing fails.

    Raises OSError if the disk refuses.
    """
    # A random part, so that two attempts at the same file (Ray retries a lost task) never share one.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # Ctrl-C too; it is raised on
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they outlive a power cut. Raises OSError.

    All above it are synced, not the new ones alone: one that was killed may have made them and not come to that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for above in folder.parents:
        try:
            sync_folder(above)
        except PermissionError:  # not ours, so we have not made it
            return
        if above.is_mount():
            return


def sync_folder(folder: Path) -> None:
    """The rename itself must outlive a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
