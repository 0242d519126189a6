"""A look at a prepared data set: whether it is whole (`prepare verify`), and what is in it (`prepare stats`)."""

import contextlib
import json
import multiprocessing
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.console import progress
from cluster.cpus import usable_cpus
from cluster.paths import check_file
from configs.errors import UserError

if TYPE_CHECKING:
    from workers.data.check import ShardReport
    from workers.data.ingest import PixelSums
    from workers.data.manifest import Manifest, SplitInfo

MANIFEST = "manifest.json"
NAMED_ROWS = 20  # of one shard; a list of thousands would hide the other shards
MEAN_TOLERANCE = 0.5  # levels; another decoder may round otherwise


def verify_dataset(folder: Path, *, decode: bool = True, workers: int | None = None) -> int:
    """Check every file, row and number of a data set, and print what is wrong, by shard and row.

    decode: also decode every image and compare the training set's mean image and colours with the manifest's. workers: processes
    (default: one per CPU). Returns an exit code: 0 whole, 1 damaged, 2 no data set there.
    """
    from workers.data.manifest import Manifest

    try:
        manifest = Manifest.load(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if (folder / MANIFEST).is_file() else 2
    problems: list[str] = []
    reports = _check_shards(folder, manifest, decode, workers or usable_cpus())
    sums: PixelSums | None = None
    for split in manifest.splits.values():
        for info in split.shards:
            problems += _told(reports[info.file])
    for info in manifest.splits["train"].shards if "train" in manifest.splits else ():
        found = reports[info.file].sums
        if found is not None and sums is not None:
            sums.add(found)
        sums = sums or found
    whole = not problems
    # Over other rows than those that were counted, other means would be no wonder.
    problems += _statistics_problems(folder, manifest, sums if whole else None)
    rows = sum(report.checked for report in reports.values())
    looked = f"{rows:,} images in {len(reports):,} shards, {'decoded' if decode else 'not decoded'}"
    if not problems:
        print(f"{folder} is whole: {looked}; fingerprint {manifest.fingerprint}")
        return 0
    print(f"{folder} is damaged ({looked}):")
    print("\n".join(f"  {problem}" for problem in problems))
    print("Restore the files named above from a copy, or make the data set again with --overwrite.")
    return 1


def _check_shards(folder: Path, manifest: "Manifest", decode: bool, workers: int) -> "dict[str, ShardReport]":
    """A report for every shard, by file name; in processes of their own if there is work for several."""
    from workers.data.check import check_shard

    infos = [info for split in manifest.splits.values() for info in split.shards]
    settings = (manifest.image_size, len(manifest.classes), manifest.encoding, decode)
    reports: dict[str, ShardReport] = {}
    total, done = sum(info.bytes for info in infos), 0
    with progress("verifying", scale=1e6, unit="MB") as show, _pool(min(workers, len(infos))) as pool:
        for report in pool([(check_shard, folder, info, *settings) for info in infos]):
            reports[report.info.file] = report
            done += report.info.bytes
            show(done, total)
    return reports


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Callable[[list[tuple[Any, ...]]], Iterator[Any]]]:
    """Yield a function that calls (function, *arguments) for each item of a list, and yields the results as they come."""
    if workers <= 1:
        yield lambda calls: (function(*arguments) for function, *arguments in calls)
        return
    # Spawned: threads of this process may hold locks that a fork would copy.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches all processes at a terminal; one of them should answer.
    executor = ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield lambda calls: (done.result() for done in as_completed([executor.submit(*call) for call in calls]))
    finally:
        executor.shutdown(cancel_futures=True)


def _told(report: "ShardReport") -> list[str]:
    lines = [f"{report.info.file}: {report.problem}"] if report.problem else []
    lines += [f"{report.info.file}: row {row} (key {key!r}): {what}" for row, key, what in report.rows[:NAMED_ROWS]]
    if len(report.rows) > NAMED_ROWS:
        lines.append(f"{report.info.file}: and {len(report.rows) - NAMED_ROWS:,} more rows")
    return lines


def _statistics_problems(folder: Path, manifest: "Manifest", sums: "PixelSums | None") -> list[str]:
    """What is wrong with the manifest's numbers, and with the mean image; compared with `sums` of the training set if given."""
    import numpy as np

    from workers.data.ingest import statistics

    problems = []
    vectors, values = np.array(manifest.rgb_eigenvectors), np.array(manifest.rgb_eigenvalues)
    covariance = np.array(manifest.rgb_covariance)
    if not np.allclose(vectors @ np.diag(values) @ vectors.T, covariance, atol=1e-6 * max(1.0, values.max())):
        problems.append(f"{MANIFEST}: rgb_eigenvalues and rgb_eigenvectors are not those of rgb_covariance")
    try:
        mean = manifest.pixel_mean(folder)
    except UserError as error:
        return [*problems, str(error)]
    if sums is None:
        return problems
    found = statistics(sums)
    if (furthest := float(np.abs(found.pixel_mean - mean).max())) > MEAN_TOLERANCE:
        problems.append(f"{manifest.pixel_mean_file}: up to {furthest:.2f} levels from the mean of the training images")
    allowed = 0.01 * np.sqrt(np.outer(np.diag(covariance), np.diag(covariance))) + 1.0
    if (np.abs(np.array(found.rgb_covariance) - covariance) > allowed).any():
        problems.append(f"{MANIFEST}: rgb_covariance is not that of the training images")
    return problems


