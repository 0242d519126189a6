"""Where a run finds the files of its data set on this node: in the folder itself, or in a cache of what lies at a URL.

The cache is one folder per node, shared by all processes and runs of a user:

    CACHE/FIRST 32 DIGITS OF THE MANIFEST'S SHA-256/
        manifest.json, mean.npy and shards under their own names: a data set like any other
        in-use                       locked (shared) by every process that reads shards of it
        NAME.arrow.part              locked by the process that fetches this shard

A global shuffle needs all shards within the first few hundred batches. So the room for a whole data set is made when it is
opened, by removing shards of others that no process has open, those not used for longest first; a data set that does not fit
is refused then, and not after hours. From then on nothing of it is removed as long as a process reads it.
"""

import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from configs.errors import UnreachableError, UserError, about_os
from configs.schema import Data
from workers.data.files import whole_file
from workers.data.manifest import FILE, Manifest
from workers.data.shards import SUFFIX, ShardInfo
from workers.data.storage import Remote, is_url

PART = ".part"
ENTRY = re.compile(r"[0-9a-f]{32}")
"""Folders of this cache; others beside them are left alone."""
IN_USE = "in-use"
FETCH_THREADS = 2
"""Of each process, in the background."""
LONGEST_STANDSTILL_SECONDS = 300.0
"""How long a shard that another process is fetching may not grow."""
POLL_SECONDS = 0.1


def open_data(data: Data) -> "tuple[Path, Cache | None]":
    """The folder that holds manifest and mean image on this node, and the cache that fetches the shards into it; no cache if
    `data.path` is a folder, which holds all of them.

    Raises UserError if the URL cannot be read, or the data set has no room in the cache or on the disk.
    """
    if not is_url(data.path):
        return Path(data.path), None
    cache = Cache(Remote.at(data.path), cache_root(data), int(data.cache_gigabytes * 1e9))
    return cache.folder, cache


def local_folder(data: Data) -> Path:
    """The folder that holds manifest and mean image on this node; for those who read no shards. Raises UserError."""
    if not is_url(data.path):
        return Path(data.path)
    return fetch_description(Remote.at(data.path), cache_root(data))


def cache_root(data: Data) -> Path:
    """The cache's folder, absolute: `data.cache_folder`, or one in the user's folder for caches."""
    if data.cache_folder is not None:
        return Path(data.cache_folder).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "two-column-alexnet"
    except RuntimeError:  # a user without a home, as in a container that was given a number alone
        raise UserError("there is no home folder to keep shards in; set data.cache_folder, or HOME") from None


def fetch_description(remote: Remote, root: Path) -> Path:
    """Fetch the manifest, always anew, and the mean image; returns their folder. Raises UserError."""
    content = remote.read(FILE)
    folder = root / hashlib.sha256(content).hexdigest()[:32]
    with _disk_errors(root):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).is_file() or (folder / FILE).read_bytes() != content:  # not here yet, or damaged since
            _put(folder / FILE, content)
    manifest = Manifest.load(folder)
    try:
        manifest.pixel_mean(folder)
    except UserError:  # not here yet, or damaged since
        mean = remote.read(manifest.pixel_mean_file)
        with _disk_errors(root):
            _put(folder / manifest.pixel_mean_file, mean)
        manifest.pixel_mean(folder)
    return folder


