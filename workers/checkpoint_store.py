"""Where a run's checkpoints lie: a folder that all nodes see, or a URL. Each checkpoint is a folder of files there.

A checkpoint is committed by its state file: that comes when all other files are there for good, and goes before any of them. In
a folder it is renamed into place; in an object store, which knows no rename, it is put in one piece, and seen once it is whole.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from configs.errors import about_os
from configs.schema import Config
from workers.data.files import make_folder, sync_folder, whole_file
from workers.data.storage import CHUNK_BYTES, MissingFileError, Remote, is_url, without_keys

STATE = "state.json"
OnBytes = Callable[[int], None]
"""Called with the number of bytes of each piece that was read."""


class DamagedFileError(Exception):
    """A file is not what the state says. The message says which and in what way."""


class CheckpointStore(ABC):
    """`name`: the place, for messages. Paths are given as (folder, file).

    All methods raise OSError, or UserError for a URL, if the place cannot be reached or written.
    """

    name: str

    @abstractmethod
    def tree(self) -> dict[str, dict[str, int]]:
        """Files of each folder, with their bytes; empty if nothing was ever saved here."""

    @abstractmethod
    def read(self, folder: str, file: str) -> bytes:
        """A small file."""

    @abstractmethod
    def prepare(self, folder: str) -> None:
        """Make an empty folder; what is there goes."""

    @abstractmethod
    def new_file(self, folder: str, file: str) -> Any:
        """A context manager: write to the path that it yields; on the way out the file is in its place for good."""

    @abstractmethod
    def commit(self, folder: str, state: bytes) -> None:
        """Put the state file into its place, whole."""

    @abstractmethod
    def remove(self, folder: str) -> None:
        """Remove a checkpoint: its state first, so that what an interruption leaves is no checkpoint."""

    @abstractmethod
    def discard(self, folder: str) -> None:
        """Remove what a failed save has left, if that helps; never raises."""

    @abstractmethod
    def move(self, folder: str, to: str) -> None:
        """Give a folder another name. What an interruption leaves is as it was, beside a part of it under the other name."""

    @abstractmethod
    def claim(self, folder: str) -> bool:
        """Make a folder that was not there. Of several that try at the same time one is told that it was the first."""

    @abstractmethod
    def fetched(self, folder: str, entry: Mapping[str, Any]) -> Any:
        """A context manager that yields a local path of a file. entry: its name, bytes and SHA-256 as the state says.

        Raises DamagedFileError if it is missing or another file.
        """

    @abstractmethod
    def check(self, folder: str, entry: Mapping[str, Any], on_bytes: OnBytes) -> None:
        """Read a file once. Raises DamagedFileError as `fetched` does."""


class FolderStore(CheckpointStore):
    """Checkpoints in a folder."""

    def __init__(self, root: Path) -> None:
        self.name, self._root = str(root), root

    def tree(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for folder in self._root.glob("*/"):
            # What another process removes meanwhile is not there.
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                found[folder.name] = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        return found

    def read(self, folder: str, file: str) -> bytes:
        return (self._root / folder / file).read_bytes()

    def prepare(self, folder: str) -> None:
        if (self._root / folder).exists():
            self.remove(folder)
        if not self._root.is_dir():  # else it was made for good by `claim`
            make_folder(self._root)
        (self._root / folder).mkdir()
        sync_folder(self._root)

    @contextmanager
    def new_file(self, folder: str, file: str) -> Iterator[Path]:
        path = self._root / folder / file
        yield path
        with path.open("rb") as written:
            os.fsync(written.fileno())
        sync_folder(path.parent)

    def commit(self, folder: str, state: bytes) -> None:
        with whole_file(self._root / folder / STATE) as file:
            file.write(state)

    def remove(self, folder: str) -> None:
        (self._root / folder / STATE).unlink(missing_ok=True)
        sync_folder(self._root / folder)
        shutil.rmtree(self._root / folder)

    def discard(self, folder: str) -> None:
        with suppress(OSError):  # the disk may refuse; a later save removes it
            self.remove(folder)

    def move(self, folder: str, to: str) -> None:
        (self._root / folder).rename(self._root / to)
        sync_folder(self._root)

    def claim(self, folder: str) -> bool:
        make_folder(self._root)
        try:
            (self._root / folder).mkdir()
        except FileExistsError:
            return False
        sync_folder(self._root)
        return True

    @contextmanager
    def fetched(self, folder: str, entry: Mapping[str, Any]) -> Iterator[Path]:
        self.check(folder, entry, lambda count: None)
        yield self._root / folder / _file_of(entry)

    def check(self, folder: str, entry: Mapping[str, Any], on_bytes: OnBytes) -> None:
        file = _file_of(entry)
        try:
            with (self._root / folder / file).open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                if size != entry["bytes"]:  # that is known without reading it
                    raise DamagedFileError(_wrong_size(file, size, entry))
                _compare(entry, size, _sha256(opened, on_bytes))
        except FileNotFoundError:
            raise DamagedFileError(f"{file} is missing") from None
        except OSError as error:
            # A bad sector. Of other errors, as of a server that is away, the file is not to blame.
            if error.errno == errno.EIO:
                raise DamagedFileError(f"{file} cannot be read: {error.strerror}") from None
            raise about_os(
                error,
                f"{self._root / folder / file} cannot be read now: {error.strerror}; mend that, and give the same command again",
            ) from None


class RemoteStore(CheckpointStore):
    """Checkpoints at a URL."""

    def __init__(self, remote: Remote) -> None:
        self.name, self._remote = remote.name, remote

    def tree(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for path, size in self._remote.tree().items():
            folder, _, file = path.partition("/")
            if file and "/" not in file:
                found.setdefault(folder, {})[file] = size
        return found

    def read(self, folder: str, file: str) -> bytes:
        return self._remote.read(f"{folder}/{file}")

    def prepare(self, folder: str) -> None:
        if folder in self.tree():
            self.remove(folder)

    @contextmanager
    def new_file(self, folder: str, file: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as here:
            path = Path(here) / file
            yield path
            self._remote.write(f"{folder}/{file}", lambda: _chunks(path))

    def commit(self, folder: str, state: bytes) -> None:
        self._remote.write(f"{folder}/{STATE}", lambda: iter([state]))

    def remove(self, folder: str) -> None:
        self._remote.remove_below(folder, first=STATE)

    def discard(self, folder: str) -> None:
        """The storage may not answer, and has room; a later save removes it."""

    def move(self, folder: str, to: str) -> None:
        self._remote.move_below(folder, to, state=STATE)

    def claim(self, folder: str) -> bool:
        return self._remote.claim(folder)

    @contextmanager
    def fetched(self, folder: str, entry: Mapping[str, Any]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as here:
            path = Path(here) / _file_of(entry)
            with path.open("wb") as file:
                self._copy(folder, entry, file, lambda count: None)
            yield path

    def check(self, folder: str, entry: Mapping[str, Any], on_bytes: OnBytes) -> None:
        self._copy(folder, entry, None, on_bytes)

    def _copy(self, folder: str, entry: Mapping[str, Any], into: BinaryIO | None, on_bytes: OnBytes) -> None:
        file = _file_of(entry)
        size = self.tree().get(folder, {}).get(file)
        if size is None:
            raise DamagedFileError(f"{file} is missing")
        if size != entry["bytes"]:
            raise DamagedFileError(_wrong_size(file, size, entry))
        try:
            wanted = (entry["bytes"], entry["sha256"])
            _compare(entry, *self._remote.copy(f"{folder}/{file}", into, wanted, on_bytes))
        except MissingFileError:  # removed since it was listed
            raise DamagedFileError(f"{file} is missing") from None


def open_store(place: str) -> CheckpointStore:
    """The store at a folder or URL. Raises UserError if it is no URL that can be used."""
    place = without_scheme(place)
    if not is_url(place):
        return FolderStore(Path(place))
    return RemoteStore(Remote.at(place, if_missing="was it removed? `checkpoint.folder` says where checkpoints lie"))


def without_scheme(url: str) -> str:
    """file:///folder is a folder like any other, and written to as carefully; other URLs are given back as they are."""
    return unquote(urlsplit(url).path) if url.startswith("file://") else url


