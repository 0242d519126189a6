"""`python -m cluster.prepare`: turn images into the data set that training reads, and look at what came of it.

`prepare` itself stands in `cluster.ingest` and can be called by anything that has a Ray session.
"""

import argparse
import sys
import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from cluster.console import progress
from cluster.cpus import usable_cpus
from cluster.entry import run_entry
from cluster.ingest import NAMED_BAD_IMAGES, check_output, prepare
from cluster.options import checksum, command_parser, location, number
from cluster.ray_session import cluster_address, ray_session
from cluster.signals import StopSignals

if TYPE_CHECKING:
    from workers.data.ingest import Source
    from workers.data.manifest import Manifest

__all__ = ["main", "prepare"]

EXAMPLES = {
    "imagenet": """\
  # ILSVRC2012 (or 2010) as downloaded. The archives are read where they lie, without unpacking them
  python -m cluster.prepare imagenet --train ILSVRC2012_img_train.tar --val ILSVRC2012_img_val.tar \\
      --devkit ILSVRC2012_devkit_t12.tar.gz --out data/imagenet""",
    "folder": """\
  # photos/train/CLASS/*.jpg and photos/validation/CLASS/*.jpg
  python -m cluster.prepare folder photos --out data/photos

  # photos/CLASS/*.jpg; one image in five is set aside for validation
  python -m cluster.prepare folder photos --out data/photos --validation-fraction 0.2""",
    "parquet": """\
  # Parquet files as Hugging Face lays them out (train-00000-of-00002.parquet, validation-..., or valid-, val-, test-...)
  python -m cluster.prepare parquet downloads/imagenet-1k --out data/imagenet
  python -m cluster.prepare parquet downloads/imagenet-1k --classes 100 --out data/imagenet100""",
    "cifar10": """\
  # CIFAR-10: fetched and checked, or from an archive at hand; raw keeps its pixels exactly
  python -m cluster.prepare cifar10 --out data/cifar10 --encoding raw
  python -m cluster.prepare cifar10 --out data/cifar10 --archive cifar-10-binary.tar.gz""",
    "imagenette": """\
  # Imagenette, shorter sides of 320 (or 160, or as in ImageNet). Imagewoof's archives work too
  python -m cluster.prepare imagenette --out data/imagenette
  python -m cluster.prepare imagenette --out data/imagewoof --archive imagewoof2-320.tgz""",
    "tiny-imagenet": """\
  # Tiny ImageNet, fetched and checked, or from an archive at hand; the first 100 of its 200 classes
  python -m cluster.prepare tiny-imagenet --classes 100 --out data/tiny_imagenet
  python -m cluster.prepare tiny-imagenet --archive tiny-imagenet-200.zip --classes 40 --out data/tiny40""",
    "verify": """\
  # every checksum, and every image decoded; --no-decode for the checksums alone
  python -m cluster.prepare verify data/imagenet""",
    "stats": """\
  # what is in a data set, and a sheet of pictures as the network of a config sees them
  python -m cluster.prepare stats data/imagenet --sheet sheet.png --config original.yaml""",
    "upload": """\
  # to a bucket; then train with data.path=s3://bucket/imagenet, which keeps shards in a cache on each node
  python -m cluster.prepare upload data/imagenet s3://bucket/imagenet""",
}
NOTES = """
Bad images are left out, named at the end and listed in OUT/manifest.json. The manifest is written last: an
interrupted run leaves no data set, and the same command goes on from what is there.
exit codes: 0 done, 1 too many bad images, or damage found, 2 wrong input, 128 + its number if a signal stopped it
"""
SIZES = {"cifar10": 32, "tiny-imagenet": 64}
SIZE = 256
DOWNLOADS = Path("data/downloads")
OBJECT_STORE_BYTES = 256 * 2**20  # holds the tasks' sums; images do not pass through it


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = _parser().parse_args(argv)
    if args.kind in ("verify", "stats"):
        return run_entry(lambda: _inspect(args))
    if args.kind == "upload":
        return run_entry(lambda: _upload(args), if_interrupted="the same command begins again", leaves_files=True)
    goes_on = "the same command goes on from what is there"
    return run_entry(lambda: _run(args), if_interrupted=goes_on, leaves_files=True)


