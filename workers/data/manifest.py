"""The manifest: what a prepared data set holds. It is written last, so a folder with a manifest is a whole data set."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alexnet.colour import PixelStatistics
from configs.errors import UserError, about_os, nature_of
from workers.data.files import whole_file
from workers.data.shards import SUFFIX, ShardInfo

FILE = "manifest.json"
VERSION = 1
PIXEL_MEAN_FILE = "mean.npy"

Triple = tuple[float, float, float]
Encoding = Literal["jpeg", "raw"]


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """The shards of one split, in the order that defines its row numbers."""

    shards: tuple[ShardInfo, ...]
    rows: int


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """An image of the source that is not in the data set."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents and training-set statistics of a prepared data set. Colours are RGB, in units of 0..255."""

    version: int = VERSION
    image_size: int
    """Side of every stored image in pixels."""
    encoding: Encoding = "jpeg"
    """`raw`: an image is stored as its size * size * 3 bytes, row by row, RGB."""
    source: str
    """Where the images came from, in words."""
    classes: tuple[str, ...]
    """Class names; a label is an index into them."""
    splits: Mapping[str, SplitInfo]
    pixel_mean_file: str = PIXEL_MEAN_FILE
    """float32 [size, size, 3]: the mean image of the training set."""
    rgb_mean: Triple
    rgb_covariance: tuple[Triple, Triple, Triple]
    """Over all pixels of the training set."""
    rgb_eigenvalues: Triple
    """Of the covariance, ascending."""
    rgb_eigenvectors: tuple[Triple, Triple, Triple]
    """One eigenvector per column, in the order of the eigenvalues; each column's largest entry is positive."""
    quarantined: tuple[Quarantined, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of what a training run depends on: pixels, labels, order, classes."""
        content = {
            "image_size": self.image_size,
            "encoding": self.encoding,
            "classes": self.classes,
            "splits": {
                name: [(shard.rows, shard.sha256) for shard in split.shards] for name, split in self.splits.items()
            },
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write `folder`/manifest.json atomically. This commits the data set: write everything else first."""
        content = {**dataclasses.asdict(self), "fingerprint": self.fingerprint}
        with whole_file(folder / FILE) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read `folder`/manifest.json. Raises UserError if it is not there, not whole, or of another version."""
        path = folder / FILE
        if not path.is_file():
            why = f"no {FILE} in it: it was never finished" if folder.is_dir() else "there is no such folder"
            raise UserError(
                f"no data set at {folder} ({why}). "
                f"Make one with `python -m cluster.prepare folder SOURCE --out {quote(str(folder))}` "
                "(`python -m cluster.prepare --help` shows examples)."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _broken(path, error) from None
        if version != VERSION:
            raise UserError(
                f"{path} has version {version!r}; this program reads version {VERSION}. Use the program that "
                "made it, or make the data set again with `python -m cluster.prepare ... --overwrite`."
            )
        try:
            manifest = _from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _broken(path, error) from None
        if manifest.fingerprint != content.get("fingerprint"):
            raise _broken(path, "its fingerprint does not match its contents")
        return manifest

    def pixel_mean(self, folder: Path) -> NDArray[np.float32]:
        """The training set's mean image, [size, size, 3] RGB in 0..255. Raises UserError if its file is damaged."""
        path = folder / self.pixel_mean_file
        try:
            mean = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _broken(path, error) from None
        if mean.dtype != np.float32 or mean.shape != (self.image_size, self.image_size, 3):
            raise _broken(path, f"it holds {mean.dtype} {list(mean.shape)}")
        # The colour means in the manifest are the same numbers averaged over the pixels: a free check.
        if not np.allclose(mean.mean(axis=(0, 1), dtype=np.float64), self.rgb_mean, atol=1e-3):
            raise _broken(path, f"its average is not the rgb_mean of {FILE}")
        return mean


def pixel_statistics(manifest: Manifest, folder: Path) -> PixelStatistics:
    """What augmentation needs of the training set. Raises UserError if the mean image's file is damaged."""
    return PixelStatistics(
        mean_SSC=manifest.pixel_mean(folder),
        eigenvalues=manifest.rgb_eigenvalues,
        eigenvectors=manifest.rgb_eigenvectors,
    )


def _from_json(content: dict[str, Any]) -> Manifest:
    splits = {
        name: SplitInfo(shards=tuple(_shard(shard) for shard in split["shards"]), rows=int(split["rows"]))
        for name, split in content["splits"].items()
    }
    for name, split in splits.items():
        if split.rows != sum(shard.rows for shard in split.shards):
            raise ValueError(f"the rows of the shards of {name} do not add up to {split.rows}")
    if content["encoding"] not in get_args(Encoding):
        raise ValueError(f"unknown encoding {content['encoding']!r}")
    return Manifest(
        version=content["version"],
        image_size=int(content["image_size"]),
        encoding=content["encoding"],
        source=str(content["source"]),
        classes=tuple(map(str, content["classes"])),
        splits=splits,
        pixel_mean_file=_plain_name(content["pixel_mean_file"]),
        rgb_mean=_triple(content["rgb_mean"]),
        rgb_covariance=_matrix(content["rgb_covariance"]),
        rgb_eigenvalues=_triple(content["rgb_eigenvalues"]),
        rgb_eigenvectors=_matrix(content["rgb_eigenvectors"]),
        quarantined=tuple(Quarantined(**item) for item in content["quarantined"]),
    )


def _shard(content: dict[str, Any]) -> ShardInfo:
    shard = ShardInfo(**content)
    if not _plain_name(shard.file).endswith(SUFFIX):
        raise ValueError(f"{shard.file!r} is not the name of a shard")
    return shard


def _plain_name(name: str) -> str:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"{name!r} is not the name of a file in this folder")
    return name


def _triple(values: Any) -> Triple:
    first, second, third = map(float, values)
    return first, second, third


def _matrix(rows: Any) -> tuple[Triple, Triple, Triple]:
    first, second, third = map(_triple, rows)
    return first, second, third


def _broken(path: Path, reason: object) -> UserError:
    text = f"no field {reason}" if isinstance(reason, KeyError) else str(reason)
    if isinstance(reason, OSError) and reason.errno is not None and nature_of(reason) == "away":
        return about_os(reason, f"{path} cannot be read: {reason.strerror or reason}")
    return UserError(
        f"{path} is damaged: {text}. Restore it from a copy, or make the data set again with "
        "`python -m cluster.prepare ... --overwrite`."
    )
