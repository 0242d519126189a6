"""A local disk that fails: where it is told to, what Python writes below a folder is refused, ends, or is forgotten.

Each step that changes something (and each opening to read) is numbered from 1. Kept in mind is what a power cut leaves: of a file
what was synced, of a folder the entries that were there when it was synced, and of later changes any that the system has already
written by itself. The rest of a process that was killed changes nothing.
"""

import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from configs.errors import UserError

How = Literal["kill", "refuse", "full"]
Cut = Literal["nothing", "names", "last", "all but the first"]
CUTS: tuple[Cut, ...] = ("nothing", "names", "last", "all but the first")
"""What of the changes that were not synced is on disk after a power cut: none; all, but no file's content; some."""
HOWS: dict[How, Callable[[str], bool]] = {
    "kill": lambda kind: kind != "read",
    "refuse": lambda kind: True,
    "full": lambda kind: kind in ("write", "create", "mkdir"),
}
"""And the steps that it matters at."""


class Killed(BaseException):
    """The process ends here."""


class Disk:
    """Use as a context manager around what is to fail. root: below it all is recorded; what is there is taken for synced.

    at: the step at which it happens; how: kill (the process ends before it), refuse (EIO for this step), full (ENOSPC for it and
    all later ones that need room). bad: a file of this name cannot be read.
    """

    def __init__(self, root: Path, at: int = 0, how: How = "kill", bad: str = "") -> None:
        self.root, self.at, self.how, self.bad = root, at, how, bad
        self.steps: list[str] = []
        self.dead = self.hit = False
        self._held: list[int] = []  # so that no inode's number is used again
        self._content: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._pending: list[list[tuple[int, str, int | None]]] = []
        self._keep(root, synced=True)
        for folder, folders, files in os.walk(root):
            for name in (*folders, *files):
                self._entries[_inode(folder)][name] = self._keep(Path(folder, name), synced=True)

    def __enter__(self) -> "Disk":
        self._patches, self._real_open = ExitStack(), io.open
        for name in ("fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir"):
            self._patches.enter_context(patch.object(os, name, partial(self._called, name, getattr(os, name))))
        self._patches.enter_context(patch.object(io, "open", self._open))
        return self

    def __exit__(self, *why: object) -> None:
        self._patches.close()
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()

    @property
    def pending(self) -> int:
        """Changes that were not synced."""
        return len(self._pending)

    def power_cut(self, cut: Cut | int) -> None:
        """Put back what is on disk after it. To be called when the context has ended. A number: the first so many changes are."""
        entries = {inode: dict(names) for inode, names in self._entries.items()}
        some = {
            "nothing": [],
            "names": self._pending,
            "last": self._pending[-1:],
            "all but the first": self._pending[1:],
        }
        survived = self._pending[:cut] if isinstance(cut, int) else some[cut]
        for change in survived:
            for folder, name, inode in change:
                if inode is None:
                    entries[folder].pop(name, None)
                else:
                    entries[folder][name] = inode
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._put_back(self.root, self._root, entries)

    def _put_back(self, folder: Path, inode: int, entries: dict[int, dict[str, int]]) -> None:
        for name, found in entries[inode].items():
            if found in entries:
                (folder / name).mkdir()
                self._put_back(folder / name, found, entries)
            else:
                (folder / name).write_bytes(self._content[found])

    def _keep(self, path: Path, *, synced: bool = False) -> int:
        descriptor = os.open(path, os.O_RDONLY)
        self._held.append(descriptor)
        inode = os.fstat(descriptor).st_ino
        if path.is_dir():
            self._entries[inode] = {}
        else:
            self._content[inode] = path.read_bytes() if synced else b""
        if path == self.root:
            self._root = inode
        return inode

    def _step(self, kind: str, path: Path) -> None:
        """Raises what is to go wrong here."""
        if self.dead:
            raise Killed
        self.steps.append(f"{kind} {path.relative_to(self.root)}")
        now = len(self.steps) == self.at
        self.hit |= now
        if now and self.how == "kill":
            self.dead = True
            raise Killed
        if now and self.how == "refuse":
            raise OSError(5, os.strerror(5), str(path))
        if self.how == "full" and self.hit and HOWS["full"](kind):
            raise OSError(28, os.strerror(28), str(path))

    def _below(self, path: Path) -> bool:
        return path == self.root or self.root in path.parents

    def _called(self, name: str, working: Callable[..., Any], first: Any, *more: Any, **how: Any) -> Any:
        if name == "fsync":
            path = Path(os.readlink(f"/proc/self/fd/{first}").removesuffix(" (deleted)"))
        else:
            path = _absolute(first, how.get("dir_fd"))
        if not self._below(path):
            return None if name == "fsync" else working(first, *more, **how)
        self._step(name, path)
        if name == "fsync":
            self._synced(first)
            return None
        folder = _inode(path.parent)
        moved = _inode(path) if name in ("replace", "rename") else None
        result = working(first, *more, **how)
        change: list[tuple[int, str, int | None]] = [(folder, path.name, self._keep(path) if name == "mkdir" else None)]
        if name in ("replace", "rename"):
            to = _absolute(more[0], None)
            change.append((_inode(to.parent), to.name, moved))
        self._pending.append(change)
        return result

    def _synced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            self._content[status.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            return
        there = [change for change in self._pending if any(folder == status.st_ino for folder, _, _ in change)]
        self._pending = [change for change in self._pending if change not in there]
        for folder, name, inode in (one for change in there for one in change):
            if inode is None:
                self._entries[folder].pop(name, None)
            else:
                self._entries[folder][name] = inode

    def _open(self, file: Any, mode: str = "r", *more: Any, **how: Any) -> Any:
        path = Path(file) if isinstance(file, str | os.PathLike) else None
        if path is None or not self._below(path):
            return self._real_open(file, mode, *more, **how)
        if not set(mode) & set("wxa+"):
            self._step("read", path)
            if path.name == self.bad:
                raise OSError(5, os.strerror(5), str(path))
            return self._real_open(file, mode, *more, **how)
        new = not path.exists()
        self._step("create" if new else "open", path)
        raw = _Writes(path, mode.replace("b", "").replace("t", ""), self)
        if new:
            self._pending.append([(_inode(path.parent), path.name, self._keep(path))])
        buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding=how.get("encoding"))


