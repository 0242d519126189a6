"""The paper's dropout [P 4.2]: units are silent in training and not rescaled; in testing all are scaled down.

Whether a unit is silent is a pure function of the image's key (made of seed, epoch and position in the epoch), the layer and
the unit's number in the whole network. So masks do not depend on how columns or replicas are spread over processes.
"""

import torch
from torch import Tensor, nn

from alexnet.counter import GOLDEN, MULTIPLIERS


def _signed(value: int) -> int:
    """The 64-bit pattern as torch's int64 holds it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(values: Tensor) -> Tensor:
    """`alexnet.counter.mix` on an int64 tensor, in place. Its products wrap, and its right shift keeps the sign.

    In place because a batch's masks are megabytes in a dozen operations: 20 times faster than making each anew.
    """
    for shift, multiplier in MULTIPLIERS:
        values ^= (values >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if multiplier is not None:
            values *= _signed(multiplier)
    return values


# The compiler's code for the products that wrap gives other bits (torch 2.13, CPU), and masks must not depend on it.
@torch.compiler.disable
def keep_mask(keys_B: Tensor, layer: int, first_unit: int, units: int, dropout: float) -> Tensor:
    """Booleans [B, units]: True where a unit speaks, with probability 1 - dropout.

    keys_B: int64 [B], one key per image. layer: the layer's number in the network. first_unit: number in the whole
    network of the first unit wanted.
    """
    per_image = _mix(keys_B + _signed((GOLDEN * (layer + 1)) % (1 << 64)))
    unit = torch.arange(first_unit, first_unit + units, device=keys_B.device, dtype=torch.int64)
    bits = _mix(per_image[:, None] + _mix(unit * _signed(GOLDEN))[None, :])
    # Bits as unsigned numbers against dropout * 2^64; both lowered by 2^63 for a comparison with signs.
    threshold = (int(dropout * (1 << 32)) << 32) - (1 << 63)
    return bits.bitwise_xor_(-(1 << 63)) >= threshold


class Dropout(nn.Module):
    """Dropout for units [first_unit, first_unit + units) of a layer of the whole network."""

    def __init__(self, dropout: float, *, layer: int, first_unit: int, units: int) -> None:
        super().__init__()
        self.dropout, self.layer, self.first_unit, self.units = dropout, layer, first_unit, units

    def forward(self, features_BD: Tensor, keys_B: Tensor | None) -> Tensor:
        if not self.training:
            return features_BD * (1.0 - self.dropout)
        if keys_B is None:
            raise ValueError("training with dropout needs one key per image; pass keys_B, or call eval() first")
        return features_BD * keep_mask(keys_B, self.layer, self.first_unit, self.units, self.dropout)