def _run(args: argparse.Namespace) -> int:
    with StopSignals():
        check_output(args.out, overwrite=args.overwrite)  # before anything that takes long
        source = _source(args)
        for note in source.notes:
            print(f"note: {note}", file=sys.stderr)
        if not source.splits.get("validation"):
            print("note: there are no validation images, and cluster.train needs some", file=sys.stderr)
        with ray_session(
            cluster_address(args.address), num_cpus=args.workers or usable_cpus(), object_store_bytes=OBJECT_STORE_BYTES
        ) as ray:
            started = time.monotonic()
            with progress("preparing", unit="images") as on_progress:
                manifest = prepare(
                    source,
                    args.out,
                    ray_module=ray,
                    size=args.size,
                    quality=args.quality,
                    encoding=args.encoding,
                    apply_orientation=args.exif_orientation,
                    shard_rows=args.shard_rows,
                    max_bad=args.max_bad,
                    overwrite=args.overwrite,
                    workers=args.workers,
                    on_progress=on_progress,
                )
            seconds = time.monotonic() - started
    print(_summary(manifest, args.out, seconds))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from cluster.inspection import show_stats, verify_dataset

    if args.kind == "verify":
        return verify_dataset(args.folder, decode=args.decode, workers=args.workers)
    return show_stats(args.folder, sheet=args.sheet, config=args.config, samples=args.samples, as_json=args.as_json)


def _upload(args: argparse.Namespace) -> int:
    from workers.data.storage import shown
    from workers.data.upload import upload

    with progress("uploading", scale=1e6, unit="MB") as show:
        upload(args.folder, args.url, overwrite=args.overwrite, progress=show)
    print(
        f"uploaded    {shown(args.url)}\nnext        python -m cluster.train CONFIG {quote(f'data.path={shown(args.url)}')}"
    )
    return 0


def _source(args: argparse.Namespace) -> "Source":
    """List the images, fetching them first if need be."""
    from workers.data import sources

    if args.kind == "folder":
        return sources.FolderSource(args.source, args.validation_fraction)
    if args.kind == "parquet":
        return sources.ParquetSource(args.source, args.classes)
    archive = None if args.kind == "imagenet" else _archive(args)
    with progress("listing", scale=1e6, unit="MB") as show:
        if archive is None:
            return sources.ImageNetSource(
                train=args.train,
                validation=args.val,
                devkit=args.devkit,
                patch=args.patch,
                truth=args.truth,
                on_progress=show,
            )
        if args.kind == "cifar10":
            return sources.Cifar10Source(archive, on_progress=show)
        if args.kind == "imagenette":
            return sources.ImagenetteSource(archive, on_progress=show)
    return sources.TinyImageNetSource(archive, args.classes)


def _archive(args: argparse.Namespace) -> Path:
    """The archive at hand, or the published one."""
    from cluster.download import PUBLISHED, check, fetch

    if args.archive:
        if args.checksum:
            check(args.archive, args.checksum)
        return Path(args.archive)
    published = PUBLISHED[f"imagenette-{args.variant}" if args.kind == "imagenette" else args.kind]
    with progress("downloading", scale=1e6, unit="MB") as show:
        return fetch(args.url or published.url, args.downloads, args.checksum or published.checksum, show)


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
        f"next        python -m cluster.train CONFIG {quote(f'data.path={out}')}",
    ]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "prepare",
        "Turn images into the data set that training reads; `KIND --help` shows the options of each kind.",
        "examples:\n" + "\n\n".join(EXAMPLES.values()) + "\n" + NOTES,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_imagenet(_kind(kinds, "imagenet", "ILSVRC2012's or ILSVRC2010's archives as downloaded"))
    folder = _kind(kinds, "folder", "images in one folder per class")
    folder.add_argument("source", type=location, metavar="SOURCE", help="the folder that holds them")
    folder.add_argument(
        "--validation-fraction",
        "--val-fraction",
        type=number(float, 0, 0.99),
        default=0.1,
        metavar="F",
        help="share of the images set aside where there is no validation folder (default 0.1)",
    )
    parquet = _kind(kinds, "parquet", "Parquet files as Hugging Face lays them out")
    parquet.add_argument("source", type=location, metavar="SOURCE", help="a file, or the folder that holds them")
    _add_classes(parquet)
    _add_archive(_kind(kinds, "cifar10", "CIFAR-10: 60,000 images of 32x32 in 10 classes"))
    imagenette = _kind(kinds, "imagenette", "Imagenette: 13,394 ImageNet photos in 10 classes")
    _add_archive(imagenette)
    imagenette.add_argument(
        "--variant", choices=("320", "160", "full"), default="320", help="shorter sides, to fetch (default 320)"
    )
    tiny_imagenet = _kind(kinds, "tiny-imagenet", "Tiny ImageNet: 110,000 images of 64x64 in 200 classes")
    _add_archive(tiny_imagenet)
    _add_classes(tiny_imagenet)
    _add_inspections(kinds)
    return parser


