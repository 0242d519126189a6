"""What a preparation has finished so far, kept beside its shards, so that it may be cut off anywhere and goes on later.

    preparing.json                      which preparation this is; there from before the first shard until after the manifest
    train-00003-of-00313.done.npz       written after its shard: all that the manifest and the statistics need of it

A shard without such a note is made again. One with a note is read once, and its SHA-256 compared, before it is trusted: a
matter of a second per gigabyte where making it takes minutes, and then the data set at the end is the one that an
undisturbed run makes, whatever happened to the files in between.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import simplejpeg

from configs.errors import UserError
from workers.data.files import sync_folder, whole_file
from workers.data.ingest import ChunkResult, PixelSums, Source, make_shard
from workers.data.manifest import Encoding, Quarantined
from workers.data.shards import ShardInfo, file_sha256
from workers.data.sources import Chunk

FILE = "preparing.json"
NOTE_SUFFIX = ".done.npz"
METHOD = 1
"""Goes up when this program turns the same picture into other bytes than before."""
OWN_FILE = re.compile(
    r"(train|validation)-\d{5,}-of-\d{5,}(\.arrow|\.done\.npz)(\.[0-9a-f]{8}\.tmp)?"
    r"|(mean\.npy|manifest\.json|preparing\.json)(\.([0-9a-f]{8}\.)?tmp)?"
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the bytes of the shards, apart from the source. Units and meaning as in `cluster.ingest.prepare`."""

    size: int
    quality: int
    shard_rows: int
    encoding: Encoding
    apply_orientation: bool


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """One source made into one data set with certain settings; the same again is the same preparation."""

    settings: Settings
    source: str
    """Its description."""
    listing: str
    """SHA-256 of all chunks and class names: which images, in which order."""
    versions: tuple[str, ...]
    """Of what decodes, scales, encodes and writes."""

    @classmethod
    def of(cls, source: Source, jobs: Sequence[tuple[Chunk, str]], settings: Settings) -> "Preparation":
        digest = hashlib.sha256(repr((source.classes, source.splits)).encode())
        for chunk, file in jobs:
            digest.update(f"\n{file} {chunk!r}".encode())
        libraries = (("simplejpeg", simplejpeg), ("Pillow", PIL), ("NumPy", np), ("Arrow", pa))
        versions = (f"method {METHOD}", *(f"{name} {library.__version__}" for name, library in libraries))
        return cls(settings=settings, source=source.description, listing=digest.hexdigest(), versions=versions)

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()

    @property
    def identity(self) -> str:
        """SHA-256, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Keep the folder to this process. The lock goes with the process, however that ends.

    Raises UserError if another process has the folder.
    """
    descriptor = os.open(out, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another process is preparing {out}: wait until it is done, or stop it") from None
        yield
    finally:
        os.close(descriptor)


def is_under_way(out: Path, preparation: Preparation) -> bool:
    """Whether `out` holds this very preparation, unfinished or not cleaned up."""
    try:
        return (out / FILE).read_bytes() == preparation.to_json()
    except OSError:
        return False


def differences(out: Path, preparation: Preparation) -> str:
    """How the preparation that `out` holds differs from this one, in words; empty if there is none, or it is the same."""
    try:
        found = json.loads((out / FILE).read_bytes())
        there, wanted = found.pop("settings"), dataclasses.asdict(preparation.settings)
        different = [
            f"{name} {there.get(name)} instead of {value}" for name, value in wanted.items() if there.get(name) != value
        ]
        words = {"source": "another source", "listing": "other images", "versions": "other versions of libraries"}
        different += [word for name, word in words.items() if found[name] != json.loads(preparation.to_json())[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "a damaged note of what it was" if (out / FILE).exists() else ""
    return ", ".join(different)


def begin(out: Path, preparation: Preparation) -> int:
    """Make `out` ready for the preparation: what belongs to it stays, other files of ours go. Returns the shards that are there.

    Raises OSError.
    """
    goes_on = is_under_way(out, preparation) and not (out / "manifest.json").exists()
    # Others' files stay. The manifest goes first: without its shards it would name a data set that is not there.
    (out / "manifest.json").unlink(missing_ok=True)
    sync_folder(out)  # before any shard goes
    for path in sorted(out.iterdir(), key=lambda path: path.name != FILE):
        if OWN_FILE.fullmatch(path.name) and not (goes_on and _belongs(path)):
            path.unlink(missing_ok=True)
    if goes_on:
        return sum(1 for _ in out.glob(f"*{NOTE_SUFFIX}"))
    with whole_file(out / FILE) as file:
        file.write(preparation.to_json())
    return 0


def _belongs(path: Path) -> bool:
    """Whether the file may be of use to a preparation that goes on."""
    return path.name == FILE or path.name.endswith((".arrow", NOTE_SUFFIX))


def end(out: Path, shards: Collection[str]) -> None:
    """Remove the journal, now that there is a manifest, which names these `shards`. Raises OSError."""
    for path in list(out.iterdir()):
        # A worker of a run that was killed may have left something after the folder was made ready.
        if OWN_FILE.fullmatch(path.name) and path.name not in (*shards, FILE, "manifest.json", "mean.npy"):
            path.unlink(missing_ok=True)
    sync_folder(out)  # without the file below, nobody would remove what came back
    (out / FILE).unlink(missing_ok=True)


def recall_or_make(
    source: Source, chunk: Chunk, out: Path, file: str, settings: Settings, identity: str
) -> ChunkResult:
    """The chunk's result: from the journal if its shard is there and whole, else its shard is made and noted.

    One with bad images, or whose source's files have changed, is made anew.
    Raises UserError if `out` does not hold the preparation with this identity; and as `make_shard`.
    """
    _check_still_ours(out, identity)
    note = out / (file.removesuffix(".arrow") + NOTE_SUFFIX)
    stamp = source.stamp(chunk)  # before the images are read
    result = _recall(note, identity, stamp, chunk)
    if result is not None and result.info is not None and not result.quarantined and _is_whole(out, result.info):
        return result
    note.unlink(missing_ok=True)
    result = make_shard(
        source,
        chunk,
        out,
        file,
        settings.size,
        settings.quality,
        encoding=settings.encoding,
        apply_orientation=settings.apply_orientation,
    )
    _check_still_ours(out, identity)  # still: making it took a while
    _write_note(note, identity, stamp, result)
    return result


def _check_still_ours(out: Path, identity: str) -> None:
    # Workers outlive a driver that was killed by a moment, in which another preparation may have begun.
    try:
        found = hashlib.sha256((out / FILE).read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(
            f"{out / FILE} was written by the driver but is not seen here: on a cluster --out must be on a file system "
            "that all nodes share"
        ) from None
    if found != identity:
        raise UserError(f"another preparation has begun in {out}")


def _is_whole(out: Path, info: ShardInfo) -> bool:
    path = out / info.file
    try:
        return path.stat().st_size == info.bytes and file_sha256(path) == info.sha256
    except OSError:
        return False


def _write_note(path: Path, identity: str, stamp: str, result: ChunkResult) -> None:
    content = {
        "preparation": identity,
        "stamp": stamp,
        "chunk": [result.chunk.split, result.chunk.start, result.chunk.stop],
        "info": dataclasses.asdict(result.info) if result.info else None,
        "quarantined": [dataclasses.asdict(image) for image in result.quarantined],
        "images": result.sums.images,
    }
    with whole_file(path) as file:
        np.savez(
            file,
            content=np.frombuffer(json.dumps(content).encode(), np.uint8),
            pixels=result.sums.pixels,
            products=result.sums.products,
            labels=result.labels,
        )


def _recall(path: Path, identity: str, stamp: str, chunk: Chunk) -> ChunkResult | None:
    """What a note says; None if there is none, or it is damaged, of another preparation, or of files that have changed."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            content = json.loads(arrays["content"].tobytes())
            sums = PixelSums(images=content["images"], pixels=arrays["pixels"], products=arrays["products"])
            labels = arrays["labels"]
        wanted = (identity, stamp, [chunk.split, chunk.start, chunk.stop])
        if (content["preparation"], content["stamp"], content["chunk"]) != wanted:
            return None
        return ChunkResult(
            chunk=chunk,
            info=ShardInfo(**content["info"]) if content["info"] else None,
            quarantined=tuple(Quarantined(**image) for image in content["quarantined"]),
            sums=sums,
            labels=labels,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
