"""A prepared data set's way to a URL, and whether it lies there as its manifest says."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from configs.errors import UserError
from workers.data.manifest import FILE, Manifest
from workers.data.shards import CorruptShardError, ShardInfo
from workers.data.storage import CHUNK_BYTES, Remote

UPLOAD_THREADS = 4


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
