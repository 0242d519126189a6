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

    def __init__(
        self, settings: Augment, statistics: PixelStatistics, crop: int, *, channels_last: bool = True
    ) -> None:
        """crop: side of the crops, in pixels; at most the side of the mean image. channels_last: the result's layout."""
        super().__init__()
        self.crop, self.mean, self.channels_last = crop, settings.mean, channels_last
        mean = torch.from_numpy(statistics.mean_SSC.astype(np.float32))
        if settings.mean == "channel":
            mean = mean.mean(dim=(0, 1), keepdim=True).expand_as(mean)
        self.register_buffer("mean_SSC", mean.contiguous())
        # The authors divide by 1 + strength, so that training and test images have about the same scale.
        noise = settings.colour_noise
        self.rescale = 1.0 / (1.0 + noise.strength) if noise is not None and noise.rescale else 1.0
        self.scale = settings.pixel_scale
        self._kept: Tensor | None = None

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
        Without the last three this is the testing form. On a CPU the next call writes over the result.
        """
        out = self._memory(images_BHWC)
        # Image by image on a CPU, whose cache holds one; a GPU takes the whole batch at once.
        each = 1 if images_BHWC.device.type == "cpu" else len(images_BHWC)
        for start in range(0, len(images_BHWC), each):
            part = slice(start, start + each)
            mirror, colour, noisy = (None if x is None else x[part] for x in (mirror_B, colour_BC, noisy_B))
            self._finish(images_BHWC[part], offsets_B2[part], mirror, colour, noisy, out[part])
        x_BCHW = out.permute(0, 3, 1, 2)
        # A convolution takes the layout of its input, whatever that of its weights.
        return x_BCHW if self.channels_last else x_BCHW.contiguous()

    def _finish(
        self,
        images_BHWC: Tensor,
        offsets_B2: Tensor,
        mirror_B: Tensor | None,
        colour_BC: Tensor | None,
        noisy_B: Tensor | None,
        out_BHWC: Tensor,
    ) -> None:
        """Some of a batch's images, into their place in the result."""
        mean = self._mean(offsets_B2)
        if self.mean == "centre":
            # The authors' code crops and mirrors, and subtracts the mean as it is (convdata_jpeg.py, __trim_borders). Mirroring
            # bytes moves a quarter of the memory.
            x = torch.sub(_mirrored(images_BHWC, mirror_B), mean, out=out_BHWC)
        elif mirror_B is None:
            x = torch.sub(images_BHWC, mean, out=out_BHWC)
        else:
            x = out_BHWC.copy_(_mirrored(images_BHWC - mean, mirror_B))
        if colour_BC is not None:
            # Whole rows at once: three numbers at a time would be slow.
            x.flatten(2).add_(colour_BC.to(x.dtype).repeat(1, x.shape[2])[:, None, :])
        if noisy_B is not None and self.rescale != 1.0:
            x.mul_(torch.where(noisy_B, x.new_full((), self.rescale), 1.0)[:, None, None, None])
        if self.scale != 1.0:
            x.mul_(self.scale)

    def _memory(self, images_BHWC: Tensor) -> Tensor:
        """For the result: on a CPU the same each time, for new memory costs as much as all that is computed into it."""
        shape, kind = images_BHWC.shape, self.mean_SSC.dtype
        if images_BHWC.device.type != "cpu":
            return torch.empty(shape, dtype=kind, device=images_BHWC.device)
        if self._kept is None or self._kept.dtype != kind or self._kept.numel() < shape.numel():
            self._kept = torch.empty(shape.numel(), dtype=kind)
        return self._kept[: shape.numel()].view(shape)

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
    if mirror_B is None:
        return images_BHWC
    if images_BHWC.device.type == "cpu" and len(mirror_B) == 1:  # where a look at it costs nothing, one way is enough
        return images_BHWC.flip(2) if mirror_B.item() else images_BHWC
    return torch.where(mirror_B[:, None, None, None], images_BHWC.flip(2), images_BHWC)
