"""Turns a source of images into a data set: one Ray task per shard.

The order of operations is what makes an interrupted run harmless:

1. An old manifest is removed (only with `overwrite`), and then the shards of an older or an interrupted run.
2. Tasks write shards; each appears under its name only when it is whole.
3. The mean image is written.
4. The manifest is written, atomically. Only now is there a data set.

Heavy imports stand inside the functions, so that `python -m cluster.prepare --help` answers at once.
"""

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.failures import RunFailed
from configs.errors import UserError

if TYPE_CHECKING:
    from workers.data.ingest import ChunkResult, Source
    from workers.data.manifest import Manifest, Quarantined
    from workers.data.shards import ShardInfo
    from workers.data.sources import Chunk

MANIFEST = "manifest.json"
OWN_FILE = re.compile(r"(train|validation)-\d{5,}-of-\d{5,}\.arrow(\.[0-9a-f]{8}\.tmp)?|mean\.npy|manifest\.json\.tmp")
ALWAYS_TOLERATED = 10  # bad images, however small the source is
NAMED_BAD_IMAGES = 10
STALL_SECONDS = 120.0

log = logging.getLogger(__name__)


class TooManyBadImages(RunFailed):
    """More images were unusable than the caller tolerates; nothing was committed."""


def prepare(
    source: "Source",
    out: Path,
    *,
    ray_module: Any,
    size: int = 256,
    quality: int = 95,
    shard_rows: int = 4096,
    max_bad: float = 0.001,
    overwrite: bool = False,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Manifest":
    """Make the data set `out` from `source` and return its manifest.

    ray_module: `ray`, connected. size: side of the stored images in pixels. quality: of JPEGs that must be encoded
    anew, 1..100. shard_rows: images in a shard. max_bad: tolerated share of unusable images; ALWAYS_TOLERATED are
    tolerated in any case. workers: tasks at a time (default: all CPUs). on_progress: called with (images done,
    images in all) about once a second.

    Raises UserError if `out` holds a data set and `overwrite` is not set, cannot be written, or is not seen by all
    nodes; if no training image is usable; if a worker dies for good. Raises TooManyBadImages.
    """
    import numpy as np

    from workers.data.ingest import PixelSums, statistics
    from workers.data.manifest import PIXEL_MEAN_FILE, Manifest, SplitInfo

    out = out.absolute()
    check_output(out, overwrite=overwrite)
    _clear(out)
    total, done = sum(source.splits.values()), 0
    jobs = list(_jobs(source, shard_rows))
    shards: dict[str, list[ShardInfo]] = {split: [] for split in source.splits}
    quarantined: list[Quarantined] = []
    sums = PixelSums(pixels=np.zeros((size, size, 3), np.int64))
    class_counts = np.zeros(len(source.classes), np.int64)
    for result in _run_tasks(ray_module, source, jobs, out, size, quality, workers):
        if result is None:  # a second has passed
            if on_progress:
                on_progress(done, total)
            continue
        done += len(result.chunk)
        quarantined += result.quarantined
        _check_bad(quarantined, total, max_bad)
        if result.info:
            _check_visible(out, result.info)
            shards[result.chunk.split].append(result.info)
        if result.chunk.split == "train":
            sums.add(result.sums)
            class_counts += result.labels
        if on_progress:
            on_progress(done, total)
    if not sums.images:
        raise UserError(f"no training image of {source.description} is usable{_named(quarantined)}")
    empty = [source.classes[index] for index in np.flatnonzero(class_counts == 0)]
    if empty:
        log.warning("%d classes have no training image: %s", len(empty), ", ".join(empty[:10]))
    result_statistics = statistics(sums)
    with (out / PIXEL_MEAN_FILE).open("wb") as file:
        np.save(file, result_statistics.pixel_mean)
    manifest = Manifest(
        image_size=size,
        source=source.description,
        classes=source.classes,
        splits={
            split: SplitInfo(
                shards=tuple(sorted(infos, key=lambda info: info.file)), rows=sum(info.rows for info in infos)
            )
            for split, infos in shards.items()
        },
        rgb_mean=result_statistics.rgb_mean,
        rgb_covariance=result_statistics.rgb_covariance,
        rgb_eigenvalues=result_statistics.rgb_eigenvalues,
        rgb_eigenvectors=result_statistics.rgb_eigenvectors,
        quarantined=tuple(sorted(quarantined, key=lambda image: (image.split, image.key))),
    )
    manifest.write(out)
    return manifest


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raise UserError unless a data set can be made at `out`. Changes nothing."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as --out")
    if (out / MANIFEST).exists() and not overwrite:
        raise UserError(f"{out} holds a data set already. Add --overwrite to make it again, or choose another --out.")