def _kind(kinds: Any, name: str, what: str) -> argparse.ArgumentParser:
    """A kind of source, with the options that all have."""
    parser = _command(kinds, name, what, f"Source: {what}.")
    size = SIZES.get(name, SIZE)
    add = parser.add_argument
    add("--out", type=location, required=True, metavar="DIR", help="folder of the data set; all shards go there")
    add("--size", type=number(int, 8, 4096), default=size, help=f"side of the stored images (default {size})")
    add(
        "--encoding",
        choices=("jpeg", "raw"),
        default="jpeg",
        help="raw stores pixels, exactly and without decoding in training, in several times the space (default jpeg)",
    )
    add("--quality", type=number(int, 1, 100), default=95, help="of images that must be encoded anew (default 95)")
    add("--exif-orientation", action="store_true", help="turn images as their EXIF data says (default: as stored)")
    add("--shard-rows", type=number(int, 1, 10**6), default=4096, help="images in a shard (default 4096)")
    add("--workers", type=number(int, 1, 10**4), help="tasks at a time (default: one per CPU)")
    add(
        "--max-bad",
        type=number(float, 0, 1),
        default=0.001,
        help="tolerated share of bad images; ten are tolerated in any case (default 0.001)",
    )
    add("--overwrite", action="store_true", help="replace the data set at DIR")
    add("--address", help="join this Ray cluster (`auto` or host:port) instead of running on this machine alone")
    return parser


def _add_classes(kind: argparse.ArgumentParser) -> None:
    kind.add_argument(
        "--classes", type=number(int, 2, 10**6), metavar="N", help="take the first N classes only (default: all)"
    )


def _add_imagenet(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train", type=location, required=True, metavar="TAR", help="ILSVRC2012_img_train.tar: a tar of 1000 tars")
    add("--val", type=location, metavar="TAR", help="ILSVRC2012_img_val.tar")
    add(
        "--devkit",
        type=location,
        required=True,
        metavar="TAR",
        help="ILSVRC2012_devkit_t12.tar.gz, or the folder that it was unpacked to: class names and validation labels",
    )
    add("--patch", type=location, metavar="TAR", help="ILSVRC2010's patch_images.tar: images to use instead")
    add(
        "--truth",
        type=location,
        metavar="FILE",
        help="validation labels to use instead of the devkit's. With ILSVRC2010_test_ground_truth.txt, --val may be "
        "ILSVRC2010_images_test.tar",
    )


def _add_archive(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--archive", type=location, metavar="FILE", help="the archive (default: it is downloaded)")
    where.add_argument("--url", help="download it from here instead of its publisher's address")
    parser.add_argument(
        "--checksum",
        type=checksum,
        metavar="KIND:HEX",
        help="md5:... or sha256:... that the archive must have (default: the published one, for downloads)",
    )
    parser.add_argument(
        "--downloads",
        type=location,
        default=DOWNLOADS,
        metavar="DIR",
        help=f"where downloads are kept (default {DOWNLOADS}); on a cluster, all nodes must see it",
    )


def _add_inspections(kinds: Any) -> None:
    verify = _command(kinds, "verify", "check a prepared data set", "Check every file and image of a data set.")
    verify.add_argument("folder", type=location, metavar="DIR", help="folder of the data set")
    verify.add_argument("--no-decode", dest="decode", action="store_false", help="check no images, only files")
    verify.add_argument("--workers", type=number(int, 1, 10**4), help="processes (default: one per CPU)")
    stats = _command(kinds, "stats", "show what a prepared data set holds", "Show what a data set holds.")
    stats.add_argument("folder", type=location, metavar="DIR", help="folder of the data set")
    stats.add_argument("--sheet", type=location, metavar="FILE.png", help="draw images as the network sees them")
    stats.add_argument("--config", metavar="NAME", help="whose augmentation to draw (default original.yaml)")
    stats.add_argument("--samples", type=number(int, 1, 100), default=8, help="images to draw (default 8)")
    stats.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    upload = _command(
        kinds, "upload", "copy a prepared data set to a URL", "Copy a data set to s3://, gs:// or file://."
    )
    upload.add_argument("folder", type=location, metavar="DIR", help="folder of the data set")
    upload.add_argument("url", metavar="URL", help="where it goes; credentials come from the environment")
    upload.add_argument("--overwrite", action="store_true", help="replace another data set there")


def _command(kinds: Any, name: str, what: str, description: str) -> argparse.ArgumentParser:
    notes = "" if name in ("verify", "stats", "upload") else NOTES
    parser: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=what,
        description=description,
        epilog=f"examples:\n{EXAMPLES[name]}\n{notes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