class _Writes(io.FileIO):
    def __init__(self, path: Path, mode: str, disk: Disk) -> None:
        super().__init__(path, mode)
        self._disk, self._path, self._begun = disk, path, False

    def write(self, data: Any) -> int:
        if self._disk.dead:  # a buffer that is emptied after the end
            return len(data)
        if not self._begun:  # the others differ from it in nothing that is looked at
            self._disk._step("write", self._path)
        self._begun = True
        return super().write(data)


def _absolute(path: Any, folder: int | None) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{folder}"), path) if folder is not None else Path(path).absolute()


def _inode(path: Path | str) -> int:
    return os.stat(path).st_ino


def every_failure(
    root: Path, run: Callable[[], object], reset: Callable[[], object], facts: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Run it with a failure at each of its steps in turn; yields what was done, when the machine is up again.

    Of like outcomes the first is yielded. reset: puts `root` as it was before. facts: what else tells outcomes apart. The last of
    each kind is without a failure, and then a power cut.
    """
    seen: set[object] = set()

    def new() -> bool:
        left = (facts(), *((path, path.is_file() and path.read_bytes()) for path in sorted(root.rglob("*"))))
        return left not in seen and not seen.add(left)  # type: ignore[func-returns-value]  # it is for `not`

    with patch.object(os, "fsync"):  # which takes long, and no power is really cut
        reset()
        with Disk(root) as disk:
            run()
        kinds = [step.split()[0] for step in disk.steps]
        for how, matters in HOWS.items():
            for at, kind in enumerate([*kinds, "end"], 1):
                if not matters(kind):
                    continue
                reset()
                with Disk(root, at, how) as disk, suppress(Killed, OSError, UserError):
                    run()
                was = f"{how} at {at}: {disk.steps[at - 1] if disk.hit else 'the end'}"
                if new():
                    yield was
                # One that goes on after a refusal may be cut off at any later moment.
                for cut in CUTS if how == "kill" else range(disk.pending) if how == "refuse" else ():
                    disk.power_cut(cut)
                    if new():
                        yield f"{was}, and the power: of what was not synced there is {cut}"
