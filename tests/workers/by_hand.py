"""References for the tests of this folder and of the data path: draws in plain Python integers, and a small data set."""

import dataclasses
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.loader import load
from configs.schema import Config
from workers.data.ingest import combine, make_shard
from workers.data.manifest import PIXEL_MEAN_FILE, Manifest, SplitInfo
from workers.data.sources import FolderSource

SIZE = 40
"""Side of the stored images; demo.yaml crops 32."""


def key(*names: int) -> int:
    """SplitMix64's finaliser over the names, one by one (Steele, Lea and Flood, OOPSLA 2014)."""
    state = 0
    for name in names:
        z = (state + name + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        state = z ^ (z >> 31)
    return state


def order(seed: int, epoch: int, rows: int) -> list[int]:
    """The rows in the order of their hashes."""
    return sorted(range(rows), key=lambda row: key(seed, 1, epoch, row))


def crop(seed: int, epoch: int, chunk: int, offsets: int) -> tuple[int, int]:
    """(y, x)."""
    y, x = ((key(seed, use, epoch, chunk) >> 32) * offsets >> 32 for use in (2, 3))
    return y, x


def mirrored(seed: int, epoch: int, chunk: int) -> bool:
    return key(seed, 4, epoch, chunk) >> 63 == 0


def jpeg(name: str) -> bytes:
    """A picture of its own for each name: noise, so that no two crops of it are alike."""
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_data_set(folder: Path, *, train_per_class: int = 15, validation_per_class: int = 6) -> dict[str, list[Path]]:
    """A data set of two classes in folder/data, in shards of 8, from the files in folder/pictures.

    Returns the files of each split in the order of their rows: by class, then by name.
    """
    files: dict[str, list[Path]] = {}
    for split, count in (("train", train_per_class), ("validation", validation_per_class)):
        names = [f"{split}/{label}/{number:03d}.jpg" for label in "ab" for number in range(count)]
        files[split] = [folder / "pictures" / name for name in names]
        for path, name in zip(files[split], names, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(name))
    source, out = FolderSource(folder / "pictures"), folder / "data"
    out.mkdir()
    splits, results = {}, {}
    for split in source.splits:
        chunks = enumerate(source.chunks(split, 8))
        results[split] = [make_shard(source, chunk, out, f"{split}-{n}.arrow", SIZE, 95) for n, chunk in chunks]
        infos = tuple(result.info for result in results[split] if result.info)
        splits[split] = SplitInfo(shards=infos, rows=sum(info.rows for info in infos))
    found = dataclasses.asdict(combine(results["train"]))
    with (out / PIXEL_MEAN_FILE).open("wb") as file:
        np.save(file, found.pop("pixel_mean"))
    Manifest(image_size=SIZE, source="a test", classes=source.classes, splits=splits, **found).write(out)
    return files


def config(folder: Path, **augment: Any) -> Config:
    """demo.yaml on the data set that `make_data_set` made."""
    loaded = load(None, [f"data.path={folder / 'data'}", "data.drawn_pictures=null", "network.classes=2"])
    return dataclasses.replace(loaded, augment=dataclasses.replace(loaded.augment, **augment))