def show_stats(folder: Path, *, sheet: Path | None, config: str | None, samples: int, as_json: bool) -> int:
    """Print what is in a data set: classes and how even they are, sizes, colours, what was left out and why.

    sheet: a PNG to draw, of `samples` training images, each beside what the network of `config` (default original.yaml) sees of
    it in several epochs. as_json: print one JSON object instead of lines. Returns 0. Raises UserError.
    """
    from workers.data.manifest import Manifest

    if sheet is not None:
        check_file(sheet, "--sheet")
    manifest = Manifest.load(folder)
    found = _contents(folder, manifest)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(folder, found)))
    if sheet is not None:
        from cluster.sheet import draw_sheet

        for note in draw_sheet(folder, manifest, sheet, config or "original.yaml", samples):
            print(note, file=sys.stderr)
    return 0


def _contents(folder: Path, manifest: "Manifest") -> dict[str, Any]:
    """All that is shown, as it goes into JSON."""
    return {
        "folder": str(folder),
        "source": manifest.source,
        "fingerprint": manifest.fingerprint,
        "image_size": manifest.image_size,
        "encoding": manifest.encoding,
        "classes": len(manifest.classes),
        "splits": {name: _split(folder, manifest, split) for name, split in manifest.splits.items()},
        "rgb_mean": manifest.rgb_mean,
        "rgb_covariance": manifest.rgb_covariance,
        "rgb_eigenvalues": manifest.rgb_eigenvalues,
        "rgb_eigenvectors": manifest.rgb_eigenvectors,
        "quarantined": _reasons(manifest),
    }


def _split(folder: Path, manifest: "Manifest", split: "SplitInfo") -> dict[str, Any]:
    import numpy as np

    from workers.data.shards import Shard

    counts = np.zeros(len(manifest.classes), np.int64)
    for info in split.shards:
        labels = Shard(folder / info.file).labels()
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(counts):
            raise UserError(f"{info.file} has labels that are none of the classes: see `prepare verify {folder}`")
        counts += np.bincount(labels, minlength=len(counts))
    fewest, most = int(counts.argmin()), int(counts.argmax())
    return {
        "images": split.rows,
        "shards": len(split.shards),
        "bytes": sum(info.bytes for info in split.shards),
        "per_class": {
            "min": int(counts[fewest]),
            "median": float(np.median(counts)),
            "max": int(counts[most]),
            "fewest": manifest.classes[fewest],
            "most": manifest.classes[most],
            "empty": int((counts == 0).sum()),
        },
        "counts": {name: int(count) for name, count in zip(manifest.classes, counts, strict=True)},
    }


def _reasons(manifest: "Manifest") -> dict[str, int]:
    """How many images were left out for each reason, commonest first. Numbers in reasons (of bytes, of pixels) do not count."""
    return dict(Counter(re.sub(r"\d+", "N", image.reason) for image in manifest.quarantined).most_common())


def _lines(folder: Path, found: dict[str, Any]) -> Iterator[str]:
    size = found["image_size"]
    yield f"data set     {folder}"
    yield f"source       {found['source']}"
    yield f"images       {size}x{size}, {'JPEG' if found['encoding'] == 'jpeg' else 'raw pixels'}, {found['classes']:,} classes"
    for name, split in found["splits"].items():
        per_class, images = split["per_class"], split["images"]
        yield (
            f"{name:<13}{images:,} images in {split['shards']:,} shards, {split['bytes'] / 1e6:,.1f} MB "
            f"({split['bytes'] / max(images, 1):,.0f} bytes an image)"
        )
        evenness = f"{per_class['max'] / per_class['min']:.2f} times" if per_class["min"] else "infinitely"
        yield (
            f"  per class  min {per_class['min']:,} ({per_class['fewest']}), median {per_class['median']:,.0f}, "
            f"max {per_class['max']:,} ({per_class['most']}); the largest is {evenness} the smallest"
            + (f"; {per_class['empty']:,} classes have none" if per_class["empty"] else "")
        )
    yield "colours      of the training set, red green blue, 0..255"
    yield f"  mean       {_numbers(found['rgb_mean'])}"
    for index, value in enumerate(found["rgb_eigenvalues"]):
        vector = [row[index] for row in found["rgb_eigenvectors"]]
        yield f"  component  variance {value:,.1f} (deviation {max(value, 0.0) ** 0.5:.1f}) along {_numbers(vector, 4)}"
    yield f"left out     {sum(found['quarantined'].values()):,} images"
    for reason, count in found["quarantined"].items():
        yield f"  {count:>9,}  {reason}"
    yield f"fingerprint  {found['fingerprint']}"


def _numbers(values: Any, digits: int = 2) -> str:
    return "  ".join(f"{value:.{digits}f}" for value in values)
