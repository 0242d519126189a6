"""The checkpoint folder, proved by marker files: every node reads what the driver wrote, and the driver what every node wrote."""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.plan import Plan
from cluster.preflight.nodes import Node
from cluster.preflight.results import Result
from configs.errors import UserError


@dataclass(frozen=True, kw_only=True)
class StorageSeen:
    """What a node found in the folder."""

    problem: str = ""
    todo: str = ""
    free_bytes: int | None = None


class Folder:
    """Small files at one place: a folder, or a URL."""

    def __init__(self, location: str) -> None:
        from workers.data.storage import Remote, is_url

        self.location = location
        self._remote = Remote.at(location) if is_url(location) else None

    def write(self, file: str, content: str) -> None:
        """Raises OSError or UserError."""
        if self._remote is not None:
            self._remote.write(file, lambda: iter([content.encode()]))
            return
        with open(Path(self.location, file), "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # a full or read-only file system may tell only now

    def read(self, file: str) -> str | None:
        """None if there is no such file. Raises OSError or UserError."""
        if self._remote is not None:
            return self._remote.read(file).decode() if file in self._remote.sizes() else None
        path = Path(self.location, file)
        return path.read_text(encoding="utf-8") if path.exists() else None

    def remove(self, file: str) -> None:
        with contextlib.suppress(OSError, UserError):
            if self._remote is not None:
                self._remote.remove(file)
            else:
                Path(self.location, file).unlink()

    def free_bytes(self) -> int | None:
        return None if self._remote is not None else shutil.disk_usage(self.location).free


def look_at_storage(location: str, token: str, node: str) -> StorageSeen:
    """On a node: read the driver's marker, and write this node's. Never raises."""
    try:
        folder = Folder(location)
        if folder.read(marker(token)) != token:
            return StorageSeen(
                problem=f"{location} is not the folder that the driver wrote to: its marker is not there",
                todo="put runs_folder on storage that all nodes share (NFS, say), at the same path",
            )
        folder.write(marker(token, node), node)
        return StorageSeen(free_bytes=folder.free_bytes())
    except (OSError, UserError) as error:
        return StorageSeen(
            problem=f"{location} cannot be used: {_told(error)}",
            todo="make it writable there for the user that Ray runs as, or choose another runs_folder",
        )


def marker(token: str, node: str = "driver") -> str:
    return f"preflight-{token}-{node}"


class StorageTest:
    """Use as a context manager around the nodes' answers; it leaves nothing behind.

    location: the run's checkpoint folder. nodes: those that are asked.
    """

    def __init__(self, location: str, token: str, nodes: Sequence[Node]) -> None:
        self.location, self._token = location, token
        self._nodes = {node.id: node for node in nodes}
        self._folder: Folder | None = None
        self._made: list[Path] = []
        self.problem = ""

    def __enter__(self) -> "StorageTest":
        try:
            self._folder = Folder(self.location)
            if "://" not in self.location:
                path = Path(self.location)
                self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
                path.mkdir(parents=True, exist_ok=True)
            self._folder.write(marker(self._token), self._token)
        except (OSError, UserError) as error:
            self.problem = _told(error)
        except BaseException:  # a signal that came just now
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            for node in ("driver", *self._nodes):
                self._folder.remove(marker(self._token, node))
        for folder in self._made:
            with contextlib.suppress(OSError):  # somebody has put something into it
                folder.rmdir()

    def check(self, plan: Plan, seen: Mapping[str, StorageSeen]) -> list[Result]:
        """seen: by id of the nodes that answered."""
        if self.problem or self._folder is None:
            return [
                Result(
                    name="storage",
                    where="driver",
                    what=f"{self.location} cannot be written: {self.problem}",
                    todo="choose another runs_folder, or make room or rights there",
                )
            ]
        results = []
        for node, saw in seen.items():
            problem, todo = saw.problem, saw.todo
            if not problem and not self._came_back(node):
                problem = f"what it writes to {self.location} is not seen by the driver"
                todo = "put runs_folder on storage that all nodes share (NFS, say), at the same path"
            if problem:
                results.append(Result(name="storage", where=self._nodes[node].name, what=problem, todo=todo))
        results += self._space(plan, seen)
        if not results:
            shared = f"read and written by the driver and {len(seen)} node(s)"
            results = [Result(name="storage", state="ok", what=f"{self.location}: {shared}{self._free_words()}")]
        return results

    def _came_back(self, node: str) -> bool:
        assert self._folder is not None
        try:
            return self._folder.read(marker(self._token, node)) == node
        except (OSError, UserError):
            return False

    def _space(self, plan: Plan, seen: Mapping[str, StorageSeen]) -> list[Result]:
        assert self._folder is not None
        free = [f for f in (self._folder.free_bytes(), *(saw.free_bytes for saw in seen.values())) if f is not None]
        wanted = plan.most_checkpoints * plan.checkpoint_bytes - _taken(self.location)
        if not free or min(free) >= wanted:
            return []
        return [
            Result(
                name="storage",
                what=f"{self.location} has {min(free) / 1e9:,.2f} GB free, and checkpoints may take {wanted / 1e9:,.2f} GB more "
                f"({plan.most_checkpoints} at a time with checkpoint.keep = {plan.config.checkpoint.keep}, weights and momentum)",
                todo="make room, keep fewer, or choose another runs_folder",
            )
        ]

    def _free_words(self) -> str:
        assert self._folder is not None
        free = self._folder.free_bytes()
        return "" if free is None else f", {free / 1e9:,.1f} GB free"


def _taken(location: str) -> int:
    """By checkpoints that are there already, which later ones replace."""
    if "://" in location:
        return 0
    return sum(file.stat().st_size for file in Path(location).glob("step-*/*") if file.is_file())


def _told(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
