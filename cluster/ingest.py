"""Turns a source of images into a data set: one Ray task per shard.

The order of operations is what makes it harmless to be cut off anywhere, and cheap to go on:

1. If the folder holds the same preparation, its finished shards stay. Else an old manifest is removed (only with `overwrite`),
   then the shards of an older or another run, and `preparing.json` says what is being made now.
2. Tasks write shards; each appears under its name only when it is whole, and a note of what is in it after that.
3. The mean image is written.
4. The manifest is written, atomically. Only now is there a data set.
5. The notes are removed, and `preparing.json` last.

Heavy imports stand inside the functions, so that `python -m cluster.prepare --help` answers at once.
"""

import contextlib
import errno
import itertools
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.failures import RunFailed
from cluster.paths import check_folder
from configs.errors import UserError

if TYPE_CHECKING:
    from workers.data.ingest import ChunkResult, Source
    from workers.data.journal import Preparation, Settings
    from workers.data.manifest import Manifest, Quarantined
    from workers.data.shards import ShardInfo
    from workers.data.sources import Chunk

MANIFEST = "manifest.json"
UNDER_WAY = "preparing.json"
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
    encoding: Literal["jpeg", "raw"] = "jpeg",
    apply_orientation: bool = False,
    max_bad: float = 0.001,
    overwrite: bool = False,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Manifest":
    """Make the data set `out` from `source` and return its manifest. If that was begun before and cut off, it goes on.

    ray_module: `ray`, connected. size: side of the stored images in pixels. quality: of JPEGs that must be encoded
    anew, 1..100. shard_rows: images in a shard. encoding: whether JPEGs are stored, or the size * size * 3 bytes of the pixels.
    apply_orientation: turn photos as their EXIF data say. max_bad: tolerated share of unusable images; ALWAYS_TOLERATED are
    tolerated in any case. workers: tasks at a time (default: all CPUs); the result does not depend on it. on_progress: called
    with (images done, images in all) about once a second.

    Raises UserError if `out` holds a data set and `overwrite` is not set, is being prepared by another process, cannot be
    written, or is not seen by all nodes; if no training image is usable; if a worker dies for good. Raises TooManyBadImages.
    """
    from workers.data.files import make_folder
    from workers.data.journal import Preparation, Settings, end, is_under_way, only_one
    from workers.data.manifest import Manifest

    out = out.absolute()
    check_output(out, overwrite=overwrite)
    with _writing(out):
        make_folder(out)
    settings = Settings(
        size=size, quality=quality, shard_rows=shard_rows, encoding=encoding, apply_orientation=apply_orientation
    )
    jobs = list(_jobs(source, shard_rows))
    preparation = Preparation.of(source, jobs, settings)
    with only_one(out):
        # With both, an earlier run was cut off while it cleaned up.
        if not ((out / MANIFEST).exists() and is_under_way(out, preparation)):
            _refuse_data_set(out, overwrite)
            _begin(out, preparation, len(jobs))
            # Closed on errors too, which cancels the tasks that are under way.
            with contextlib.closing(_run_tasks(ray_module, source, jobs, out, preparation, workers)) as results:
                _finish(source, out, settings, results, max_bad, on_progress)
        manifest = Manifest.load(out)
        with _writing(out):
            end(out, [info.file for split in manifest.splits.values() for info in split.shards])
    return manifest


def _begin(out: Path, preparation: "Preparation", shards: int) -> None:
    """Make the folder ready, and say so if something is there already."""
    from workers.data.journal import begin, differences

    if different := differences(out, preparation):
        told = f"{out} holds a preparation that was not finished, with {different}: starting anew"
        print(told, file=sys.stderr, flush=True)
    with _writing(out):
        there = begin(out, preparation)
    if there:
        print(f"continuing: {there:,} of {shards:,} shards are there", file=sys.stderr, flush=True)


def _finish(
    source: "Source",
    out: Path,
    settings: "Settings",
    results: "Iterator[ChunkResult | None]",
    max_bad: float,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Gather the results as they come, then write the mean image, and the manifest last."""
    import numpy as np

    from workers.data.files import whole_file
    from workers.data.ingest import PixelSums, statistics
    from workers.data.manifest import PIXEL_MEAN_FILE, Manifest, SplitInfo

    total, done = sum(source.splits.values()), 0
    shards: dict[str, list[ShardInfo]] = {split: [] for split in source.splits}
    quarantined: list[Quarantined] = []
    sums = PixelSums(pixels=np.zeros((settings.size, settings.size, 3), np.int64))
    class_counts = np.zeros(len(source.classes), np.int64)
    for result in results:
        if result is not None:  # else a second has passed
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
    found = statistics(sums)
    manifest = Manifest(
        image_size=settings.size,
        encoding=settings.encoding,
        source=source.description,
        classes=source.classes,
        splits={
            split: SplitInfo(
                shards=tuple(sorted(infos, key=lambda info: info.file)), rows=sum(info.rows for info in infos)
            )
            for split, infos in shards.items()
        },
        rgb_mean=found.rgb_mean,
        rgb_covariance=found.rgb_covariance,
        rgb_eigenvalues=found.rgb_eigenvalues,
        rgb_eigenvectors=found.rgb_eigenvectors,
        quarantined=tuple(sorted(quarantined, key=lambda image: (image.split, image.key))),
    )
    # Once more: workers of a run that was killed may have lived on for a moment.
    for info in itertools.chain(*shards.values()):
        _check_visible(out, info)
    with _writing(out):
        with whole_file(out / PIXEL_MEAN_FILE) as file:
            np.save(file, found.pixel_mean)
        manifest.write(out)


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raise UserError unless a data set can be made at `out`. Changes nothing."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder as --out")
    check_folder(out, "--out")
    if not (out / UNDER_WAY).exists():
        _refuse_data_set(out, overwrite)


def _refuse_data_set(out: Path, overwrite: bool) -> None:
    if (out / MANIFEST).exists() and not overwrite:
        raise UserError(f"{out} holds a data set already. Add --overwrite to make it again, or choose another --out.")


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Raise UserError where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write in {out}: {_refusal(error)}") from None


def _refusal(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}. Make room and give the same command again: it goes on from what is there."
    return f"{error.strerror or error}. Choose another --out."


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
    preparation: "Preparation",
    workers: int | None,
) -> "Generator[ChunkResult | None]":
    """Run one task per job, a bounded number at a time. Yields results as they come, and None after idle seconds."""
    from workers.data.journal import recall_or_make

    # A task leaves nothing behind but its shard and a note, which it replaces: it may run again wherever a worker was lost.
    task = ray.remote(num_cpus=1, max_retries=3)(recall_or_make)
    source_ref = ray.put(source)
    identity = preparation.identity
    # Without a limit of the caller's, a second task per CPU waits so that no CPU does.
    limit = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(jobs)
    running: list[Any] = []
    last_result = time.monotonic()
    try:
        while True:
            for chunk, file in itertools.islice(waiting, limit - len(running)):
                running.append(task.remote(source_ref, chunk, out, file, preparation.settings, identity))
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
            raise UserError(f"cannot write a shard in {out}: {_refusal(error.cause)}") from None
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
