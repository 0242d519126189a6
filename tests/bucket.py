"""An object store in memory that fails where it is told to. As in Google's, no folders, and no objects that stand for them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import pyarrow as pa
from pyarrow import fs

from configs.errors import UserError
from tests.disk import Killed
from workers.data.storage import Remote

How = Literal["kill", "away", "refuse", "lost answer", "forgets", "garbles"]
ONCE: tuple[How, ...] = ("refuse", "lost answer", "forgets", "garbles")
"""What another try mends."""
HOWS: tuple[How, ...] = ("kill", "away", *ONCE)


class Bucket(fs.FileSystemHandler):
    """Objects by path. Each request is numbered from 1.

    at: the request at which it happens; how: the process ends before it; it is refused; it is done and answered by an error; it
    and all after it are refused; it is answered well and not done (writes), or answered with other bytes (reads of what has a
    checksum).
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self.fail(0, "kill")

    def fail(self, at: int, how: How) -> None:
        self.requests.clear()
        self.at, self.how, self.hit, self.dead = at, how, False, False

    def remote(self, root: str = "bucket/run") -> Remote:
        return Remote(fs.PyFileSystem(self), root, f"gs://{root}")

    def _request(self, kind: str, path: str, done: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        self.requests.append(f"{kind} {path}")
        now = len(self.requests) == self.at
        self.hit |= now
        if now and self.how == "kill":
            self.dead = True
            raise Killed
        if (now and self.how == "refuse") or (self.hit and self.how == "away"):
            raise OSError(f"503 for {path}")
        if now and self.how == "forgets" and kind == "put":
            return None
        with self._lock:
            result = done()
        if now and self.how == "garbles" and path.endswith((".arrow", ".safetensors")) and kind == "get":
            return (result[0][:-1] + b"?", 0)
        if now and self.how == "lost answer":
            raise OSError(f"no answer for {path}")
        return result

    def get_type_name(self) -> str:
        return "gcs"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._request("head", path, partial(self._info, path)) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        if path not in self.objects:
            return fs.FileInfo(path, fs.FileType.NotFound)
        content, when = self.objects[path]
        return fs.FileInfo(path, fs.FileType.File, size=len(content), mtime_ns=when)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        def found() -> list[fs.FileInfo]:
            below = f"{selector.base_dir}/"
            return [
                self._info(path)
                for path in sorted(self.objects)
                if path.startswith(below) and (selector.recursive or "/" not in path.removeprefix(below))
            ]

        listed: list[fs.FileInfo] = self._request("list", selector.base_dir, found)
        return listed

    def open_input_stream(self, path: str) -> Any:
        return pa.BufferReader(self._request("get", path, lambda: self._there(path))[0])

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        return pa.PythonFile(_Put(self, path), mode="w")

    def put(self, path: str, content: bytes) -> None:
        self._request("put", path, lambda: self.objects.__setitem__(path, (content, time.time_ns())))

    def copy_file(self, src: str, dest: str) -> None:
        self._request("copy", src, lambda: self.objects.__setitem__(dest, self._there(src)))

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def delete_file(self, path: str) -> None:
        self._request("delete", path, lambda: (self._there(path), self.objects.pop(path)))

    def delete_dir(self, path: str) -> None:
        for name in [name for name in self.objects if name.startswith(f"{path}/")]:
            self.delete_file(name)
        raise OSError(f"404: no object {path}/")

    def create_dir(self, path: str, recursive: bool) -> None:
        raise NotImplementedError

    delete_dir_contents = delete_root_dir_contents = open_input_file = open_append_stream = create_dir

    def _there(self, path: str) -> tuple[bytes, int]:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]


class _Put:
    """Collects; closing it puts, whatever has gone wrong before."""

    def __init__(self, bucket: Bucket, path: str) -> None:
        self._bucket, self._path, self._content, self.closed = bucket, path, bytearray(), False

    def write(self, data: bytes) -> int:
        self._content += data
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None:
        if not self.closed and not self._bucket.dead:
            self.closed = True
            self._bucket.put(self._path, bytes(self._content))


def every_failure(
    bucket: Bucket, run: Callable[[], object], reset: Callable[[], object], facts: Callable[[], object] = lambda: None
) -> Iterator[str]:
    """Run it with a failure at each of its requests in turn; yields what was done, when the storage works again.

    Of like outcomes the first is yielded. facts: what else tells outcomes apart.
    """
    seen: set[object] = set()
    for how in HOWS:
        at, hit = 0, True
        while hit:
            at += 1
            bucket.fail(0, how)
            reset()
            bucket.fail(at, how)
            with suppress(Killed, OSError, UserError):
                run()
            hit, was = bucket.hit, bucket.requests[at - 1] if bucket.hit else "the end"
            bucket.fail(0, how)
            # The names of marks are drawn.
            objects = [(path.rpartition("/attempt-")[0] or path, put[0]) for path, put in bucket.objects.items()]
            left = (how in ONCE, facts(), *sorted(objects))
            if left not in seen:
                seen.add(left)
                yield f"{how} at {at}: {was}"
