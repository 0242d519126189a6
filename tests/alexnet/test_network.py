"""How the network starts: whole and then sliced, with the settings' spread, and the same wherever it is made."""

import dataclasses
from functools import cache
from itertools import combinations

import pytest
import torch
from torch import Tensor

from alexnet.exchange import Sending
from alexnet.network import AlexNet
from configs.geometry import layers, share
from configs.loader import load
from configs.schema import Network
from tests.parity.cases import CASES


class Echo:
    """A gathering that ends at once."""

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts

    def end(self) -> list[Tensor]:
        return self.parts


class Silent:
    """Stands for `columns` processes of which only this one is there."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    column = 0

    def begin_gather(self, own_BC: Tensor) -> "Echo":
        return Echo([own_BC] * self.columns)

    def begin_send(self, pieces: dict[int, Tensor], like: Tensor) -> Sending:
        raise AssertionError("nothing is differentiated here")

    def sum(self, values: Tensor) -> Tensor:
        return values

    def maximum(self, values: Tensor) -> Tensor:
        return values


@cache
def quarter_of_original() -> Network:
    """original.yaml with a quarter of the units, where nearly all of its weights are."""
    network = load("original.yaml").network
    denses = {name: dataclasses.replace(dense, units=dense.units // 4) for name, dense in network.denses.items()}
    return dataclasses.replace(network, denses=denses)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("each", [1, 2])
def test_columns_hold_rows_of_the_whole_bitwise(name: str, each: int) -> None:
    network = CASES[name].network
    whole = AlexNet(network, seed=11).parameter_layers()
    processes = network.columns // each
    parts = [
        AlexNet(network, first_column=first, columns=each, exchange=Silent(processes), seed=11)
        for first in range(0, network.columns, each)
    ]
    for number, (layer, kind, parameter) in enumerate(whole):
        rows = torch.cat([part.parameter_layers()[number][2] for part in parts])
        assert torch.equal(rows, parameter), (layer, kind)
    classes = [share(network.classes, network.columns, first).start for first in range(0, network.columns, each)]
    assert [part.first_class for part in parts] == classes


def test_spread_and_biases_of_original() -> None:
    """Standard deviations 0.01, and 0.03 for conv3 to conv5; biases 1 in conv2, conv4, conv5, fc6, fc7 and 0 elsewhere
    (authors' layers-145.cfg)."""
    stds = {"conv3": 0.03, "conv4": 0.03, "conv5": 0.03}
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    found = AlexNet(quarter_of_original()).parameter_layers()
    assert len(found) == 16
    for layer, kind, parameter in found:
        if kind == "biases":
            assert (parameter == (1.0 if layer in ones else 0.0)).all(), layer
            continue
        values, std = parameter.detach().double().flatten(), stds.get(layer, 0.01)
        count = len(values)
        # Of normal numbers: the mean strays by std / sqrt(n), their deviation by std / sqrt(2 n), the kurtosis by sqrt(24 / n).
        assert abs(values.mean().item()) < 5 * std / count**0.5, layer
        assert abs(values.std().item() / std - 1) < 5 / (2 * count) ** 0.5, layer
        assert abs(((values / std) ** 4).mean().item() - 3) < 5 * (96 / count) ** 0.5, layer


def test_layers_and_columns_do_not_repeat_each_other() -> None:
    """Columns that started alike would stay alike, and so be one column."""
    network = quarter_of_original()
    weights = {
        layer: parameter.detach() for layer, kind, parameter in AlexNet(network).parameter_layers() if kind == "weights"
    }
    pairs = {layer: value.flatten().double().chunk(2) for layer, value in weights.items()}
    for first, second in combinations(weights, 2):
        count = min(weights[first].numel(), weights[second].numel())
        pairs[f"{first}, {second}"] = tuple(weights[layer].flatten()[:count].double() for layer in (first, second))
    for name, pair in pairs.items():
        correlation = torch.corrcoef(torch.stack(pair))[0, 1].item()
        assert abs(correlation) < 5 / len(pair[0]) ** 0.5, name


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone() -> None:
    network = CASES["complete"].network
    first, again, other = (AlexNet(network, seed=seed).parameter_layers() for seed in (1, 1, 2))
    torch.manual_seed(123)
    later = AlexNet(network, seed=1).parameter_layers()
    drawn = torch.rand(3)
    for number, (layer, kind, parameter) in enumerate(first):
        assert torch.equal(parameter, again[number][2]) and torch.equal(parameter, later[number][2])
        assert torch.equal(parameter, other[number][2]) == (kind == "biases"), (layer, kind)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(3), drawn)


def test_known_answers() -> None:
    """A seed means the same weights from version to version, or else runs do not repeat."""
    parameters = AlexNet(CASES["complete"].network, seed=1).parameter_layers()
    weights = {layer: parameter.detach().flatten() for layer, kind, parameter in parameters if kind == "weights"}
    # The first and the last; logarithm and cosine may differ in the last bits from one machine to the next.
    assert {layer: values[[0, -1]].tolist() for layer, values in weights.items()} == {
        "conv1": pytest.approx([0.0112534, 0.000338518], rel=1e-4),
        "conv2": pytest.approx([0.341502, 0.0562162], rel=1e-4),
        "conv3": pytest.approx([-0.0227081, -0.121764], rel=1e-4),
        "conv4": pytest.approx([0.0922681, -0.00344495], rel=1e-4),
        "fc5": pytest.approx([-0.0138144, -0.037543], rel=1e-4),
        "fc6": pytest.approx([0.0776328, -0.0336754], rel=1e-4),
        "fc7": pytest.approx([0.225012, -0.247], rel=1e-4),
        "classifier": pytest.approx([-0.109526, 0.195347], rel=1e-4),
    }


def test_processes_must_own_all_columns() -> None:
    with pytest.raises(AssertionError, match="all columns"):
        AlexNet(CASES["complete"].network, first_column=0, columns=1)


class Counting(Silent):
    """Notes how many floats per image are handed over."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self.floats: list[int] = []

    def begin_gather(self, own_BC: Tensor) -> Echo:
        self.floats.append(own_BC[0].numel())
        return super().begin_gather(own_BC)


@pytest.mark.parametrize("name", CASES)
def test_exchanges_are_those_of_the_layer_table(name: str) -> None:
    network = CASES[name].network
    exchange = Counting(network.columns)
    model = AlexNet(network, first_column=0, columns=1, exchange=exchange).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, network.input_size, network.input_size))
    assert exchange.floats == [layer.exchanged_floats for layer in layers(network) if layer.exchanges]
    assert all(exchange.floats)
