"""The layer table as arithmetic: shapes, parameters, multiply-accumulates and floats exchanged, from the config alone.

Everything that plans, checks or builds the network reads this one table. It needs no torch.
"""

import math
from dataclasses import dataclass
from typing import Literal

from configs.schema import Conv, Network


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer with weights, of the whole network. Sizes in maps or units, sides in positions."""

    name: str
    kind: Literal["conv", "dense", "classifier"]
    inputs: int
    """Maps or units of the layer below that one output sees (the depth of its kernel)."""
    outputs: int
    """Maps, units or classes of the whole network."""
    input_side: int
    """Side of the input maps; 1 below a hidden layer of units."""
    side: int
    """Side of the maps before pooling; 1 for a dense layer."""
    overhang: int
    """Zeros that the last window reads beyond the right and bottom edge, per axis."""
    final_side: int
    """Side of the maps after all that follows the layer; 1 for a dense layer."""
    exchanges: bool
    """Whether a column needs the other columns' part of the layer below."""
    exchanged_floats: int
    """Floats per image that one column sends to each other column in the forward pass, before this layer."""
    weight_shape: tuple[int, ...]
    """Of the whole network's weights; dim 0 is the outputs."""
    bias_shape: tuple[int, ...]
    macs: int
    """Multiply-accumulates per image of the whole network."""

    @property
    def weights(self) -> int:
        return math.prod(self.weight_shape)

    @property
    def biases(self) -> int:
        return math.prod(self.bias_shape)

    @property
    def parameters(self) -> int:
        return self.weights + self.biases


def conv_side(side: int, kernel: int, stride: int, padding: int) -> int:
    """Output side of a convolution whose last window may hang over: 1 + ceil((side + 2 padding - kernel) / stride)."""
    return 1 + math.ceil((side + 2 * padding - kernel) / stride)


def pool_side(side: int, size: int, stride: int) -> int:
    """Output side of a pooling layer whose last window may hang over, but starts inside the map."""
    out = 1 + math.ceil((side - size) / stride)
    return out - 1 if (out - 1) * stride >= side else out


def share(total: int, columns: int, column: int) -> slice:
    """The part of `total` that `column` owns: equal shares, or the first ones larger by up to one chunk (as torch.chunk)."""
    chunk = -(-total // columns)
    return slice(min(column * chunk, total), min((column + 1) * chunk, total))


def layers(network: Network) -> list[Layer]:
    """The layers with weights, in order.

    Raises ValueError if a kernel or a pooling window does not fit what is below it.
    """
    table: list[Layer] = []
    side, maps = network.input_size, 3
    for name, conv in network.convs.items():
        table.append(_conv_layer(network, name, conv, side, maps, first=not table))
        side, maps = table[-1].final_side, conv.maps
    units, below = maps, side
    for name, dense in network.denses.items():
        table.append(_dense_layer(network, name, "dense", units, below, dense.units, dense.sees == "all"))
        units, below = dense.units, 1
    table.append(_dense_layer(network, "classifier", "classifier", units, below, network.classes, True))
    return table


def _conv_layer(network: Network, name: str, conv: Conv, side: int, maps: int, *, first: bool) -> Layer:
    if conv.kernel > side + 2 * conv.padding:
        raise ValueError(
            f"network.convs.{name}: a kernel of {conv.kernel} does not fit {side} positions with padding "
            f"{conv.padding}; use a larger network.input_size, a smaller kernel or less pooling below"
        )
    out = conv_side(side, conv.kernel, conv.stride, conv.padding)
    final = out
    for step in conv.then:
        if step == "pool":
            if network.pool.size > final:
                raise ValueError(
                    f"network.convs.{name}: a pooling window of {network.pool.size} does not fit {final} positions; "
                    "use a larger network.input_size or take `pool` out of a layer's `then`"
                )
            final = pool_side(final, network.pool.size, network.pool.stride)
    crosses = conv.sees == "all" and not first
    depth = maps if first or conv.sees == "all" else maps // network.columns
    return Layer(
        name=name,
        kind="conv",
        inputs=depth,
        outputs=conv.maps,
        input_side=side,
        side=out,
        overhang=max(0, (out - 1) * conv.stride + conv.kernel - side - 2 * conv.padding),
        final_side=final,
        exchanges=crosses,
        exchanged_floats=maps // network.columns * side * side if crosses and network.columns > 1 else 0,
        # Position by position in the last dim, where each has weights of its own.
        weight_shape=(conv.maps, depth * conv.kernel**2, out * out)
        if conv.local
        else (conv.maps, depth, conv.kernel, conv.kernel),
        bias_shape=(conv.maps, out * out) if conv.local else (conv.maps,),
        macs=conv.maps * out * out * depth * conv.kernel**2,
    )


def _dense_layer(
    network: Network,
    name: str,
    kind: Literal["dense", "classifier"],
    units: int,
    side: int,
    outputs: int,
    crosses: bool,
) -> Layer:
    depth = units if crosses else units // network.columns
    return Layer(
        name=name,
        kind=kind,
        inputs=depth,
        outputs=outputs,
        input_side=side,
        side=1,
        overhang=0,
        final_side=1,
        exchanges=crosses,
        exchanged_floats=units // network.columns * side * side if crosses and network.columns > 1 else 0,
        weight_shape=(outputs, depth * side * side),
        bias_shape=(outputs,),
        macs=outputs * depth * side * side,
    )
