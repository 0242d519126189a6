"""Data sets at URLs: s3://bucket/folder, gs://bucket/folder, file:///folder, or whatever else pyarrow.fs knows.

A data set there has the same files as in a folder. Reading goes through a cache on each node (cache.py); writing is `upload`.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from configs.errors import UnreachableError, UserError
from workers.data.files import TEMPORARY_SUFFIX
from workers.data.manifest import FILE, Manifest
from workers.data.shards import CorruptShardError, ShardInfo

CHUNK_BYTES = 8 * 2**20
MOST_TRIES = 3
"""Transfers of one file before giving up."""
PAUSE_SECONDS = 1.0
"""Before the second try; twice that before the third."""
UPLOAD_THREADS = 4

DATA_IS_MISSING = "upload the data set there, or set data.path"

KEYS = ("access_key", "secret_key", "session_token")
"""Parameters of a URL that are nobody else's."""

FLAT = ("s3", "gcs")
"""File systems without folders: none are made there."""


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

    @classmethod
    def at(cls, url: str, *, if_missing: str = DATA_IS_MISSING) -> "Remote":
        """Raises UserError if the URL is of no kind that pyarrow.fs knows."""
        try:
            filesystem, root = fs.FileSystem.from_uri(url)
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

    def copy(self, file: str, into: BinaryIO | None, on_bytes: Callable[[int], None] | None = None) -> tuple[int, str]:
        """Copy a file into an open one, from its start, or nowhere; returns its bytes and SHA-256.

        on_bytes: called with the number of bytes of each piece. Raises OSError if this disk refuses.
        """
        return self._tried(file, "read", lambda: self._copied(file, into, on_bytes))

    def download(self, shard: ShardInfo, into: BinaryIO) -> None:
        """Copy a shard into an open file, from its start, and compare size and SHA-256.

        Raises CorruptShardError if what is stored there is not what the manifest says; OSError if this disk refuses.
        """
        wrong = ""
        for _ in range(2):  # a transfer may go wrong without an error; twice the same way is the file
            size, sha256 = self._tried(shard.file, "read", lambda: self._copied(shard.file, into))
            if (size, sha256) == (shard.bytes, shard.sha256):
                return
            wrong = "another checksum" if size == shard.bytes else f"{size:,} bytes instead of {shard.bytes:,}"
        raise CorruptShardError(
            f"{self.where(shard.file)} is damaged: it has {wrong}. Upload it again from a copy, or make the data set again "
            "with `python -m cluster.prepare ... --overwrite`."
        )

    def write(self, file: str, chunks: Callable[[], Iterator[bytes]]) -> None:
        """A file of these chunks, which are asked for anew with each try."""
        flat = self._filesystem.type_name in FLAT
        path = self._path(file)
        # An object appears when all of it is there; a file would be seen as it grows.
        target = path if flat else f"{path}{TEMPORARY_SUFFIX}"

        def once() -> None:
            if not flat:
                self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self._filesystem.open_output_stream(target) as stream:
                for chunk in chunks():
                    stream.write(chunk)
            if not flat:
                self._filesystem.move(target, path)

        self._tried(file, "written", once)

    def remove(self, file: str) -> None:
        """Remove a file that is there."""
        self._tried(file, "removed", lambda: self._filesystem.delete_file(self._path(file)))

    def remove_below(self, folder: str) -> None:
        """Remove a folder below this one, with all that is in it."""
        self._tried(folder, "removed", lambda: self._filesystem.delete_dir(self._path(folder)))

    def move(self, file: str, to: str) -> None:
        """Give a file another path below this folder. Where there are no folders, it is copied by the storage itself."""

        def once() -> None:
            if self._filesystem.type_name not in FLAT:
                self._filesystem.create_dir(self._path(to).rpartition("/")[0], recursive=True)
            self._filesystem.move(self._path(file), self._path(to))

        self._tried(file, "moved", once)

    def _copied(
        self, file: str, into: BinaryIO | None, on_bytes: Callable[[int], None] | None = None
    ) -> tuple[int, str]:
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
                if on_bytes:
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
                time.sleep(PAUSE_SECONDS * attempt)
        raise AssertionError("unreachable")


class LocalDiskError(Exception):
    """An OSError of this machine's disk, which no other try will mend."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def check_listing(remote: Remote, manifest: Manifest) -> None:
    """Compare the files that are there with the manifest by size; their checksums are compared as they come into a cache.

    Raises UserError that names every shard that is missing or of another size.
    """
    there = remote.sizes()
    problems = []
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard in shards:
        if shard.file not in there:
            problems.append(f"{shard.file} is missing")
        elif there[shard.file] != shard.bytes:
            problems.append(f"{shard.file} has {there[shard.file]:,} bytes instead of {shard.bytes:,}")
    if problems:
        raise UserError(
            f"{len(problems)} of {len(shards)} shards at {remote.name} are damaged: {'; '.join(problems)}. Upload the data "
            "set again."
        )


def upload(
    folder: Path, to: str | Remote, *, overwrite: bool = False, progress: Callable[[int, int], None] | None = None
) -> None:
    """Copy a prepared data set to a URL.

    The order: the old manifest goes first if there is one (overwrite), then the shards and the mean image come, each compared
    with the manifest's checksum on its way, then the manifest. So a place with a manifest holds a whole data set; where it
    was interrupted, the same call begins again.

    progress: called with (bytes done, bytes in all) after each shard.
    Raises UserError if there is another data set already, if the folder's is damaged, or if the storage fails.
    """
    remote = to if isinstance(to, Remote) else Remote.at(to)
    manifest = Manifest.load(folder)
    manifest.pixel_mean(folder)
    content = (folder / FILE).read_bytes()
    if FILE in remote.sizes():
        if not overwrite and remote.read(FILE) == content:
            check_listing(remote, manifest)
            return
        if not overwrite:
            raise UserError(f"there is another data set at {remote.name}; give another URL, or --overwrite")
        remote.remove(FILE)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    done, total = 0, sum(shard.bytes for shard in shards)
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        futures = {pool.submit(remote.write, s.file, partial(_checked, folder, s)): s for s in shards}
        try:
            for future in as_completed(futures):
                future.result()
                done += futures[future].bytes
                if progress:
                    progress(done, total)
        except BaseException:  # Ctrl-C must not wait for the remaining gigabytes
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    remote.write(manifest.pixel_mean_file, lambda: iter([(folder / manifest.pixel_mean_file).read_bytes()]))
    check_listing(remote, manifest)
    remote.write(FILE, lambda: iter([content]))


def _checked(folder: Path, shard: ShardInfo) -> Iterator[bytes]:
    """The file's chunks. Raises UserError after the last one if they are not those of the manifest."""
    digest, path = hashlib.sha256(), folder / shard.file
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if digest.hexdigest() != shard.sha256:
        raise CorruptShardError(
            f"{path} is damaged: it has another checksum than the manifest says. Restore it from a copy."
        )


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise LocalDiskError(error) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
