"""The figures of original.yaml, written down: the paper's network has these numbers, whatever the code computes.

They follow from the authors' layers-145.cfg by hand; the paper itself says 60 million parameters.
"""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alexnet.network import AlexNet
from configs.geometry import layers
from configs.loader import load
from configs.schema import Network

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

BUILT_IN = ["original.yaml", "paper.yaml"]


@pytest.fixture(scope="module")
def network() -> Network:
    return load("original.yaml").network


@pytest.mark.parametrize("file", BUILT_IN)
def test_layer_table(file: str) -> None:
    table = layers(load(file).network)
    found = {
        layer.name: (layer.weights, layer.outputs, layer.macs, layer.inputs, layer.side, layer.final_side)
        for layer in table
    }
    assert found == TABLE
    assert [layer.name for layer in table] == list(TABLE)


@pytest.mark.parametrize("file", BUILT_IN)
def test_totals(file: str) -> None:
    table = layers(load(file).network)
    assert sum(layer.parameters for layer in table) == 60_965_224
    assert sum(layer.macs for layer in table) == 724_406_816


def test_conv1_hangs_over_by_three(network: Network) -> None:
    assert [layer.overhang for layer in layers(network)] == [3, 0, 0, 0, 0, 0, 0, 0]


def test_exchange(network: Network) -> None:
    """Floats per image that a column sends to the other one, before the layers that see both."""
    sent = {layer.name: layer.exchanged_floats for layer in layers(network) if layer.exchanges}
    assert sent == {"conv3": 21_632, "fc6": 4_608, "fc7": 2_048, "classifier": 2_048}
    assert sum(sent.values()) == 30_336


def test_without_the_two_columns_restriction(network: Network) -> None:
    """The count that results when grouping is forgotten."""
    convs = {
        name: dataclasses.replace(conv, sees="all") if name in ("conv2", "conv4", "conv5") else conv
        for name, conv in network.convs.items()
    }
    table = layers(dataclasses.replace(network, convs=convs))
    assert sum(layer.parameters for layer in table) == 62_378_344
    assert sum(layer.macs for layer in table) == 1_135_256_096
    extra = sum(layer.exchanged_floats for layer in table) - 30_336
    assert extra == 34_992 + 32_448 + 32_448


def test_one_column_exchanges_nothing(network: Network) -> None:
    table = layers(dataclasses.replace(network, columns=1))
    assert sum(layer.exchanged_floats for layer in table) == 0


def test_the_real_network_has_these_parameters_and_operations(network: Network) -> None:
    """torch's own count of what it computes for one image."""
    model = AlexNet(network).eval()
    found: dict[str, list[int]] = {name: [0, 0] for name in TABLE}
    for layer, kind, parameter in model.parameter_layers():
        found[layer][kind == "biases"] += parameter.numel()
    assert found == {name: [row[0], row[1]] for name, row in TABLE.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert counter.get_total_flops() == 2 * 724_406_816


def test_the_rest_of_original() -> None:
    """Settings that the figures above do not see. # [P 3-5], authors' layers-145.cfg and layer-params-145.cfg"""
    config = load("original.yaml")
    network = config.network
    assert (config.train.batch_size, config.train.epochs) == (128, 91)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 0.0005)
    assert not config.optimizer.decay_biases
    assert {name: conv.then for name, conv in network.convs.items()} == {
        "conv1": ("lrn", "pool", "activation"),
        "conv2": ("activation", "lrn", "spatial_lrn", "pool"),
        "conv3": ("activation",),
        "conv4": ("activation",),
        "conv5": ("pool", "activation"),
    }
    for norm, values in ((network.lrn, (5, 2.0, 1e-4, 0.75)), (network.spatial_lrn, (5, 1.0, 1e-3, 0.75))):
        assert norm is not None
        assert (norm.size, norm.k, norm.alpha, norm.beta) == values
        assert norm.divide_alpha_by_window
    assert [dense.dropout for dense in network.denses.values()] == [0.5, 0.5]
    noise = config.augment.colour_noise
    assert noise is not None
    assert (noise.strength, noise.scale, noise.rescale, noise.until_epoch) == (0.1, "standard_deviation", True, 67)
    assert (config.augment.crop_positions, config.augment.crop_shared_by, config.augment.mean) == (33, 32, "centre")


def test_paper_yaml_says_what_the_text_says() -> None:
    config = load("paper.yaml")
    network = config.network
    assert network.spatial_lrn is None
    assert network.lrn is not None
    assert not network.lrn.divide_alpha_by_window
    stds = [conv.init_std for conv in network.convs.values()] + [dense.init_std for dense in network.denses.values()]
    assert {*stds, network.classifier.init_std} == {0.01}  # [P 5]
    for conv in network.convs.values():
        assert conv.then[0] == "activation"
    assert config.schedule.kind == "plateau"
    assert (config.schedule.weights, config.schedule.biases, config.schedule.reductions) == (0.01, 0.01, 3)
    assert config.train.epochs == 90
    assert [conv.init_bias for conv in network.convs.values()] == [0, 1, 0, 1, 1]
