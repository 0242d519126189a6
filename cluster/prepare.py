"""`python -m cluster.prepare`: turn images into the data set that training reads.

`prepare` itself stands in `cluster.ingest` and can be called by anything that has a Ray session.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console import progress
from cluster.entry import run_entry
from cluster.ingest import NAMED_BAD_IMAGES, check_output, prepare
from cluster.ray_session import ray_session
from cluster.signals import StopSignals

if TYPE_CHECKING:
    from workers.data.ingest import Source
    from workers.data.manifest import Manifest

__all__ = ["main", "prepare"]

EXAMPLES = """\
examples:
  # Parquet files as Hugging Face lays them out (train-00000-of-00002.parquet, validation-..., or test-...)
  python -m cluster.prepare parquet downloads/tiny-imagenet --size 64 --out data/tiny

  # folders: photos/train/CLASS/*.jpg and photos/validation/CLASS/*.jpg
  python -m cluster.prepare folder photos --out data/photos

  # folders: photos/CLASS/*.jpg; one image in five is set aside for validation
  python -m cluster.prepare folder photos --out data/photos --validation-fraction 0.2

Bad images are left out, named at the end and listed in OUT/manifest.json. The manifest is written last: an
interrupted run leaves no data set, and the same command starts again.
exit codes: 0 done, 1 too many bad images, 2 wrong input, 130 interrupted
"""
OBJECT_STORE_BYTES = 256 * 2**20  # holds the tasks' sums; images do not pass through it


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    again = f"there is no data set at {args.out} yet; the same command starts again"
    return run_entry(lambda: _run(args), if_interrupted=again)


def _run(args: argparse.Namespace) -> int:
    from workers.data.sources import FolderSource, ParquetSource

    source: Source = (
        FolderSource(args.source, args.validation_fraction) if args.kind == "folder" else ParquetSource(args.source)
    )
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    check_output(args.out, overwrite=args.overwrite)  # before Ray takes its seconds to start
    with (
        StopSignals(),
        ray_session(args.address, num_cpus=args.workers, object_store_bytes=OBJECT_STORE_BYTES) as ray,
    ):
        started = time.monotonic()
        with progress("preparing", unit="images") as on_progress:
            manifest = prepare(
                source,
                args.out,
                ray_module=ray,
                size=args.size,
                quality=args.quality,
                shard_rows=args.shard_rows,
                max_bad=args.max_bad,
                overwrite=args.overwrite,
                workers=args.workers,
                on_progress=on_progress,
            )
        seconds = time.monotonic() - started
    print(_summary(manifest, args.out, seconds))
    return 0


def _summary(manifest: "Manifest", out: Path, seconds: float) -> str:
    splits = manifest.splits.items()
    size = sum(shard.bytes for _, split in splits for shard in split.shards)
    bad = manifest.quarantined
    images = sum(split.rows for _, split in splits) + len(bad)
    lines = [
        f"data set    {out}",
        f"images      {', '.join(f'{name} {split.rows:,}' for name, split in splits)}"
        f" of {len(manifest.classes):,} classes, {manifest.image_size}x{manifest.image_size}",
        f"bad images  {len(bad):,}{' (left out; all are listed in manifest.json)' if bad else ''}",
        *(f"  {image.split} {image.key}: {image.reason}" for image in bad[:NAMED_BAD_IMAGES]),
        *([f"  and {len(bad) - NAMED_BAD_IMAGES:,} more"] if len(bad) > NAMED_BAD_IMAGES else []),
        f"on disk     {size / 1e6:,.1f} MB in {sum(len(split.shards) for _, split in splits):,} shards",
        f"time        {seconds:.1f} s, {images / max(seconds, 1e-9):,.0f} images/s",
        f"fingerprint {manifest.fingerprint}",
        f"next        python -m cluster.train CONFIG data.path={out}",
    ]
    if "validation" not in manifest.splits:
        lines.insert(2, "note        there is no validation split: training can report no validation error")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.prepare",
        description="Turn images into the data set that training reads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{folder,parquet}")
    folder = _kind(kinds, "folder", "images in one folder per class", "the folder that holds them")
    folder.add_argument(
        "--validation-fraction",
        type=_number(float, 0, 0.99),
        default=0.1,
        metavar="F",
        help="share of the images set aside where there is no validation folder (default 0.1)",
    )
    _kind(kinds, "parquet", "Parquet files as Hugging Face lays them out", "a file, or the folder that holds them")
    return parser


def _kind(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str, source: str
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(
        name,
        help=what,
        description=f"Source: {what}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help=source)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the data set; nothing else is written")
    add("--size", type=_number(int, 8, 4096), default=256, help="side of the stored images (default 256)")
    add("--quality", type=_number(int, 1, 100), default=95, help="of images that must be encoded anew (default 95)")
    add("--shard-rows", type=_number(int, 1, 10**6), default=4096, help="images in a shard (default 4096)")
    add("--workers", type=_number(int, 1, 10**4), help="tasks at a time (default: one per CPU)")
    add(
        "--max-bad",
        type=_number(float, 0, 1),
        default=0.001,
        help="tolerated share of bad images; ten are tolerated in any case (default 0.001)",
    )
    add("--overwrite", action="store_true", help="replace the data set at DIR")
    add("--address", help="join this Ray cluster (`auto` or host:port) instead of running on this machine alone")
    return parser


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of the kind wanted") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not within {low:g}..{high:g}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
