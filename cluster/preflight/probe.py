"""What a node is asked, and what it answers: one Ray task per node. It imports neither torch nor Ray, so it is quick."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.preflight.gpus import GpuReport, look_at_gpus
from cluster.preflight.storage import StorageSeen, look_at_storage
from configs.errors import UserError
from configs.schema import Data

PACKAGES = ("configs", "alexnet", "workers", "cluster")
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to look at on a node."""

    node: str
    """Its id."""
    address: str
    """By which the cluster knows it."""
    token: str
    """Of this preflight, in the names of marker files."""
    gpus: bool = False
    data: Data | None = None
    storage: str | None = None
    """The run's checkpoint folder."""


@dataclass(frozen=True, kw_only=True)
class DataSeen:
    fingerprint: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """None for what was not asked."""

    versions: dict[str, str]
    interface: str | None
    """The one that has the node's address; None if none has."""
    addresses: dict[str, list[str]]
    """IPv4, by interface."""
    shared_total_bytes: int
    shared_free_bytes: int
    gpus: GpuReport | None
    data: DataSeen | None
    storage: StorageSeen | None


def answer(question: Question) -> Answer:
    """Look at everything on this node."""
    from workers.interfaces import addresses, interface_of

    shared = shutil.disk_usage(SHARED_MEMORY) if SHARED_MEMORY.exists() else shutil.disk_usage("/tmp")
    return Answer(
        versions=versions(),
        interface=interface_of(question.address),
        addresses=addresses(),
        shared_total_bytes=shared.total,
        shared_free_bytes=shared.free,
        gpus=look_at_gpus() if question.gpus else None,
        data=look_at_data(question.data) if question.data is not None else None,
        storage=look_at_storage(question.storage, question.token, question.node) if question.storage else None,
    )


def versions() -> dict[str, str]:
    """Of whatever may change numbers or break the wire between nodes."""
    found = {"Python": platform.python_version()}
    for name, package in (("Ray", "ray"), ("torch", "torch"), ("numpy", "numpy")):
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return {**found, "project": project_hash()}


@functools.cache
def project_hash() -> str:
    """The first digits of a SHA-256 over names and contents of the project's Python and YAML files, as imported here."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            files = [file for file in Path(folder).rglob("*") if file.suffix in (".py", ".yaml")]
            for file in sorted(files, key=lambda file: file.relative_to(folder).as_posix()):
                digest.update(f"{package}/{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def look_at_data(data: Data) -> DataSeen:
    """Manifest, mean image, and existence and sizes of the shards. Never raises."""
    from workers.data.cache import local_folder
    from workers.data.manifest import Manifest
    from workers.data.storage import Remote, is_url
    from workers.data.upload import check_listing

    try:
        folder = local_folder(data)
        manifest = Manifest.load(folder)
        manifest.pixel_mean(folder)
        if is_url(data.path):
            check_listing(Remote.at(data.path), manifest)
            return DataSeen(fingerprint=manifest.fingerprint)
        wrong = []
        shards = [shard for split in manifest.splits.values() for shard in split.shards]
        for shard in shards:
            path = folder / shard.file
            if not path.is_file():
                wrong.append(f"{shard.file} is missing")
            elif path.stat().st_size != shard.bytes:
                wrong.append(f"{shard.file} has {path.stat().st_size:,} bytes instead of {shard.bytes:,}")
    except (OSError, UserError) as error:
        return DataSeen(problem=str(error))
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        problem = f"{len(wrong)} of {len(shards)} shards in {data.path} are damaged: {'; '.join(wrong[:3])}{more}"
        return DataSeen(fingerprint=manifest.fingerprint, problem=problem)
    return DataSeen(fingerprint=manifest.fingerprint)
