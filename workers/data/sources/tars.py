"""Tar archives, read where they lie. Nothing is unpacked, so nothing is written whatever an archive says.

A name in an archive is never a path here: its last part becomes part of a key, and that is all.
"""

import contextlib
import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

from configs.errors import UserError
from workers.data.sources.names import safe

BLOCK = tarfile.BLOCKSIZE
LONGEST_HEADER = 2**20  # bytes; the longest real one is that of a very long name
LARGEST_IMAGE = 2**28  # bytes; more is no photograph, and would have to fit into memory
STREAM_BYTES = 2**18
GZIP = b"\x1f\x8b"
DAMAGE = (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError)

OnProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One member of an archive."""

    name: str
    """As the archive has it: anything at all."""
    offset: int
    """Of its contents, in bytes from the start of the file that holds the archive."""
    size: int
    """Of its contents, in bytes."""
    kind: str
    """"file", "folder", or "other": a link, a device, a file with holes."""


class _Window(io.RawIOBase):
    """A range of a file as a file of its own. Reads by position, so threads can share the descriptor."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._position = descriptor, start, size, 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        assert whence == os.SEEK_SET
        self._position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:  # tarfile reads headers only, but believes what they say of their length
            raise tarfile.ReadError(f"a header of {size} bytes")
        inside = max(0, min(size, self._size - self._position))
        data = os.pread(self._descriptor, inside, self._start + self._position)
        self._position += len(data)
        return data


def list_members(descriptor: int, start: int, size: int, where: str) -> Iterator[Member]:
    """The members of the uncompressed tar archive in bytes `start` .. `start + size` of a file, headers only.

    where: what to call the archive in errors. Raises UserError if it is no tar archive, damaged, or cut off.
    """
    window = _Window(descriptor, start, size)
    end = 0
    try:
        archive = tarfile.TarFile(fileobj=window, mode="r")
        while (found := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
            if found.size < 0 or not end <= found.offset_data <= size - found.size:
                raise tarfile.ReadError(f"{found.name!r} reaches past the end")
            end = found.offset_data + found.size
            yield Member(name=found.name, offset=start + found.offset_data, size=found.size, kind=_kind(found))
        # tarfile takes a damaged header for the end. At the true end there is a block of zeros.
        window.seek(archive.offset)
        if window.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"no header, and not the end, at byte {archive.offset:,}")
    except DAMAGE as error:
        raise _damaged(where, error) from None
    except OSError as error:
        raise unreadable(where, error) from None


@dataclass(frozen=True, kw_only=True)
class ArchiveFile:
    """An uncompressed archive, to be opened on any node that sees it."""

    path: Path
    size: int
    """In bytes, when it was listed."""

    @classmethod
    def at(cls, path: Path) -> "ArchiveFile":
        """Raises UserError if there is no file."""
        path = path.absolute()  # workers may run in another folder
        if path.is_dir():
            raise UserError(
                f"{path} is a folder: give the archive as downloaded. For unpacked class folders there is "
                "`python -m cluster.prepare folder`."
            )
        try:
            return cls(path=path, size=path.stat().st_size)
        except OSError as error:
            raise unreadable(str(path), error) from None

    @contextlib.contextmanager
    def opened(self, number: int) -> Iterator["OpenArchive"]:
        """number: of this archive among those of its source. Raises UserError if it cannot be opened, or changed."""
        try:
            file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable(str(self.path), error) from None
        with file:
            opened = OpenArchive(number=number, path=self.path, descriptor=file.fileno(), size=self.size)
            if os.fstat(opened.descriptor).st_size != self.size:
                raise opened.changed()
            yield opened


@dataclass(frozen=True, kw_only=True)
class OpenArchive:
    """An uncompressed archive while it is open. Threads may share it."""

    number: int
    """Among the archives of its source."""
    path: Path
    descriptor: int
    size: int

    def members(self, inner: Member | None = None) -> Iterator[Member]:
        """The archive's members, or those of the archive that one of them is."""
        if inner is None:
            return list_members(self.descriptor, 0, self.size, str(self.path))
        return list_members(self.descriptor, inner.offset, inner.size, f"{self.path}: {safe(inner.name)}")

    def place(self, member: Member) -> tuple[int, int, int]:
        """Where a member's contents lie: (number of the archive, offset, bytes)."""
        return self.number, member.offset, member.size

    def read(self, offset: int, size: int) -> bytes:
        """Raises UserError if the bytes cannot be read, or are not there."""
        try:
            data = os.pread(self.descriptor, size, offset)
        except OSError as error:
            raise unreadable(str(self.path), error) from None
        if len(data) != size:
            raise self.changed()
        return _without_gzip(data)

    def changed(self) -> UserError:
        return UserError(f"{self.path} changed since it was listed. Run the same command again.")


def stream_members(
    path: Path, *, to_the_end: bool = False, on_progress: OnProgress | None = None
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], IO[bytes]]]]:
    """The members of a tar archive that may be compressed with gzip, each with a function that opens its contents.

    The contents can be opened until the next member is asked for. to_the_end: read what follows the last member too,
    which checks gzip's checksum. Raises UserError if the file is no such archive, damaged, or cut off.
    """
    try:
        total = path.stat().st_size
        with path.open("rb") as file, _decompressed(file) as plain:
            with tarfile.open(fileobj=plain, mode="r|", bufsize=STREAM_BYTES) as archive:
                while (found := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # as above; it is in no stubs
                    yield found, partial(_opened, archive, found)
                    if on_progress:
                        on_progress(file.tell(), total)
                # As in `list_members`: tarfile takes a damaged header for the end. With compression, gzip's checksum tells.
                if plain is file and os.pread(file.fileno(), BLOCK, archive.offset) != bytes(BLOCK):
                    raise tarfile.ReadError(f"no header, and not the end, at byte {archive.offset:,}")
            while to_the_end and plain.read(STREAM_BYTES):
                pass
    except DAMAGE as error:
        raise _damaged(str(path), error) from None
    except OSError as error:  # gzip.BadGzipFile is one, and has no number
        raise (unreadable(str(path), error) if error.errno else _damaged(str(path), error)) from None


def is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file whose contents lie in one piece."""
    return member.isreg() and not member.issparse()


def unreadable(where: str, error: OSError) -> UserError:
    """What to tell the user when the system will not read a file."""
    return UserError(f"{where} cannot be read: {error.strerror}")


def _kind(member: tarfile.TarInfo) -> str:
    if is_plain_file(member):
        return "file"
    return "folder" if member.isdir() else "other"


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    start = file.read(len(GZIP))
    file.seek(0)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if start == GZIP else file


def _without_gzip(data: bytes) -> bytes:
    """Some JPEGs of ILSVRC2010 are compressed once more."""
    if not data.startswith(GZIP):
        return data
    try:
        return zlib.decompressobj(wbits=31).decompress(data, LARGEST_IMAGE)
    except zlib.error:
        return data  # decoding will say that it is no image


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    contents = archive.extractfile(member)
    assert contents is not None, "asked for the contents of what is no file"
    return contents


def _damaged(where: str, error: Exception) -> UserError:
    return UserError(f"{where} is not a whole tar archive: {error}. Fetch it again.")
