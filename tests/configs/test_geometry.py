"""The layer table against the shapes, sizes and operations of the real network, on random small networks.

And the figures of original.yaml, written down: the paper's network has these numbers, whatever the code computes. They follow
from the authors' layers-145.cfg by hand; the paper itself says 60 million parameters.
"""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.network import AlexNet, Column
from configs.geometry import layers, share
from configs.loader import load
from configs.schema import Conv, Dense, Network, Pool, ResponseNorm, Sees, Step
from tests.reference import Reference

SEES: st.SearchStrategy[Sees] = st.sampled_from(["column", "all"])
STEPS: list[tuple[Step, ...]] = [("activation",), ("pool", "activation"), ("activation", "lrn", "pool")]
THEN = st.sampled_from([*STEPS, ("spatial_lrn", "activation"), ("pool", "pool")])


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any small network, fitting or not."""
    columns = draw(st.integers(1, 3))

    def conv(number: int) -> Conv:
        return Conv(
            maps=columns * draw(st.integers(1, 3)),
            kernel=draw(st.integers(1, 5)),
            stride=draw(st.integers(1, 4)),
            padding=draw(st.integers(0, 2)),
            sees=draw(SEES),
            then=draw(THEN),
        )

    return Network(
        columns=columns,
        classes=draw(st.integers(2, 4)) * columns,
        input_size=draw(st.integers(5, 24)),
        lrn=ResponseNorm(size=3),
        spatial_lrn=ResponseNorm(size=2),
        pool=Pool(size=draw(st.integers(1, 3)), stride=draw(st.integers(1, 3))),
        convs={f"conv{number}": conv(number) for number in range(draw(st.integers(1, 3)))},
        denses={
            f"fc{number}": Dense(units=columns * draw(st.integers(1, 4)), sees=draw(SEES))
            for number in range(draw(st.integers(0, 2)))
        },
    )


def observe(model: AlexNet) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Input and output shapes of every layer, without the batch, in one real forward pass."""
    network = model.network
    into: dict[str, tuple[int, ...]] = {}
    out: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> Any:
        def note(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            into[name], out[name] = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])

        return note

    for name, part in model.parts.items():
        if isinstance(part, Column):
            part.register_forward_hook(hook(name))
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, network.input_size, network.input_size))
    assert logits.shape == (1, network.classes)
    return into, out


@settings(max_examples=120)
@given(networks())
def test_table_equals_the_real_network(network: Network) -> None:
    try:
        Reference(network)
    except ValueError:
        with pytest.raises(ValueError, match=r"^network\.convs\.conv\d: .* does not fit"):
            layers(network)
        return
    table, model = layers(network), AlexNet(network).eval()
    into, out = observe(model)
    weights = {name: part.weight for name, part in model.parts.items() if isinstance(part, Column)}
    for number, layer in enumerate(table):
        assert weights[layer.name].numel() == layer.weights
        assert weights[layer.name].numel() + layer.outputs == layer.parameters
        # Each number that comes out is one row of weights times as many inputs.
        assert math.prod(out[layer.name]) * weights[layer.name][0].numel() == layer.macs
        if layer.kind == "conv":
            assert into[layer.name][1:] == (layer.input_side, layer.input_side)
            assert out[layer.name] == (layer.outputs, layer.side, layer.side)
            following = table[number + 1]
            assert following.input_side == layer.final_side
        else:
            assert out[layer.name] == (layer.outputs,)
            seen = layer.inputs * layer.input_side**2
            assert into[layer.name] == (seen if layer.exchanges else seen * network.columns,)
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(layer.parameters for layer in table)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_shares_are_torchs_chunks(columns: int) -> None:
    """The last shares may be empty (checks.py refuses such networks); torch leaves those out."""
    for total in range(1, 20):
        shares = [share(total, columns, column) for column in range(columns)]
        filled = [list(range(part.start, part.stop)) for part in shares if part.stop > part.start]
        assert filled == [chunk.tolist() for chunk in torch.arange(total).chunk(columns)]


# layer: weights, biases, multiply-accumulates per image, inputs that one output sees, output side, side after pooling
TABLE = {
    "conv1": (34_848, 96, 105_415_200, 3, 55, 27),
    "conv2": (307_200, 256, 223_948_800, 48, 27, 13),
    "conv3": (884_736, 384, 149_520_384, 256, 13, 13),
    "conv4": (663_552, 384, 112_140_288, 192, 13, 13),
    "conv5": (442_368, 256, 74_760_192, 192, 13, 6),
    "fc6": (37_748_736, 4_096, 37_748_736, 256, 1, 1),
    "fc7": (16_777_216, 4_096, 16_777_216, 4_096, 1, 1),
    "classifier": (4_096_000, 1_000, 4_096_000, 4_096, 1, 1),
}


@pytest.mark.parametrize("file", ["original.yaml", "paper.yaml"])
def test_layer_table(file: str) -> None:
    network = load(file).network
    table = layers(network)
    found = {
        layer.name: (layer.weights, layer.outputs, layer.macs, layer.inputs, layer.side, layer.final_side)
        for layer in table
    }
    assert found == TABLE and list(found) == list(TABLE)
    assert [layer.overhang for layer in table] == [3, 0, 0, 0, 0, 0, 0, 0]
    assert [layer.exchanged_floats for layer in table] == [0, 0, 21_632, 0, 0, 4_608, 2_048, 2_048]
    assert not any(layer.exchanged_floats for layer in layers(dataclasses.replace(network, columns=1)))
    assert sum(layer.parameters for layer in table) == 60_965_224
    assert sum(layer.macs for layer in table) == 724_406_816
