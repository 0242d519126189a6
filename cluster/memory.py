"""What a column's process keeps in memory, by arithmetic on the layer table."""

from collections.abc import Iterable
from dataclasses import dataclass

from configs.geometry import Layer
from configs.schema import Config, Conv

FLOAT_BYTES = 4
INDEX_BYTES = 8
MASK_BYTES = 1

# Measured on CPUs (docs/measurements.md): Python, torch and Ray; the compiler once it has been used; and how much more than what
# lives at once a heap takes from which nothing is given back (cluster/environment.py).
LIBRARIES_BYTES = 410_000_000
COMPILER_BYTES = 200_000_000
HEAP_FACTOR = 1.56

BATCHES_AHEAD = 3
"""uint8 batches: in use, waiting, and in the hands of the thread that fetches."""
FLOAT_BATCHES = 1
"""Preprocessed: the memory that is used again for each batch."""
PASSING_TENSORS = 2
"""As large as the largest maps: gradients of a layer's input and output."""
UNFUSED_TENSORS = 5
"""More of these, where a norm is not compiled."""


@dataclass(frozen=True, kw_only=True)
class ColumnMemory:
    """Bytes beside the parameters, their gradients and their momentum."""

    tensors: int
    """Of batches, of what the forward pass keeps for the backward pass, and of what comes and goes in that."""
    compiled: bool

    @property
    def on_cpu(self) -> int:
        return LIBRARIES_BYTES + self.compiled * COMPILER_BYTES + int(HEAP_FACTOR * self.tensors)


def of_column(
    config: Config, table: Iterable[Layer], images: int, columns_per_process: int, processes: int
) -> ColumnMemory:
    """images: per replica and step. processes: that share the columns of a replica."""
    network, table = config.network, tuple(table)
    share = columns_per_process / network.columns
    largest = max(layer.outputs * layer.side**2 for layer in table) * share * FLOAT_BYTES
    normed = any("lrn" in step for conv in network.convs.values() for step in conv.then)
    passing = PASSING_TENSORS + (UNFUSED_TENSORS if normed and not config.compute.fused else 0)
    picture = 3 * network.input_size**2
    each = (
        kept_bytes(config, table, columns_per_process, processes)
        + passing * largest
        + (FLOAT_BATCHES * FLOAT_BYTES + BATCHES_AHEAD) * picture
    )
    return ColumnMemory(tensors=int(images * each), compiled=config.compute.fused or config.compute.compile)


def kept_bytes(config: Config, table: Iterable[Layer], columns_per_process: int, processes: int) -> int:
    """Of what a forward pass keeps for the backward pass, per image, in float32."""
    network, rows, total = config.network, tuple(table), 0
    for number, layer in enumerate(rows):
        outputs = layer.outputs * columns_per_process // network.columns
        if number == 0:
            total += layer.inputs * (layer.input_side + layer.overhang) ** 2 * FLOAT_BYTES
        elif layer.exchanges and processes > 1:
            # What the columns sent, this one's own copy among it.
            total += layer.inputs * layer.input_side**2 * FLOAT_BYTES
        if layer.kind == "conv":
            conv = network.convs[layer.name]
            if conv.local:  # every position's inputs, side by side
                copies = 1 if number == 0 or conv.sees == "all" else columns_per_process
                total += copies * layer.inputs * conv.kernel**2 * layer.side**2 * FLOAT_BYTES
            above = network.convs.get(rows[number + 1].name)
            read = above is None or not above.local
            total += _after_conv_bytes(conv, layer, outputs, network.activation == "relu", read=read)
            last = number + 1 == len(network.convs) and conv.then[-1:] == ("activation",)
            if last and config.compute.channels_last and layer.final_side > 1:
                total += outputs * layer.final_side**2 * FLOAT_BYTES  # once more, in the order of units
        elif layer.kind == "dense":
            masked = network.denses[layer.name].dropout > 0
            total += outputs * (FLOAT_BYTES + masked * (FLOAT_BYTES + MASK_BYTES))
    return total


def _after_conv_bytes(conv: Conv, layer: Layer, outputs: int, rectified: bool, *, read: bool) -> int:
    """Of maps that are kept: what a norm, a pool or the next layer is given, and what an activation gives.

    read: whether the next layer keeps what it is given; a locally connected one keeps its positions' inputs instead.
    """
    size, total, kept = outputs * layer.side**2, 0, False
    for step, following in zip(conv.then, (*conv.then[1:], ""), strict=True):
        if step == "activation":
            if rectified and "lrn" in following:
                continue  # in one pass with the norm, which keeps what comes before both
            total += size * FLOAT_BYTES
            kept = True
            continue
        total += 0 if kept else size * FLOAT_BYTES
        kept = False
        if step == "pool":
            size = outputs * layer.final_side**2
            total += size * INDEX_BYTES
    return total if kept or not read else total + size * FLOAT_BYTES
