"""The arithmetic of augmentation on the device: crop's mean, mirror and colour offset on uint8 batches.

Which crop, mirrored or not, and which colour offset are decided elsewhere, per image; here they are applied. Crops are cut
where the images are decoded. Shape suffixes: B images, H and W positions of the crop, S side of a stored image, C colours.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from alexnet.colour import PixelStatistics
from alexnet.compiled import Compiled
from configs.schema import Augment


class Preprocess(torch.nn.Module):
    """uint8 crops to the network's input: mean subtracted, mirrored, colour offset added, training images rescaled."""

    mean_SSC: Tensor

    def __init__(self, settings: Augment, statistics: PixelStatistics, crop: int, *, fused: bool = False) -> None:
        """crop: side of the crops, in pixels; at most the side of the mean image. fused: compile it into one pass."""
        super().__init__()
        self.crop, self.mean = crop, settings.mean
        mean = torch.from_numpy(statistics.mean_SSC.astype(np.float32))
        if settings.mean == "channel":
            mean = mean.mean(dim=(0, 1), keepdim=True).expand_as(mean)
        self.register_buffer("mean_SSC", mean.contiguous())
        # The authors divide by 1 + strength, so that training and test images have about the same scale.
        noise = settings.colour_noise
        rescale = 1.0 / (1.0 + noise.strength) if noise is not None and noise.rescale else 1.0
        # The authors' code crops and mirrors, and subtracts the mean as it is (convdata_jpeg.py, __trim_borders).
        arithmetic = _arithmetic(settings.mean == "centre", rescale, settings.pixel_scale)
        told = ("preprocessing runs unfused", "compute.fused=false")
        self._arithmetic = Compiled(arithmetic, *told) if fused else arithmetic

    def forward(
        self,
        images_BHWC: Tensor,
        offsets_B2: Tensor,
        mirror_B: Tensor | None = None,
        colour_BC: Tensor | None = None,
        noisy_B: Tensor | None = None,
    ) -> Tensor:
        """Float images [B, 3, H, W].

        images_BHWC: uint8 crops. offsets_B2: int64 (y, x) of each crop in its stored image. mirror_B: bool. colour_BC: offset
        added to every pixel of an image. noisy_B: bool, images of the epochs that have colour noise, which alone are rescaled.
        Without the last three this is the testing form.
        """
        x = self._arithmetic(images_BHWC, self._mean(offsets_B2), mirror_B, colour_BC, noisy_B)
        return x.permute(0, 3, 1, 2)

    def _mean(self, offsets_B2: Tensor) -> Tensor:
        """What is subtracted: [H, W, C], or [B, H, W, C] where it depends on the crop's position."""
        side = self.mean_SSC.shape[0]
        if self.mean != "position":
            start = (side - self.crop) // 2
            return self.mean_SSC[start : start + self.crop, start : start + self.crop]
        along = torch.arange(self.crop, device=offsets_B2.device)
        rows_BH, columns_BW = offsets_B2[:, :1] + along, offsets_B2[:, 1:] + along
        return self.mean_SSC[rows_BH[:, :, None], columns_BW[:, None, :]]


def _arithmetic(mirror_first: bool, rescale: float, scale: float) -> Callable[..., Tensor]:
    """A function of images [B, H, W, C], their mean, and what was drawn for them; one pass over memory if compiled."""

    def arithmetic(
        images_BHWC: Tensor, mean: Tensor, mirror_B: Tensor | None, colour_BC: Tensor | None, noisy_B: Tensor | None
    ) -> Tensor:
        x = images_BHWC
        if mirror_first and mirror_B is not None:
            x = torch.where(mirror_B[:, None, None, None], x.flip(2), x)
        x = x.to(mean.dtype) - mean
        if not mirror_first and mirror_B is not None:
            x = torch.where(mirror_B[:, None, None, None], x.flip(2), x)
        if colour_BC is not None:
            x = x + colour_BC.to(mean.dtype)[:, None, None, :]
        if noisy_B is not None and rescale != 1.0:
            x = x * torch.where(noisy_B, x.new_full((), rescale), 1.0)[:, None, None, None]
        return x * scale if scale != 1.0 else x

    return arithmetic
