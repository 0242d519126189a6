"""The arithmetic of augmentation on the device: crop's mean, mirror and colour offset on uint8 batches.

Which crop, mirrored or not, and which colour offset are decided elsewhere, per image; here they are applied. Crops are cut
where the images are decoded. Shape suffixes: B images, H and W positions of the crop, S side of a stored image, C colours.
"""

import numpy as np
import torch
from torch import Tensor

from alexnet.colour import PixelStatistics
from configs.schema import Augment


class Preprocess(torch.nn.Module):
    """uint8 crops to the network's input: mean subtracted, mirrored, colour offset added, training images rescaled."""

    mean_SSC: Tensor

    def __init__(self, settings: Augment, statistics: PixelStatistics, crop: int) -> None:
        """crop: side of the crops, in pixels; at most the side of the mean image."""
        super().__init__()
        self.crop, self.mean = crop, settings.mean
        mean = torch.from_numpy(statistics.mean_SSC.astype(np.float32))
        if settings.mean == "channel":
            mean = mean.mean(dim=(0, 1), keepdim=True).expand_as(mean)
        self.register_buffer("mean_SSC", mean.contiguous())
        # The authors divide by 1 + strength, so that training and test images have about the same scale.
        noise = settings.colour_noise
        self.rescale = 1.0 / (1.0 + noise.strength) if noise is not None and noise.rescale else 1.0
        self.scale = settings.pixel_scale

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
        kind = self.mean_SSC.dtype
        if self.mean == "centre":
            # The authors' code crops and mirrors, and subtracts the mean as it is (convdata_jpeg.py, __trim_borders). Mirroring
            # bytes moves a quarter of the memory.
            x = _mirrored(images_BHWC, mirror_B).to(kind).sub_(self._mean(offsets_B2))
        else:
            x = _mirrored(images_BHWC.to(kind).sub_(self._mean(offsets_B2)), mirror_B)
        if colour_BC is not None:
            # Whole rows at once: three numbers at a time would be slow.
            x.flatten(2).add_(colour_BC.to(kind).repeat(1, x.shape[2])[:, None, :])
        if noisy_B is not None and self.rescale != 1.0:
            x = x.mul_(torch.where(noisy_B, x.new_full((), self.rescale), 1.0)[:, None, None, None])
        if self.scale != 1.0:
            x = x.mul_(self.scale)
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


def _mirrored(images_BHWC: Tensor, mirror_B: Tensor | None) -> Tensor:
    """The images, left to right where mirror_B says so."""
    return (
        images_BHWC
        if mirror_B is None
        else torch.where(mirror_B[:, None, None, None], images_BHWC.flip(2), images_BHWC)
    )
