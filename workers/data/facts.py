"""What a trained network needs to know of its data set to be used without it: class names, mean image, stored size.

A run keeps it in its folder (`preprocess.json` and `mean.npy`), so that the folder can be copied to another machine; an exported
file holds it too.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from alexnet.colour import PixelStatistics
from configs.errors import UserError
from workers.data.files import whole_file
from workers.data.images import to_square, to_stored_jpeg
from workers.data.manifest import Encoding, Manifest, pixel_statistics

FILE = "preprocess.json"
MEAN_FILE = "mean.npy"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    classes: tuple[str, ...]
    """Class names; a class's number is an index into them."""
    image_size: int
    """Side of every stored image in pixels."""
    encoding: Encoding
    fingerprint: str
    """Of the data set that the network was trained on."""
    statistics: PixelStatistics
    """Of its training set."""

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> "DataFacts":
        """Of the data set in `folder`. Raises UserError if the mean image's file is damaged."""
        return cls(
            classes=manifest.classes,
            image_size=manifest.image_size,
            encoding=manifest.encoding,
            fingerprint=manifest.fingerprint,
            statistics=pixel_statistics(manifest, folder),
        )

    @classmethod
    def load(cls, folder: Path) -> "DataFacts | None":
        """What a run's folder keeps; None if it keeps nothing. Raises UserError if it is damaged."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            mean = np.load(folder / MEAN_FILE, allow_pickle=False)
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), mean)
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise UserError(
                f"{path} and {MEAN_FILE} beside it are damaged ({error}); restore them from a copy, or remove {path}: then "
                "they are taken from the data set at data.path"
            ) from None

    def keep(self, folder: Path) -> None:
        """Write both files, unless they are there already. Raises OSError if the disk refuses."""
        try:
            there = DataFacts.load(folder)
        except UserError:
            there = None
        if there is not None and there.fingerprint == self.fingerprint:
            return
        file = io.BytesIO()
        np.save(file, self.statistics.mean_SSC)
        with whole_file(folder / MEAN_FILE) as out:
            out.write(file.getvalue())
        with whole_file(folder / FILE) as out:
            out.write(json.dumps(self.to_json(), indent=1, ensure_ascii=False).encode())

    def to_json(self) -> dict[str, Any]:
        """All but the mean image, of which it holds the SHA-256."""
        return {
            "version": VERSION,
            "classes": list(self.classes),
            "image_size": self.image_size,
            "encoding": self.encoding,
            "dataset": self.fingerprint,
            "rgb_eigenvalues": list(self.statistics.eigenvalues),
            "rgb_eigenvectors": [list(row) for row in self.statistics.eigenvectors],
            "mean_sha256": _sha256(self.statistics.mean_SSC),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], mean_SSC: NDArray[np.float32]) -> "DataFacts":
        """The reverse of `to_json`. Raises KeyError, TypeError or ValueError if something is wrong."""
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']!r}, where this program reads {VERSION}")
        size = int(content["image_size"])
        if mean_SSC.dtype != np.float32 or mean_SSC.shape != (size, size, 3):
            raise ValueError(f"the mean image is {mean_SSC.dtype} {list(mean_SSC.shape)}")
        if _sha256(mean_SSC) != content["mean_sha256"]:
            raise ValueError("the mean image has another checksum")
        if content["encoding"] not in get_args(Encoding):
            raise ValueError(f"unknown encoding {content['encoding']!r}")
        return cls(
            classes=tuple(map(str, content["classes"])),
            image_size=size,
            encoding=content["encoding"],
            fingerprint=str(content["dataset"]),
            statistics=PixelStatistics(
                mean_SSC=mean_SSC,
                eigenvalues=tuple(map(float, content["rgb_eigenvalues"])),
                eigenvectors=tuple(tuple(map(float, row)) for row in content["rgb_eigenvectors"]),
            ),
        )

    def as_stored(self, data: bytes, *, apply_orientation: bool = False) -> NDArray[np.uint8]:
        """A picture file as the data set would have it, [image_size, image_size, 3] RGB; with JPEG's losses at prepare's default
        quality if the data set has those. Raises BadImage as `to_square` does."""
        if self.encoding == "jpeg":
            return to_stored_jpeg(data, self.image_size, apply_orientation=apply_orientation).pixels
        return to_square(data, self.image_size, apply_orientation=apply_orientation)


def _sha256(mean_SSC: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(mean_SSC).tobytes()).hexdigest()
