"""The opponents' transformation, image by image: Pillow decodes, crops and mirrors, torch subtracts and adds.

The same arithmetic as ours, written as PyTorch's and Ray's documentation write theirs. All peers share it, so that what differs
between them is the loader.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet.colour import colour_basis
from cluster.benchmarks.loaders.material import CROP, SIZE, Material
from workers.data.manifest import pixel_statistics

File = str | Path | io.BytesIO


class Transform:
    """A JPEG to a float32 [3, 224, 224] image with draws of its own."""

    def __init__(self, material: Material) -> None:
        statistics = pixel_statistics(material.manifest, material.folder / "data")
        noise = material.config().augment.colour_noise
        assert noise is not None
        start = (SIZE - CROP) // 2
        mean = torch.from_numpy(statistics.mean_SSC)[start : start + CROP, start : start + CROP]
        self.mean_CHW = mean.permute(2, 0, 1).contiguous()
        self.basis = torch.from_numpy(colour_basis(noise, statistics)).float()

    def __call__(self, file: File) -> Tensor:
        y, x = torch.randint(SIZE - CROP + 1, (2,)).tolist()
        mirror = bool(torch.rand(()) < 0.5)
        return self.with_draws(file, y, x, mirror, self.basis @ torch.randn(3))

    def with_draws(self, file: File, y: int, x: int, mirror: bool, colour_C: Tensor) -> Tensor:
        """The crop at (y, x), mirrored or not, the mean subtracted and the offset added."""
        image = Image.open(file).convert("RGB").crop((x, y, x + CROP, y + CROP))
        if mirror:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        return pixels - self.mean_CHW + colour_C[:, None, None]


def random_crop(file: File) -> Tensor:
    """A JPEG to a uint8 [224, 224, 3] crop, and no more than that."""
    y, x = torch.randint(SIZE - CROP + 1, (2,)).tolist()
    return torch.from_numpy(np.array(Image.open(file).convert("RGB").crop((x, y, x + CROP, y + CROP))))


def transformation(material: Material, *, crops_only: bool) -> Callable[[File], Tensor]:
    return random_crop if crops_only else Transform(material)
