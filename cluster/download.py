"""Downloads of published image sets: checked, and continued where they broke off."""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from configs.errors import UserError

CHECKSUM = re.compile(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
READ_BYTES = 2**18
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 4  # in a row that bring nothing
PAUSE_SECONDS = 2.0  # before the second attempt, and twice as long before each further one
NOT_SATISFIABLE = 416
LATER = frozenset((408, 425, 429, 500, 502, 503, 504))  # answers that may be others in a while

OnProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Where a file is published, and what it must be."""

    url: str
    checksum: str
    """"md5:..." or "sha256:..." in hex. MD5 is what the publishers give, or torchvision for them."""


IMAGENETTE = "https://s3.amazonaws.com/fast-ai-imageclas/"
PUBLISHED = {
    "cifar10": Published(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", checksum="md5:c32a1d4ab5d03f1284b67883e8d87530"
    ),
    "imagenette-full": Published(url=f"{IMAGENETTE}imagenette2.tgz", checksum="md5:fe2fc210e6bb7c5664d602c3cd71e612"),
    "imagenette-320": Published(
        url=f"{IMAGENETTE}imagenette2-320.tgz", checksum="md5:3df6f0d01a2c9592104656642f5e78a3"
    ),
    "imagenette-160": Published(
        url=f"{IMAGENETTE}imagenette2-160.tgz", checksum="md5:e793b78cc4c9e9a4ccc0c1155377a412"
    ),
    "tiny-imagenet": Published(  # not given by its publisher; the one that public loaders of the set check
        url="http://cs231n.stanford.edu/tiny-imagenet-200.zip", checksum="md5:90528d7ca1a48142e341f4ef8d21d0de"
    ),
}


def fetch(url: str, folder: Path, checksum: str, on_progress: OnProgress | None = None) -> Path:
    """The file at `url`, in `folder`, under the last part of the address. If it is there already, only check it.

    checksum: see `Published`. While it is fetched the file has ".part" at its name; a later call goes on from that
    where the server can. on_progress: called with bytes fetched, and in all where the server says how many.

    Raises UserError if the server does not answer, does not have the file, or the file has another checksum (it is
    removed then), and if it cannot be written.
    """
    target = folder / _file_name(url)
    if target.exists():
        check(target, checksum)
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    _fetch_all(url, part, on_progress)
    found = _digest(part, checksum)
    if found != checksum:
        part.unlink()
        raise UserError(
            f"{url} gave a file with the checksum {found}, not {checksum}. It was removed; try again later, or from "
            "another address with --url."
        )
    part.replace(target)
    return target


def check(path: Path, checksum: str) -> None:
    """Raise UserError unless the file at `path` has the checksum."""
    found = _digest(path, checksum)
    if found != checksum:
        raise UserError(f"{path} has the checksum {found}, not {checksum}. Remove it and fetch it again.")


def _fetch_all(url: str, part: Path, on_progress: OnProgress | None) -> None:
    """Until all of the file is in `part`, or no hope is left."""
    failures = 0
    while True:
        before = _size(part)
        try:
            if _fetch_rest(url, part, on_progress):
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code == NOT_SATISFIABLE and before:  # what is there belongs to another file
                part.unlink()
            elif error.code not in LATER:
                raise UserError(f"{url} cannot be fetched: {reason}. Give another address with --url.") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        failures = 1 if _size(part) > before else failures + 1
        if failures >= ATTEMPTS:
            kept = f" {_size(part):,} bytes are kept, and" if _size(part) else ""
            raise UserError(
                f"{url} cannot be fetched: {reason}.{kept} the same command goes on from there; or fetch it by other "
                "means and give it with --archive."
            )
        time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))


def _fetch_rest(url: str, part: Path, on_progress: OnProgress | None) -> bool:
    """Ask for what `part` does not hold yet, and append it. Returns whether all is there."""
    done = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == NOT_SATISFIABLE and error.headers.get("Content-Range") == f"bytes */{done}":
            return True  # it broke off after the last byte
        raise
    with response:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
            done = 0  # a server that knows no ranges sends all of it
        length = response.headers.get("Content-Length") or ""
        total = done + int(length) if length.isdigit() else 0
        with _opened(part, "ab" if done else "wb") as file:
            while data := response.read(READ_BYTES):
                _write(file, part, data)
                done += len(data)
                if on_progress and total:
                    on_progress(done, total)
    return not total or done == total


def _file_name(url: str) -> str:
    split = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(split.path).split("/")[-1]
    if split.scheme not in ("http", "https") or name in ("", ".", ".."):
        raise UserError(f"{url} is no address of a file: it should begin with https:// and end in the file's name")
    return name


def _digest(path: Path, like: str) -> str:
    kind = like.split(":")[0]
    try:
        with path.open("rb") as file:
            return f"{kind}:{hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()}"
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _opened(path: Path, mode: str) -> IO[bytes]:
    try:
        return path.open(mode, buffering=0)
    except OSError as error:
        raise _unwritable(path, error) from None


def _write(file: IO[bytes], path: Path, data: bytes) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {error.strerror}. Make room, or choose another folder with --downloads.")
