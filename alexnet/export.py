"""The whole network in its testing form, made of torch's own modules: for other code, and for export.

What comes out needs nothing of this project: a `torch.fx.GraphModule` of nn.Conv2d, nn.Linear, nn.LocalResponseNorm,
nn.MaxPool2d and their like. It can be printed as code (`print(module.code)`), saved with torch.save or torch.export, converted
to ONNX, and trained further (it has no dropout masks: units are scaled by 1 - dropout, as in testing).
"""

from collections.abc import Iterator

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.network import AlexNet, Column
from configs.geometry import Layer, layers
from configs.schema import Conv, Network, ResponseNorm


def plain_module(model: AlexNet) -> torch.fx.GraphModule:
    """Logits [B, classes] of preprocessed images [B, 3, input_size, input_size], with copies of the model's weights.

    Equal to `model.eval()` up to rounding. model: owns all columns. Parameters are called `conv1.weight`, `classifier.bias` ...,
    and have the shapes of the whole network's; a fully connected layer that sees its own column alone is a grouped nn.Conv1d,
    and a locally connected one an nn.Unfold and a product.
    """
    assert model.columns == model.network.columns, "a part of the columns is no network"
    plain = nn.Sequential()
    for name, module in _modules(model.network):
        plain.add_module(name, module)
    first = next(model.parameters())
    plain = plain.to(dtype=first.dtype, device=first.device)
    for name in model.parts:
        part = model.parts[name]
        if isinstance(part, Column):
            target = plain.get_submodule(name)
            with torch.no_grad():
                for own, theirs in ((target.weight, part.weight), (target.bias, part.bias)):
                    assert isinstance(own, nn.Parameter)
                    own.copy_(theirs.view_as(own))
    # Tracing dissolves the classes of this file, and leaves torch's.
    return torch.fx.symbolic_trace(plain.eval())


def _modules(network: Network) -> Iterator[tuple[str, nn.Module]]:
    """What has no weights is called by a name with _ first, as no layer is."""
    table = {layer.name: layer for layer in layers(network)}
    for number, (name, conv) in enumerate(network.convs.items()):
        yield from _convolution(network, table[name], conv, groups=1 if number == 0 else network.columns)
    yield "_flatten", nn.Flatten()
    for name, dense in network.denses.items():
        yield from _dense(network, table[name])
        if not dense.linear:
            yield f"_{name}_activation", _activation(network)
        if dense.dropout:
            yield f"_{name}_dropout", _Scale(1.0 - dense.dropout)
    yield from _dense(network, table["classifier"])


def _convolution(network: Network, layer: Layer, conv: Conv, groups: int) -> Iterator[tuple[str, nn.Module]]:
    """groups: of a layer that sees its own column alone."""
    if layer.overhang:
        yield f"_{layer.name}_overhang", nn.ZeroPad2d((0, layer.overhang, 0, layer.overhang))
    groups = 1 if conv.sees == "all" else groups
    if conv.local:
        yield layer.name, _LocalConv(layer, conv, groups)
    else:
        maps = layer.inputs * groups
        yield layer.name, nn.Conv2d(maps, conv.maps, conv.kernel, conv.stride, conv.padding, groups=groups)
    for number, step in enumerate(conv.then):
        name = f"_{layer.name}_{number}_{step}"
        if step == "activation":
            yield name, _activation(network)
        elif step == "pool":
            yield name, nn.MaxPool2d(network.pool.size, network.pool.stride, ceil_mode=True)
        elif step == "lrn":
            assert network.lrn is not None
            yield name, _ColumnNorm(network.lrn, 1 if network.lrn.sees == "all" else network.columns)
        else:
            assert network.spatial_lrn is not None
            yield name, _SpatialNorm(network.spatial_lrn)


def _dense(network: Network, layer: Layer) -> Iterator[tuple[str, nn.Module]]:
    features = layer.inputs * layer.input_side**2
    if layer.exchanges or network.columns == 1:
        yield layer.name, nn.Linear(features, layer.outputs)
        return
    yield f"_{layer.name}_apart", nn.Unflatten(1, (features * network.columns, 1))
    yield layer.name, nn.Conv1d(features * network.columns, layer.outputs, 1, groups=network.columns)
    yield f"_{layer.name}_together", nn.Flatten()


def _activation(network: Network) -> nn.Module:
    return nn.ReLU() if network.activation == "relu" else nn.Tanh()


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _LocalConv(nn.Module):
    """A convolution whose weights [O, inputs * K * K, P] and biases [O, P] differ from position P to position."""

    def __init__(self, layer: Layer, conv: Conv, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.weight_shape))
        self.bias = nn.Parameter(torch.empty(layer.bias_shape))
        self.patches = nn.Unfold(conv.kernel, padding=conv.padding, stride=conv.stride)
        self.groups, self.side = groups, layer.side

    def forward(self, x_BCHW: Tensor) -> Tensor:
        patches_BGIP = self.patches(x_BCHW).unflatten(1, (self.groups, -1))
        weight_GOIP = self.weight.unflatten(0, (self.groups, -1))
        y_BOP = torch.einsum("bgip,goip->bgop", patches_BGIP, weight_GOIP).flatten(1, 2) + self.bias
        return y_BOP.unflatten(2, (self.side, self.side))


class _ColumnNorm(nn.Module):
    """Over neighbouring maps of each column; torch's norm always divides alpha by the window."""

    def __init__(self, settings: ResponseNorm, columns: int) -> None:
        super().__init__()
        alpha = settings.alpha if settings.divide_alpha_by_window else settings.alpha * settings.size
        self.columns = columns
        self.norm = nn.LocalResponseNorm(settings.size, alpha, settings.beta, settings.k)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.columns == 1:
            return self.norm(x_BCHW)
        apart = x_BCHW.unflatten(1, (self.columns, -1)).flatten(0, 1)
        return self.norm(apart).unflatten(0, (-1, self.columns)).flatten(1, 2)


class _SpatialNorm(nn.Module):
    """Over neighbouring positions of each map."""

    def __init__(self, settings: ResponseNorm) -> None:
        super().__init__()
        # The mean over a window that reads zeros beyond the edge; so alpha is multiplied by the window, or is what it is.
        self.alpha = settings.alpha if settings.divide_alpha_by_window else settings.alpha * settings.size**2
        self.size, self.beta, self.k = settings.size, settings.beta, settings.k
        before, after = settings.size // 2, settings.size - 1 - settings.size // 2
        self.pad = (before, after, before, after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        means = F.avg_pool2d(F.pad(x_BCHW * x_BCHW, self.pad), self.size, stride=1)
        return x_BCHW / (means * self.alpha + self.k).pow(self.beta)
