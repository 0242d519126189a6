"""The network, the preprocessing and the update once more, in the plainest PyTorch and numpy: what the tests compare with.

Nothing of `alexnet` is imported here but the counter hash, which has known answers of its own: the network is made of torch's
modules and differentiated by autograd, the masks and the images are computed in numpy, the update is the paper's formula.
Shape suffixes: B images, H and W positions, C maps or colours, D units, S side of a stored image.
"""

import math
from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.counter import GOLDEN, mix
from configs.schema import Conv, Network, ResponseNorm, StageSchedule


class ColumnwiseLinear(nn.Module):
    """One nn.Linear per column, each on its own part of the features [B, D]; the weights of all are kept stacked."""

    def __init__(self, inputs: int, outputs: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.weight = nn.Parameter(torch.zeros(outputs, inputs // columns))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x_BD: Tensor) -> Tensor:
        parts = zip(
            *(part.chunk(self.columns, d) for part, d in ((x_BD, 1), (self.weight, 0), (self.bias, 0))), strict=True
        )
        return torch.cat([F.linear(x, weight, bias) for x, weight, bias in parts], dim=1)


class LocallyConnected(nn.Module):
    """A convolution whose every position has weights and biases of its own, computed position by position.

    Weights [O, I * K * K, P] and biases [O, P], with positions P row by row; groups as in nn.Conv2d.
    """

    def __init__(self, inputs: int, side: int, conv: Conv, groups: int) -> None:
        super().__init__()
        self.conv, self.groups = conv, groups
        self.out = len(range(0, side + 2 * conv.padding - conv.kernel + 1, conv.stride))
        self.weight = nn.Parameter(torch.zeros(conv.maps, inputs // groups * conv.kernel**2, self.out**2))
        self.bias = nn.Parameter(torch.zeros(conv.maps, self.out**2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.pad(x_BCHW, (self.conv.padding,) * 4)
        y_BOHW = x_BCHW.new_empty(len(x_BCHW), self.conv.maps, self.out, self.out)
        for row in range(self.out):
            for column in range(self.out):
                top, left, place = row * self.conv.stride, column * self.conv.stride, row * self.out + column
                window = x_BCHW[:, :, top : top + self.conv.kernel, left : left + self.conv.kernel]
                parts = zip(
                    window.chunk(self.groups, 1),
                    self.weight[:, :, place].chunk(self.groups),
                    self.bias[:, place].chunk(self.groups),
                    strict=True,
                )
                y_BOHW[:, :, row, column] = torch.cat([F.linear(x.flatten(1), w, b) for x, w, b in parts], dim=1)
        return y_BOHW


class Reference(nn.Module):
    """The whole network of a config, float64, without weights of its own: `copy_weights` brings them.

    Shapes are found by pushing an image of zeros through the layers as they are added, not by a formula. Raises ValueError if a
    window is larger than what it slides over.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.layers = nn.ModuleDict()
        x = torch.zeros(1, 3, network.input_size, network.input_size, dtype=torch.float64)
        for number, (name, conv) in enumerate(network.convs.items()):
            groups = 1 if number == 0 or conv.sees == "all" else network.columns
            if conv.local:
                # Made for the side that `_conv` will give it, its overhang included.
                side = x.shape[-1] + -(x.shape[-1] + 2 * conv.padding - conv.kernel) % conv.stride
                self.layers[name] = LocallyConnected(x.shape[1], side, conv, groups).double()
            else:
                self.layers[name] = nn.Conv2d(
                    x.shape[1], conv.maps, conv.kernel, conv.stride, conv.padding, groups=groups, dtype=torch.float64
                )
            x = self._conv(name, conv, x)
        features = x.numel()
        for name, dense in network.denses.items():
            self.layers[name] = (
                nn.Linear(features, dense.units)
                if dense.sees == "all"
                else ColumnwiseLinear(features, dense.units, network.columns)
            ).double()
            features = dense.units
        self.layers["classifier"] = nn.Linear(features, network.classes).double()

    def forward(self, images_BCHW: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, classes]. masks: by layer, booleans [B, units] of the units that speak; used in training mode only."""
        x = images_BCHW
        for name, conv in self.network.convs.items():
            x = self._conv(name, conv, x)
        x = x.flatten(1)
        for name, dense in self.network.denses.items():
            x = self.layers[name](x) if dense.linear else self._activation(self.layers[name](x))
            if dense.dropout:
                x = x * masks[name] if self.training else x * (1 - dense.dropout)
        return cast(Tensor, self.layers["classifier"](x))

    def _conv(self, name: str, conv: Conv, x: Tensor) -> Tensor:
        _must_fit(conv.kernel, x.shape[-1] + 2 * conv.padding)
        # As many zeros at the right and the bottom as make the last, hanging window whole.
        missing = -(x.shape[-1] + 2 * conv.padding - conv.kernel) % conv.stride
        x = self.layers[name](F.pad(x, (0, missing, 0, missing)))
        for step in conv.then:
            if step == "activation":
                x = self._activation(x)
            elif step == "pool":
                _must_fit(self.network.pool.size, x.shape[-1])
                x = nn.MaxPool2d(self.network.pool.size, self.network.pool.stride, ceil_mode=True)(x)
            elif step == "lrn":
                assert self.network.lrn is not None
                parts = 1 if self.network.lrn.sees == "all" else self.network.columns
                x = torch.cat([norm_over_maps(self.network.lrn, own) for own in x.chunk(parts, 1)], dim=1)
            else:
                assert self.network.spatial_lrn is not None
                x = norm_over_positions(self.network.spatial_lrn, x)
        return x

    def _activation(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.network.activation == "relu" else torch.tanh(x)

    def parameter(self, layer: str, kind: str) -> nn.Parameter:
        """kind: "weights" or "biases", as in `AlexNet.parameter_layers`."""
        return cast(nn.Parameter, getattr(self.layers[layer], "weight" if kind == "weights" else "bias"))

    @torch.no_grad()
    def copy_weights(self, parameter_layers: Iterable[tuple[str, str, nn.Parameter]]) -> None:
        """Take the parameters of a whole AlexNet; their shapes must fit as they are."""
        copied = 0
        for layer, kind, parameter in parameter_layers:
            own = self.parameter(layer, kind)
            assert own.shape == parameter.shape, (layer, kind, own.shape, parameter.shape)
            own.copy_(parameter)
            copied += 1
        assert copied == len(list(self.parameters()))


def _must_fit(window: int, side: int) -> None:
    # torch itself takes some of these, and pads.
    if window > side:
        raise ValueError(f"a window of {window} on {side} positions")


def norm_over_maps(settings: ResponseNorm, x_BCHW: Tensor) -> Tensor:
    """torch's own response norm. It always divides alpha by the window, which is undone where the settings do not."""
    alpha = settings.alpha if settings.divide_alpha_by_window else settings.alpha * settings.size
    return nn.LocalResponseNorm(settings.size, alpha, settings.beta, settings.k)(x_BCHW)


def norm_over_positions(settings: ResponseNorm, x_BCHW: Tensor) -> Tensor:
    """Response norm over the square of positions around each one, the squares cut out one by one (F.unfold)."""
    size = settings.size
    before, after = size // 2, size - 1 - size // 2
    squares = F.pad(x_BCHW.square().flatten(0, 1)[:, None], (before, after, before, after))
    sums = F.unfold(squares, size).sum(dim=1).view(x_BCHW.shape)
    alpha = settings.alpha / size**2 if settings.divide_alpha_by_window else settings.alpha
    return x_BCHW / (settings.k + alpha * sums) ** settings.beta


def dropout_mask(keys_B: npt.NDArray[np.uint64], layer: int, units: int, dropout: float) -> npt.NDArray[np.bool_]:
    """[B, units], True where a unit speaks: two rounds of the counter hash, the upper 32 bits against the threshold."""
    per_image = mix(keys_B + np.uint64(GOLDEN * (layer + 1) % 2**64))
    per_unit = mix(np.arange(units, dtype=np.uint64) * np.uint64(GOLDEN))
    bits = mix(per_image[:, None] + per_unit[None, :])
    return (bits >> np.uint64(32)).astype(np.int64) >= math.floor(dropout * 2**32)


def masks(network: Network, keys_B: npt.NDArray[np.uint64]) -> dict[str, Tensor]:
    """Of all layers with dropout, by name. A layer's number counts the layers with weights, from 0."""
    return {
        name: torch.from_numpy(dropout_mask(keys_B, number, dense.units, dense.dropout))
        for number, (name, dense) in enumerate(network.denses.items(), start=len(network.convs))
        if dense.dropout
    }


def preprocessed(
    images_BHWC: npt.NDArray[np.uint8],
    mean_SSC: npt.NDArray[np.float32],
    offsets_B2: npt.NDArray[np.int64],
    *,
    mean: str,
    mirror_B: npt.NDArray[np.bool_] | None = None,
    colour_BC: npt.NDArray[np.float64] | None = None,
    noisy_B: npt.NDArray[np.bool_] | None = None,
    divisor: float = 1.0,
    scale: float = 1.0,
) -> npt.NDArray[np.float64]:
    """Images [B, C, H, W] for the network, one at a time.

    mean: as in the settings. divisor: what the images of noisy_B are divided by. scale: what all pixels are multiplied by.
    For testing, mirror_B, colour_BC and noisy_B are left out.
    """
    crop, side = images_BHWC.shape[1], mean_SSC.shape[0]
    wide = mean_SSC.astype(np.float64)
    out = []
    for number, image_HWC in enumerate(images_BHWC):
        x = image_HWC.astype(np.float64)
        mirrored = mirror_B is not None and mirror_B[number]
        if mean == "position":  # the stored image's own mean, so before anything is turned round
            top, left = offsets_B2[number]
            x = x - wide[top : top + crop, left : left + crop]
        elif mean == "channel":
            x = x - np.array([wide[:, :, colour].mean() for colour in range(3)])
        if mirrored:
            x = x[:, ::-1]
        if mean == "centre":  # after mirroring, as the authors' code does
            start = (side - crop) // 2
            x = x - wide[start : start + crop, start : start + crop]
        if colour_BC is not None:
            x = x + colour_BC[number]
        if noisy_B is not None and noisy_B[number]:
            x = x / divisor
        out.append(x.transpose(2, 0, 1) * scale)
    return np.stack(out)


@torch.no_grad()
def probabilities_of(
    model: Reference,
    images_BSSC: npt.NDArray[np.uint8],
    mean_SSC: npt.NDArray[np.float32],
    views: int,
    *,
    mean: str,
    scale: float = 1.0,
) -> Tensor:
    """Probabilities [B, classes] by the centre of stored images; views 10: the mean over it, the corners and their mirrors."""
    side = model.network.input_size
    last, count = images_BSSC.shape[1] - side, len(images_BSSC)
    centre = (last // 2, last // 2)
    cuts = [(centre, False)]
    if views == 10:
        corners = [(0, 0), (0, last), (last, 0), (last, last)]
        cuts = [(at, turned) for at in (*corners, centre) for turned in (False, True)]
    found = []
    for (y, x), turned in cuts:
        crops, offsets = images_BSSC[:, y : y + side, x : x + side], np.full((count, 2), (y, x))
        pixels = preprocessed(crops, mean_SSC, offsets, mean=mean, mirror_B=np.full(count, turned), scale=scale)
        found.append(model.eval()(torch.from_numpy(pixels), {}).softmax(dim=1))
    return torch.stack(found).mean(dim=0)


def sums(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """[images, loss, top-1 errors, top-5 errors], float64; by how many classes are ahead of the true one."""
    ahead_B = (logits_BC > logits_BC.gather(1, labels_B[:, None])).sum(dim=1)
    loss = F.cross_entropy(logits_BC, labels_B, reduction="sum").item()
    errors = [int((ahead_B >= k).sum()) for k in (1, 5)]
    return torch.tensor([len(labels_B), loss, *errors], dtype=torch.float64)


def stage_rate(schedule: StageSchedule, epoch: float, layer: str, kind: str) -> float:
    """Of the last stage so far that names the layer, or else of the last one that has a rate for all."""
    begun = [stage for stage in schedule.stages if stage.from_epoch <= epoch]
    own = [getattr(stage.layers[layer], kind) for stage in begun if layer in stage.layers]
    of_all = [getattr(stage, kind) for stage in begun]
    rates = [rate for rate in own if rate is not None] or [rate for rate in of_all if rate is not None]
    return float(rates[-1])


@torch.no_grad()
def paper_update(
    parameter: Tensor, step: Tensor, gradient: Tensor, *, rate: float, momentum: float, decay: float
) -> None:
    """v <- momentum v - decay rate w - rate gradient;  w <- w + v  [P 5]. A rate of 0 freezes both."""
    if rate == 0:
        return
    step.copy_(momentum * step - decay * rate * parameter - rate * gradient)
    parameter.copy_(parameter + step)
