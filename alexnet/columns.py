"""The layers with weights, as far as a process's own columns go: convolutional, locally connected, fully connected.

Every parameter of the whole network is split along dim 0 (output maps, units or classes), so a column's parameters are rows of
the whole network's.

Shape suffixes: B images, C maps and O output maps of the owned columns, H and W positions, P all positions, D units, G groups,
I inputs of one output.
"""

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.across import Convolution, Product, across_columns
from alexnet.exchange import Exchange
from configs.geometry import Layer


class Column(nn.Module):
    """Base of the layers with weights: parameters of some columns, started as rows of the whole network's."""

    def __init__(self, layer: Layer, owned: slice, *, seed: int, std: float, bias: float) -> None:
        super().__init__()
        self.layer, self.owned = layer, owned
        self.weight = nn.Parameter(_normal(layer.weight_shape, seed, layer.name, std)[owned].clone())
        self.bias = nn.Parameter(torch.full((owned.stop - owned.start, *layer.bias_shape[1:]), bias))


class ConvColumn(Column):
    """The owned columns' maps of a convolutional layer.

    groups: 1 if the input holds everything that each column sees, else the number of owned columns.
    """

    def __init__(
        self,
        layer: Layer,
        owned: slice,
        *,
        stride: int,
        padding: int,
        groups: int,
        seed: int,
        std: float,
        bias: float,
    ) -> None:
        super().__init__(layer, owned, seed=seed, std=std, bias=bias)
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, x_BCHW: Tensor, exchange: Exchange | None = None) -> Tensor:
        if self.layer.overhang:
            # The last window hangs over the right and bottom edge and reads zeros (authors' layer.py, convnet's ceil).
            x_BCHW = F.pad(x_BCHW, (0, self.layer.overhang, 0, self.layer.overhang))
        if exchange is not None:
            convolution = Convolution(self.stride, self.padding)
            return across_columns(x_BCHW, self.weight, self.bias, exchange, convolution)
        return F.conv2d(x_BCHW, self.weight, self.bias, self.stride, self.padding, groups=self.groups)


class LocalColumn(Column):
    """The owned columns' maps of a locally connected layer; groups as in `ConvColumn`.

    Weights [O, inputs * K * K, P] and biases [O, P], with P the positions of the output and K the side of the kernel.
    """

    def __init__(
        self,
        layer: Layer,
        owned: slice,
        *,
        kernel: int,
        stride: int,
        padding: int,
        groups: int,
        seed: int,
        std: float,
        bias: float,
    ) -> None:
        super().__init__(layer, owned, seed=seed, std=std, bias=bias)
        self.kernel, self.stride, self.padding, self.groups = kernel, stride, padding, groups

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.layer.overhang:
            x_BCHW = F.pad(x_BCHW, (0, self.layer.overhang, 0, self.layer.overhang))
        patches_BIP = F.unfold(x_BCHW, self.kernel, padding=self.padding, stride=self.stride)
        patches_BGIP = patches_BIP.unflatten(1, (self.groups, -1))
        y_BOP = torch.einsum("bgip,goip->bgop", patches_BGIP, self.weight.unflatten(0, (self.groups, -1))).flatten(1, 2)
        return (y_BOP + self.bias.to(y_BOP.dtype)).unflatten(2, (self.layer.side, self.layer.side))


class DenseColumn(Column):
    """The owned columns' units of a fully connected layer; groups as in `ConvColumn`."""

    def __init__(self, layer: Layer, owned: slice, *, groups: int, seed: int, std: float, bias: float) -> None:
        super().__init__(layer, owned, seed=seed, std=std, bias=bias)
        self.groups = groups

    def forward(self, x_BD: Tensor, exchange: Exchange | None = None) -> Tensor:
        if exchange is not None:
            return across_columns(x_BD, self.weight, self.bias, exchange, Product())
        if self.groups == 1:
            return F.linear(x_BD, self.weight, self.bias)
        x_BGD, weight_GOD = x_BD.unflatten(1, (self.groups, -1)), self.weight.unflatten(0, (self.groups, -1))
        y_BD = torch.einsum("bgd,god->bgo", x_BGD, weight_GOD).flatten(1)
        return y_BD + self.bias.to(y_BD.dtype)


def _normal(shape: tuple[int, ...], seed: int, name: str, std: float) -> Tensor:
    """The whole network's initial weights of one layer, from a generator of its own."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    # Drawn in rows of one long vector: torch draws short tensors in another way than long ones.
    values = torch.empty(max(16, math.prod(shape))).normal_(0.0, std, generator=generator)
    return values[: math.prod(shape)].view(shape)
