"""The views of testing [P 4.1]: the centre of the stored image, or four corners and the centre, each with its mirror image."""

from collections.abc import Iterator

import torch
from torch import Tensor


def centre_view(images_BSSC: Tensor, crop: int) -> Iterator[tuple[Tensor, Tensor, None]]:
    """The centre alone, as `ten_views` gives its views; not mirrored."""
    centre = (images_BSSC.shape[1] - crop) // 2
    crops_BHWC = images_BSSC[:, centre : centre + crop, centre : centre + crop]
    yield crops_BHWC, torch.full((len(images_BSSC), 2), centre, device=images_BSSC.device), None


def ten_views(images_BSSC: Tensor, crop: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(crops uint8 [B, crop, crop, 3], their offsets int64 [B, 2] in the stored image, mirror bool [B]) of each view.

    images: uint8 [B, S, S, 3], whole as they are stored.
    """
    count, size = images_BSSC.shape[0], images_BSSC.shape[1]
    last, centre = size - crop, (size - crop) // 2
    for y, x in ((0, 0), (0, last), (last, 0), (last, last), (centre, centre)):
        crops_BHWC = images_BSSC[:, y : y + crop, x : x + crop]
        offsets_B2 = torch.tensor([[y, x]], device=images_BSSC.device).expand(count, 2)
        for mirrored in (False, True):
            yield crops_BHWC, offsets_B2, torch.full((count,), mirrored, device=images_BSSC.device)
