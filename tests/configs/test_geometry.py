"""The layer table against the shapes, sizes and operations of the real network, on random small networks."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.network import AlexNet, Column
from configs.geometry import conv_side, layers, pool_side, share
from configs.schema import Conv, Dense, Network, Pool, ResponseNorm, Sees, Step
from tests.reference import Reference

SEES: st.SearchStrategy[Sees] = st.sampled_from(["column", "all"])
THEN: st.SearchStrategy[tuple[Step, ...]] = st.sampled_from(
    [
        ("activation",),
        ("pool", "activation"),
        ("activation", "lrn", "pool"),
        ("spatial_lrn", "activation"),
        ("pool", "pool"),
    ]
)


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


def fits(network: Network) -> bool:
    try:
        Reference(network)
    except ValueError:
        return False
    return True


@settings(max_examples=120, deadline=None, derandomize=True)
@given(networks())
def test_table_equals_the_real_network(network: Network) -> None:
    if not fits(network):
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


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding", "expected"),
    [
        (224, 11, 4, 0, 55),
        (227, 11, 4, 0, 55),
        (228, 11, 4, 0, 56),
        (27, 5, 1, 2, 27),
        (13, 3, 1, 1, 13),
        (5, 5, 3, 0, 1),
    ],
)
def test_conv_side(side: int, kernel: int, stride: int, padding: int, expected: int) -> None:
    assert conv_side(side, kernel, stride, padding) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_pool_side_equals_torchs(size: int, stride: int) -> None:
    for side in range(size, 20):
        pooled = torch.nn.MaxPool2d(size, stride, ceil_mode=True)(torch.zeros(1, 1, side, side))
        assert pooled.shape[-1] == pool_side(side, size, stride), side


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_shares_are_torchs_chunks(columns: int) -> None:
    """The last shares may be empty (checks.py refuses such networks); torch leaves those out."""
    for total in range(1, 20):
        shares = [share(total, columns, column) for column in range(columns)]
        filled = [list(range(part.start, part.stop)) for part in shares if part.stop > part.start]
        assert filled == [chunk.tolist() for chunk in torch.arange(total).chunk(columns)]


def test_what_does_not_fit_is_named() -> None:
    conv = {"conv1": Conv(maps=2, kernel=3, then=("pool",))}
    with pytest.raises(ValueError, match=r"network\.convs\.conv1: a kernel of 3 does not fit 2 positions"):
        layers(Network(classes=2, input_size=2, convs=conv))
    with pytest.raises(ValueError, match=r"network\.convs\.conv1: a pooling window of 3 does not fit 2 positions"):
        layers(Network(classes=2, input_size=4, convs=conv))
