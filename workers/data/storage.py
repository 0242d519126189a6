"""Data sets at URLs: s3://bucket/folder, gs://bucket/folder, file:///folder, or whatever else pyarrow.fs knows.

A data set there has the same files as in a folder. Reading goes through a cache on each node (cache.py); upload.py writes it.
"""

import hashlib
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from configs.errors import UnreachableError, UserError
from workers.data.files import TEMPORARY_SUFFIX
from workers.data.shards import CorruptShardError, ShardInfo

CHUNK_BYTES = 8 * 2**20
MOST_TRIES = 3
"""Transfers of one file before giving up."""
PAUSE_SECONDS = 1.0
"""Before the second try; twice that before the third."""

DATA_IS_MISSING = "upload the data set there, or set data.path"

KEYS = ("access_key", "secret_key", "session_token")
"""Parameters of a URL that are nobody else's."""

FLAT = ("s3", "gcs")
"""File systems without folders: none are made there, and none need be there to be removed."""
CLAIM_SECONDS = 2.0
"""More than the steps of a storage's clock, and than its hosts' clocks differ by."""
GCS_SECONDS = 8
"""How long Google's client goes on with one try, unless the URL says so (`retry_limit_seconds`); left alone, 15 minutes."""


def is_url(path: str) -> bool:
    """Whether `data.path`, say, is a URL and not a folder."""
    return "://" in path


def shown(url: str) -> str:
    """The URL as it may stand in messages: without the keys that it may hold."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def without_keys_in(text: str) -> str:
    """A line of words, such as a command, with all URLs in it as `without_keys` has them."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S+", lambda found: without_keys(found[0]), text)


def without_keys(url: str) -> str:
    """The URL, or folder, as it may be stored: it still leads there, for those who have keys."""
    if not is_url(url):
        return url
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key not in KEYS]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(query)))


class MissingFileError(UserError):
    """There is no such file at the URL."""