def _clear(out: Path) -> None:
    """Create `out`, or remove from it what earlier runs wrote, and nothing else. The manifest goes first."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)
        for path in list(out.iterdir()):
            if OWN_FILE.fullmatch(path.name):
                path.unlink()
    except OSError as error:
        raise UserError(f"cannot write in {out}: {error.strerror}. Choose another --out.") from None


def _jobs(source: "Source", shard_rows: int) -> Iterator[tuple["Chunk", str]]:
    """Every chunk with the name of its shard."""
    for split in source.splits:
        chunks = list(source.chunks(split, shard_rows))
        for number, chunk in enumerate(chunks):
            yield chunk, f"{split}-{number:05d}-of-{len(chunks):05d}.arrow"


def _run_tasks(
    ray: Any,
    source: "Source",
    jobs: list[tuple["Chunk", str]],
    out: Path,
    size: int,
    quality: int,
    workers: int | None,
) -> "Iterator[ChunkResult | None]":
    """Run one task per job, a bounded number at a time. Yields results as they come, and None after idle seconds."""
    from workers.data.ingest import make_shard

    # A task leaves nothing behind but its shard, which it replaces: it may run again wherever a worker was lost.
    task = ray.remote(num_cpus=1, max_retries=3)(make_shard)
    source_ref = ray.put(source)
    # Without a limit of the caller's, a second task per CPU waits so that no CPU does.
    limit = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(jobs)
    running: list[Any] = []
    last_result = time.monotonic()
    try:
        while True:
            for chunk, file in itertools.islice(waiting, limit - len(running)):
                running.append(task.remote(source_ref, chunk, out, file, size, quality))
            if not running:
                return
            finished, running = ray.wait(running, timeout=1.0)
            if finished:
                last_result = time.monotonic()
                yield _result(ray, finished[0], out)
                continue
            if time.monotonic() - last_result > STALL_SECONDS:
                last_result = time.monotonic()
                log.warning(
                    "no shard finished for %.0f s: each task needs a free CPU (`ray status` shows what is taken)",
                    STALL_SECONDS,
                )
            yield None
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _result(ray: Any, ref: Any, out: Path) -> "ChunkResult":
    try:
        result: ChunkResult = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        if isinstance(error.cause, OSError):  # sources report their own
            raise UserError(f"cannot write a shard in {out}: {error.cause}") from None
        raise
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a task was lost and could not be repeated: {error}. If memory ran out, use fewer --workers."
        ) from None
    return result


def _check_visible(out: Path, info: "ShardInfo") -> None:
    path = out / info.file
    if not path.exists() or path.stat().st_size != info.bytes:
        raise UserError(
            f"{path} was written by a task but is not seen here: on a cluster --out must be on a file system that "
            "all nodes share"
        )


def _check_bad(quarantined: "list[Quarantined]", total: int, max_bad: float) -> None:
    if len(quarantined) > max(max_bad * total, ALWAYS_TOLERATED):
        raise TooManyBadImages(
            f"{len(quarantined):,} of {total:,} images are unusable so far, more than --max-bad {max_bad:g} allows; "
            "no data set was made. Repair or remove them, or raise --max-bad to leave them out"
            f"{_named(quarantined)}"
        )


def _named(quarantined: "list[Quarantined]") -> str:
    """The first bad images on lines of their own, with reasons."""
    lines = [f"\n  {image.split} {image.key}: {image.reason}" for image in quarantined[:NAMED_BAD_IMAGES]]
    more = len(quarantined) - NAMED_BAD_IMAGES
    return (":" if lines else "") + "".join(lines) + (f"\n  and {more:,} more" if more > 0 else "")
