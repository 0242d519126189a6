"""Whether a shard holds what the manifest says: its bytes, its rows, and images that decode."""

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from workers.data.ingest import PixelSums
from workers.data.manifest import Encoding
from workers.data.shards import CorruptShardError, Shard, ShardInfo, file_sha256


@dataclass(kw_only=True)
class ShardReport:
    """What was found in one shard."""

    info: ShardInfo
    problem: str = ""
    """Of the file as a whole, in words; empty if there is none."""
    rows: list[tuple[int, str, str]] = field(default_factory=list)
    """(row, key, problem) of every damaged row."""
    checked: int = 0
    """Rows that could be looked at."""
    sums: PixelSums | None = None
    """Of the decoded images; None if none was decoded."""


def check_shard(
    folder: Path, info: ShardInfo, size: int, classes: int, encoding: Encoding, decode: bool
) -> ShardReport:
    """Compare size, SHA-256 and number of rows with the manifest's; then check every row's label and CRC, and decode it.

    Rows are looked at even if the file's checksum differs, so that the report names them. decode: else images are left alone.
    Never raises on account of what is in the file.
    """
    report = ShardReport(info=info)
    path = folder / info.file
    try:
        found = path.stat().st_size
        if found != info.bytes:
            report.problem = f"it has {found:,} bytes instead of {info.bytes:,}"
        elif file_sha256(path) != info.sha256:
            report.problem = "its SHA-256 is not the one in the manifest"
        shard = Shard(path)
    except FileNotFoundError:
        report.problem = "it is missing"
        return report
    except OSError as error:
        report.problem = f"it cannot be read ({error.strerror})"
        return report
    except CorruptShardError:
        report.problem = report.problem or "it is not a shard"
        return report
    if len(shard) != info.rows:
        report.problem = report.problem or f"it holds {len(shard):,} rows instead of {info.rows:,}"
    sums = PixelSums(pixels=np.zeros((size, size, 3), np.int64))
    pixels = np.empty((size, size, 3), np.uint8)
    for row in range(len(shard)):
        if problem := _row_problem(shard, row, classes, encoding, pixels if decode else None):
            report.rows.append((row, shard.key(row), problem))
        elif decode:
            sums.add_image(pixels)
    report.checked = len(shard)
    report.sums = sums if sums.images else None
    return report


def _row_problem(shard: Shard, row: int, classes: int, encoding: Encoding, pixels: NDArray[np.uint8] | None) -> str:
    """In words; empty if the row is sound. Decodes into `pixels`."""
    if not 0 <= shard.label(row) < classes:
        return f"its label is {shard.label(row)}, not one of 0..{classes - 1}"
    image = shard.image(row)
    if zlib.crc32(image.data) != shard.crc32(row):
        return "its checksum differs"
    if pixels is None:
        return ""
    if encoding == "raw":
        if image.size != pixels.size:
            return f"it has {image.size:,} bytes instead of {pixels.size:,}"
        pixels[:] = image.reshape(pixels.shape)
        return ""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(image)
        if (height, width) != pixels.shape[:2]:
            return f"it is {width}x{height} pixels"
        simplejpeg.decode_jpeg(image, "RGB", buffer=pixels, strict=True)
    except (ValueError, KeyError) as error:  # KeyError: colours or sampling that simplejpeg has no name for
        return f"it does not decode: {error}"
    return ""