def keyless(config: Config) -> Config:
    """As it may be stored: without keys that its URLs may hold."""
    folder, init_from = config.checkpoint.folder, config.train.init_from
    return replace(
        config,
        data=replace(config.data, path=without_keys(config.data.path)),
        checkpoint=replace(config.checkpoint, folder=folder and without_keys(folder)),
        train=replace(config.train, init_from=init_from and without_keys(init_from)),
    )


def place_of(config: Config, run: Path) -> str:
    """Where a run's checkpoints lie: an absolute folder, or a URL. run: the run's folder."""
    return place_in(config.checkpoint.folder, run, config.name)


def place_in(folder: str | None, run: Path, name: str) -> str:
    """The same. folder: `checkpoint.folder`. name: the run's."""
    if folder is None:
        return str((run / "checkpoints").resolve())
    folder = without_scheme(folder)
    if not is_url(folder):
        return str((Path(folder).expanduser() / name).resolve())
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def _file_of(entry: Mapping[str, Any]) -> str:
    """Its name alone, whatever stands in the state."""
    return Path(entry["file"]).name


def _compare(entry: Mapping[str, Any], size: int, sha256: str) -> None:
    if size != entry["bytes"]:
        raise DamagedFileError(_wrong_size(_file_of(entry), size, entry))
    if sha256 != entry["sha256"]:
        raise DamagedFileError(f"the checksum of {_file_of(entry)} is not the one recorded when it was saved")


def _wrong_size(file: str, size: int, entry: Mapping[str, Any]) -> str:
    return f"{file} has {size:,} bytes instead of {entry['bytes']:,}"


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _sha256(file: BinaryIO, on_bytes: OnBytes) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        on_bytes(len(chunk))
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return _sha256(file, lambda count: None)
