"""Pictures for tests: real files of many kinds, made on the spot."""

import io
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image


def jpeg(seed: int, height: int = 16, width: int | None = None) -> bytes:
    """A picture of its own, by default a square: a coarse pattern, so that scaling leaves something to see, and some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width or height, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = (pixels + rng.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(noisy), 90, "RGB", "420")
    return encoded


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def draw_folders(root: Path, per_class: int = 20, size: int = 16) -> Path:
    """root/train/{a,b}/*.jpg with `per_class` images each, and 3 each in root/validation."""
    seed = 0
    for split, count in (("train", per_class), ("validation", 3)):
        for name in "ab":
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:03d}.jpg").write_bytes(jpeg(seed, size, size))
                seed += 1
    return root
