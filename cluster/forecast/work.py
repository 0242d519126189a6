"""What one process computes, moves and sends in a step, part by part, by arithmetic on the layer table. Needs no torch."""

from dataclasses import dataclass
from typing import Literal

from cluster.plan import FLOAT_BYTES, Plan
from configs.geometry import Layer

Kind = Literal["first_conv", "conv", "dense", "norm", "spatial_norm", "update", "other"]
INDEX_BYTES = 8
"""Of where a maximum was, which a pool keeps."""
UPDATE_BYTES = 5 * FLOAT_BYTES
"""Per parameter: weights, gradient and momentum are read, weights and momentum written."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Operations, and the least bytes that go through memory, of the forward and the backward pass."""

    name: str
    kind: Kind
    forward_flop: float = 0.0
    backward_flop: float = 0.0
    forward_bytes: float
    backward_bytes: float
    operations: int = 2
    """That the host gives to a GPU, both passes; roughly."""
    sent_bytes: float = 0.0
    """To the other columns' processes, in each pass; as many come back."""
    own: float = 1.0
    """Share of the forward pass that needs nothing from other processes."""
    parameters: int = 0


def of_process(plan: Plan, images: int) -> list[Part]:
    """The parts of one column process's pass over this many images, in order; the update is not among them."""
    network = plan.config.network
    share = plan.mesh.columns_per_process / network.columns
    each = images * (2 if plan.config.compute.precision == "bf16" and plan.mesh.device == "cuda" else FLOAT_BYTES)
    pixels = 3.0 * network.input_size**2
    # uint8 read; floats written, read again and written, for mean, mirror and colour.
    found = [_memory("preprocess", "other", images * pixels * (1 + 3 * FLOAT_BYTES), 0.0)]
    given = pixels
    for place, layer in enumerate(plan.table):
        if layer.kind != "conv" and plan.table[place - 1].kind == "conv":
            found.append(_memory("flatten", "other", 2 * given * each, 2 * given * each))
        made = layer.outputs * share * layer.side**2
        seen = given / share if layer.exchanges else given
        found.append(_weighted(plan, layer, images, each, seen + made, first=place == 0))
        given = made
        if layer.kind == "conv":
            after, given = _after_conv(plan, layer, images, made, each)
            found += after
        elif layer.kind == "dense":
            dense = network.denses[layer.name]
            if not dense.linear:
                found.append(_memory(f"{layer.name} activation", "other", 2 * made * each, 3 * made * each))
            if dense.dropout:
                found.append(_memory(f"{layer.name} dropout", "other", 2 * made * each, 2 * made * each))
    return found


def update(plan: Plan) -> Part:
    own = plan.parameters * plan.mesh.columns_per_process / plan.config.network.columns
    return Part(
        name="update",
        kind="update",
        forward_bytes=0.0,
        backward_bytes=UPDATE_BYTES * own,
        operations=2 * len(plan.table),
    )


def _memory(name: str, kind: Kind, forward_bytes: float, backward_bytes: float) -> Part:
    return Part(name=name, kind=kind, forward_bytes=forward_bytes, backward_bytes=backward_bytes)


def _weighted(plan: Plan, layer: Layer, images: int, each: float, floats: float, *, first: bool) -> Part:
    """floats: per image, read and written.

    The forward pass reads inputs and weights and writes outputs; with gradients in their places the gradient of the weights
    does the same, and that of the inputs, which nobody needs of the images.
    """
    share, others = plan.mesh.columns_per_process / plan.config.network.columns, plan.mesh.processes_per_replica - 1
    once = each * floats + FLOAT_BYTES * layer.weights * share
    passes = 1 if first else 2
    flop = 2.0 * images * layer.macs * share
    across = layer.exchanges and others > 0
    return Part(
        name=layer.name,
        kind="first_conv" if first else "conv" if layer.kind == "conv" else "dense",
        forward_flop=flop,
        backward_flop=passes * flop,
        forward_bytes=once,
        backward_bytes=passes * once,
        operations=16 if across else 4 + 2 * passes,
        sent_bytes=images * plan.sent_float_bytes * layer.exchanged_floats * others if across else 0.0,
        own=share if across else 1.0,
        parameters=int(layer.parameters * share),
    )


def _after_conv(plan: Plan, layer: Layer, images: int, size: float, each: float) -> tuple[list[Part], float]:
    """What follows a convolution, and floats per image that it leaves. A rectifier goes along with the norm after it."""
    network, found = plan.config.network, []
    steps = network.convs[layer.name].then
    for step, following in zip(steps, (*steps[1:], ""), strict=True):
        if step == "activation" and network.activation == "relu" and "lrn" in following:
            continue
        if step == "pool":
            made = size / layer.side**2 * layer.final_side**2
            moved = (size + made) * each + INDEX_BYTES * images * made
            found.append(_memory(f"{layer.name} pool", "other", moved, moved))
            size = made
        else:
            kind: Kind = "norm" if step == "lrn" else "spatial_norm" if step == "spatial_lrn" else "other"
            found.append(_memory(f"{layer.name} {step}", kind, 2 * size * each, 3 * size * each))
    return found, size