class Remote:
    """The files of one folder behind a pyarrow file system. `name` is what messages call it.

    if_missing: what to do then, for messages.
    All methods raise UserError, which names the file, if it is not there (a MissingFileError) or the storage fails MOST_TRIES
    times (an UnreachableError).
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, name: str, *, if_missing: str = DATA_IS_MISSING) -> None:
        self.name = name
        self._filesystem, self._root, self._if_missing = filesystem, root.rstrip("/"), if_missing
        self._flat = filesystem.type_name.rpartition(":")[2] in FLAT

    @classmethod
    def at(cls, url: str, *, if_missing: str = DATA_IS_MISSING) -> "Remote":
        """Raises UserError if the URL is of no kind that pyarrow.fs knows."""
        try:
            filesystem, root = fs.FileSystem.from_uri(_impatient(url))
            if not root.strip("/"):
                raise ValueError("it names no bucket or folder")
        except (OSError, ValueError, ImportError, pa.ArrowException) as error:
            # The library's own words hold the whole URL, credentials included.
            why = "" if "@" in url or "?" in url else f" ({_first_line(error)})"
            raise UserError(
                f"{shown(url)} cannot be used as a place for data{why}; give a folder, or a URL such as "
                "s3://bucket/folder, gs://bucket/folder or file:///folder"
            ) from None
        return cls(filesystem, root, shown(url), if_missing=if_missing)

    def where(self, file: str) -> str:
        """The file's name for messages."""
        return f"{self.name}/{file}"

    def read(self, file: str) -> bytes:
        """A small file."""

        def once() -> bytes:
            with self._filesystem.open_input_stream(self._path(file)) as stream:
                return bytes(stream.read())

        return self._tried(file, "read", once)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file by name; empty if there is no such folder."""

        def once() -> dict[str, int]:
            found = self._filesystem.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
            return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

        return self._tried("", "listed", once)

    def tree(self) -> dict[str, int]:
        """Bytes of each file in the folder and below, by its path from here; empty if there is no such folder."""
        prefix = f"{self._root}/" if self._root else ""

        def once() -> dict[str, int]:
            selector = fs.FileSelector(self._root, allow_not_found=True, recursive=True)
            found = self._filesystem.get_file_info(selector)
            return {info.path.removeprefix(prefix): info.size for info in found if info.type == fs.FileType.File}

        return self._tried("", "listed", once)

    def copy(
        self,
        file: str,
        into: BinaryIO | None,
        wanted: tuple[int, str],
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> tuple[int, str]:
        """Copy a file into an open one, from its start, or nowhere; returns its bytes and SHA-256.

        wanted: what these should be. If they are not it is read once more: a transfer may go wrong without an error; twice the
        same way is the file. on_bytes: called with the number of bytes of each piece. Raises OSError if this disk refuses.
        """

        def once() -> tuple[int, str]:
            return self._copied(file, into, on_bytes)

        found: tuple[int, str] = self._tried(file, "read", once)
        return found if found == wanted else self._tried(file, "read", once)

    def download(self, shard: ShardInfo, into: BinaryIO) -> None:
        """Copy a shard into an open file, from its start, and compare size and SHA-256.

        Raises CorruptShardError if what is stored there is not what the manifest says; OSError if this disk refuses.
        """
        wanted = (shard.bytes, shard.sha256)
        found = self.copy(shard.file, into, wanted)
        if found == wanted:
            return
        wrong = "another checksum" if found[0] == shard.bytes else f"{found[0]:,} bytes instead of {shard.bytes:,}"
        raise CorruptShardError(
            f"{self.where(shard.file)} is damaged: it has {wrong}. Upload it again from a copy, or make the data set again "
            "with `python -m cluster.prepare ... --overwrite`."
        )

    def write(self, file: str, chunks: Callable[[], Iterator[bytes]]) -> None:
        """A file of these chunks, which are asked for anew with each try, and looked for when it is written."""
        path = self._path(file)
        # An object appears when all of it is there; a file would be seen as it grows.
        target = path if self._flat else f"{path}{TEMPORARY_SUFFIX}"

        def once() -> None:
            if not self._flat:
                self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            size = 0
            try:
                with self._filesystem.open_output_stream(target) as stream:
                    for chunk in _local(chunks()):
                        stream.write(chunk)
                        size += len(chunk)
            except (OSError, pa.ArrowException):
                raise  # the storage's
            except BaseException:  # Ctrl-C too; it is raised on
                # These streams cannot be given up: leaving one puts what it was given under the name, as if that were all.
                with suppress(OSError, pa.ArrowException):
                    self._filesystem.delete_file(target)
                raise
            if self._filesystem.get_file_info(target).size != size:
                raise OSError("it was written without an error, and is not there")
            if not self._flat:
                self._filesystem.move(target, path)

        self._tried(file, "written", once)

    def remove(self, file: str) -> None:
        """Remove a file, if it is there."""

        def once() -> None:
            with suppress(FileNotFoundError):  # a try whose answer was lost has removed it
                self._filesystem.delete_file(self._path(file))

        self._tried(file, "removed", once)

    def remove_below(self, folder: str, *, first: str = "") -> None:
        """Remove a folder below this one, with all that is in it. first: the file in it that goes before the others."""
        files = [file for file in self.tree() if file.startswith(f"{folder}/")]
        # A storage without folders would list some of these again, or fail for want of an object that stands for the folder.
        for file in sorted(files, key=lambda file: file != f"{folder}/{first}"):
            if self._flat or file == f"{folder}/{first}":
                self.remove(file)

        def once() -> None:
            with suppress(FileNotFoundError):
                self._filesystem.delete_dir(self._path(folder))

        if self._flat:
            with suppress(OSError, pa.ArrowException):  # the object that stands for the folder, if there is one
                once()
        else:
            self._tried(folder, "removed", once)

    def move_below(self, folder: str, to: str, *, state: str) -> None:
        """Give a folder below this one another name. Where there are no folders, by copies: when all are there the files go,
        `state` first."""
        if self._flat:
            files = [file for file in self.tree() if file.startswith(f"{folder}/")]
            for file in files:
                target = f"{to}/{file.removeprefix(f'{folder}/')}"
                self._tried(file, "copied", partial(self._filesystem.copy_file, self._path(file), self._path(target)))
            self.remove_below(folder, first=state)
            return

        def once() -> None:
            try:
                self._filesystem.move(self._path(folder), self._path(to))
            except FileNotFoundError:
                # Unless it was moved by a try whose answer was lost.
                if not any(file.startswith(f"{to}/") for file in self.tree()):
                    raise

        self._tried(folder, "moved", once)

    def claim(self, folder: str) -> bool:
        """Put a file into a folder below this one; whether it is the first there, of all that are put at the same time.

        No condition can be given with a write here. So each puts a file of its own, waits until a later one is later by the
        storage's clock too, and looks: the first by that clock has it, and by name where they are of the same time.
        """
        own = f"{folder}/{secrets.token_hex(8)}"
        self.write(own, lambda: iter([b"{}"]))
        time.sleep(CLAIM_SECONDS)
        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        found = self._tried(folder, "listed", lambda: self._filesystem.get_file_info(selector))
        first = min(((info.mtime_ns or 0, info.path) for info in found if info.type == fs.FileType.File), default=None)
        if first is not None and first[1] == self._path(own):
            return True
        self.remove(own)
        return False

    def _copied(self, file: str, into: BinaryIO | None, on_bytes: Callable[[int], None]) -> tuple[int, str]:
        """Bytes and SHA-256 of what was copied."""
        digest, size = hashlib.sha256(), 0
        if into:
            into.seek(0)
            into.truncate()
        with self._filesystem.open_input_stream(self._path(file)) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
                if into:
                    _write(into, chunk)
                size += len(chunk)
                on_bytes(len(chunk))
        return size, digest.hexdigest()

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}" if self._root else file

    def _tried(self, file: str, what: str, once: Callable[[], Any]) -> Any:
        for attempt in range(1, MOST_TRIES + 1):
            try:
                return once()
            except LocalDiskError as error:
                raise error.cause from None
            except FileNotFoundError:
                raise MissingFileError(f"{self.where(file)} is missing; {self._if_missing}") from None
            except (OSError, pa.ArrowException) as error:
                if attempt == MOST_TRIES:
                    raise UnreachableError(
                        f"{self.where(file)} cannot be {what}: {_first_line(error)} ({attempt} tries). Check the URL, the "
                        "network, and that this machine may use it (credentials come from the environment)."
                    ) from None
                told = f"note: {self.where(file)} cannot be {what} yet ({_first_line(error)}); trying again"
                print(told, file=sys.stderr, flush=True)
                time.sleep(PAUSE_SECONDS * attempt)
        raise AssertionError("unreachable")


class LocalDiskError(Exception):
    """An OSError of this machine's disk, which no other try will mend."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def _impatient(url: str) -> str:
    """The URL, with a limit on how long Google's client tries by itself."""
    parts = urlsplit(url)
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return url
    return urlunsplit(parts._replace(query=f"{parts.query}&retry_limit_seconds={GCS_SECONDS}".lstrip("&")))


def _local(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same. Raises LocalDiskError for an OSError of theirs."""
    try:
        yield from chunks
    except OSError as error:
        raise LocalDiskError(error) from None


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise LocalDiskError(error) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