class Cache:
    """Brings the shards of one data set into `folder`, and keeps them there as long as this object lives.

    limit_bytes: of all shards under `root`. Raises UserError if there is no room, saying what would help.
    """

    def __init__(self, remote: Remote, root: Path, limit_bytes: int) -> None:
        self._remote = remote
        self.folder = fetch_description(remote, root)
        splits = Manifest.load(self.folder).splits.values()
        self._ahead: Iterator[ShardInfo] = iter(())
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        with _disk_errors(root), (root / "room.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            # Held until this process ends; a lock goes with the file object that took it.
            self._in_use = (self.folder / IN_USE).open("w")
            fcntl.flock(self._in_use, fcntl.LOCK_SH)
            try:
                _make_room(root, self.folder, [info for split in splits for info in split.shards], limit_bytes)
            except BaseException:  # Ctrl-C too; it is raised on
                self._in_use.close()  # a traceback may keep this object alive
                raise

    def close(self) -> None:
        """Let others remove the shards, and fetch no more in the background."""
        with self._lock:
            self._ahead = iter(())
        for thread in self._threads:
            thread.join()
        self._in_use.close()

    def fetch(self, shard: ShardInfo) -> Path:
        """The shard's file, fetched first if it is not here. Its bytes are those that the manifest says.

        Raises UserError if it cannot be fetched, CorruptShardError if what lies at the URL is damaged.
        """
        path = self.folder / shard.file
        with _disk_errors(self.folder):
            grown, since = -1, time.monotonic()
            while not self._fetched(shard, path):
                size = _size(path.with_name(path.name + PART))
                if size != grown:
                    grown, since = size, time.monotonic()
                if time.monotonic() - since > LONGEST_STANDSTILL_SECONDS:
                    raise UnreachableError(
                        f"another process on this node is fetching {self._remote.where(shard.file)}, and has stood still for "
                        f"{LONGEST_STANDSTILL_SECONDS:g} s; check the network, or end it"
                    )
                time.sleep(POLL_SECONDS)
            os.utime(path)  # used now
        return path

    def fetch_ahead(self, shards: Sequence[ShardInfo]) -> None:
        """Fetch these in the background, in this order; those that other processes are fetching are left to them."""
        with self._lock:
            self._ahead = iter(shards)
        for number in range(FETCH_THREADS):
            thread = threading.Thread(target=self._fetch_next, name=f"fetch {number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _fetch_next(self) -> None:
        while True:
            with self._lock:
                shard = next(self._ahead, None)
            if shard is None:
                return
            try:
                self._fetched(shard, self.folder / shard.file)
            except (UserError, OSError):
                # Whoever needs this shard will meet the same error, or fetch it after all.
                time.sleep(POLL_SECONDS)

    def _fetched(self, shard: ShardInfo, path: Path) -> bool:
        """Whether the shard is here now; False while another process, or thread, fetches it."""
        if _size(path) == shard.bytes:
            return True
        part = path.with_name(path.name + PART)
        # "a" leaves what another one has written; it is ours to change only once it is locked.
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # The one who held the lock may have made the shard of this very file, or of another one since.
            if _size(path) == shard.bytes:
                if _same(part, file):
                    part.unlink()
                return True
            if not _same(part, file):
                return False
            with part.open("r+b") as target:
                self._remote.download(shard, target)
                target.flush()
                os.fsync(target.fileno())
            part.rename(path)
        return True


def _make_room(root: Path, own: Path, shards: Sequence[ShardInfo], limit_bytes: int) -> None:
    """Remove shards of other data sets until all of ours have room. The caller has the turn: no other process is here."""
    needed = sum(shard.bytes for shard in shards)
    removable: list[tuple[float, int, Path]] = []
    others = in_use = 0
    for folder in root.iterdir():
        if folder == own or not ENTRY.fullmatch(folder.name) or not folder.is_dir():
            continue  # not every folder there need be of this cache
        if _is_used(folder):
            # All of it, for what is not here yet is on its way.
            in_use += sum(shard.bytes for split in Manifest.load(folder).splits.values() for shard in split.shards)
            continue
        for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{PART}")):
            status = path.stat()
            removable.append((status.st_mtime, status.st_size, path))
            others += status.st_size
    missing = sum(shard.bytes for shard in shards if not (own / shard.file).exists())
    free = shutil.disk_usage(root).free
    for _, size, path in sorted(removable):
        if needed + in_use + others <= limit_bytes and missing <= free:
            break
        path.unlink()
        others -= size
        free += size
    if needed + in_use + others > limit_bytes:
        also = f", beside {in_use / 1e9:,.3f} GB that other runs are using" if in_use else ""
        raise UserError(
            f"the data set has {needed / 1e9:,.3f} GB{also}; that is more than data.cache_gigabytes={limit_bytes / 1e9:g} allows "
            f"in {root}. Raise it: every shard is needed again and again, so a part of them is of no use"
        )
    if missing > free:
        raise UserError(
            f"{root} has {free / 1e9:,.3f} GB free, and {missing / 1e9:,.3f} GB of the data set are still to come; make room, "
            "or set data.cache_folder to a larger disk"
        )


def _is_used(folder: Path) -> bool:
    """Whether a process reads shards of this data set."""
    with (folder / IN_USE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _same(path: Path, file: IO[Any]) -> bool:
    """Whether the open file is the one at `path`, and not one that was there before."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # also where another process has just renamed it
        return -1


def _put(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise about_os(
            error,
            f"the cache in {root} cannot be used: {error.strerror or error}; make room, or set data.cache_folder to another disk",
        ) from None
