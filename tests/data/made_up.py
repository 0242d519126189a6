"""Data sets that are written directly, without `prepare`: of many rows of few bytes."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from configs.loader import load
from configs.schema import Config
from workers.data.manifest import PIXEL_MEAN_FILE, Manifest, SplitInfo
from workers.data.shards import Record, ShardInfo, write_shard

SIZE = 4
"""Side of the many rows' images: 48 bytes each."""
VALIDATION_ROWS = 100


def manifest(image_size: int, train: Iterable[ShardInfo], **changes: Any) -> Manifest:
    """Of these training shards, with zeros for statistics."""
    shards, zeros = tuple(train), (0.0, 0.0, 0.0)
    made = Manifest(
        image_size=image_size,
        source="a test",
        classes=("a",),
        splits={"train": split_of(shards)},
        rgb_mean=zeros,
        rgb_covariance=(zeros, zeros, zeros),
        rgb_eigenvalues=zeros,
        rgb_eigenvectors=(zeros, zeros, zeros),
    )
    return dataclasses.replace(made, **changes)


def split_of(shards: Iterable[ShardInfo]) -> SplitInfo:
    infos = tuple(shards)
    return SplitInfo(shards=infos, rows=sum(info.rows for info in infos))


def image(row: int) -> bytes:
    """Pixels that tell which row they are of."""
    return (row.to_bytes(4, "little") * (SIZE * SIZE))[: SIZE * SIZE * 3]


def many_rows(folder: Path, rows: int, shard_rows: int = 4096) -> Config:
    """A data set of so many training rows, sorted by class, and a config that reads it whole (crops of SIZE)."""
    folder.mkdir()

    def shard(split: str, start: int, stop: int) -> ShardInfo:
        records = (
            Record(key=f"n{row:08}.JPEG", label=row * 1000 // rows, image=image(row)) for row in range(start, stop)
        )
        return write_shard(folder / f"{split}-{start:07}.arrow", records)

    starts = range(0, rows, shard_rows)
    train = split_of(shard("train", start, min(start + shard_rows, rows)) for start in starts)
    validation = split_of([shard("validation", 0, VALIDATION_ROWS)])
    np.save(folder / PIXEL_MEAN_FILE, np.zeros((SIZE, SIZE, 3), np.float32))
    classes = tuple(f"class {number}" for number in range(1000))
    splits = {"train": train, "validation": validation}
    manifest(SIZE, (), encoding="raw", classes=classes, splits=splits).write(folder)
    return config_of(folder)


def config_of(folder: Path) -> Config:
    """Of a data set that `many_rows` made."""
    config = load("original.yaml", [f"data.path={folder}", "augment.crop_positions=null"])
    return dataclasses.replace(config, network=dataclasses.replace(config.network, input_size=SIZE))
