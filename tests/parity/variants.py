"""The built-in networks in the small, as cases of the parity tests: every layer and setting, fewer maps, units and positions."""

import dataclasses

from configs.loader import built_in, load
from configs.schema import Config, Network
from tests.parity.cases import CASES, Case

NARROWER_CONVS, NARROWER_DENSES = 16, 128
SIDES = {224: 96, 227: 99}
"""Of the input. conv1's last window hangs over by three at 96 as at 224, and by none at 99 as at 227."""
CLASSES = 11
"""Uneven, so that one column has a class more."""


def _small(network: Network) -> Network:
    if network.input_size not in SIDES:  # the nets for small images: narrower will do
        convs = {name: dataclasses.replace(conv, maps=conv.maps // 8) for name, conv in network.convs.items()}
        denses = {name: dataclasses.replace(dense, units=dense.units // 8) for name, dense in network.denses.items()}
        return dataclasses.replace(network, convs=convs, denses=denses)
    return dataclasses.replace(
        network,
        input_size=SIDES[network.input_size],
        classes=CLASSES,
        convs={
            name: dataclasses.replace(conv, maps=conv.maps // NARROWER_CONVS) for name, conv in network.convs.items()
        },
        denses={
            name: dataclasses.replace(dense, units=dense.units // NARROWER_DENSES)
            for name, dense in network.denses.items()
        },
    )


def _case(config: Config) -> Case:
    return Case(
        network=_small(config.network),
        mean=config.augment.mean,
        decay_of=config.optimizer.weight_decay_of,
        decay_biases=config.optimizer.decay_biases,
        updates=3,
    )


def _distinct() -> dict[str, Case]:
    """By the name of the first config that has it."""
    found: dict[str, Case] = {}
    for file in built_in():
        case = _case(load(file))
        if case not in found.values():
            found[file.stem] = case
    return found


def _complete() -> Network:
    """What no built-in network has: locally connected layers in two columns, with windows that hang over, and linear units that
    see their own column."""
    network = CASES["complete"].network
    convs, denses = dict(network.convs), dict(network.denses)
    convs["conv1"] = dataclasses.replace(convs["conv1"], local=True)
    convs["conv4"] = dataclasses.replace(convs["conv4"], local=True, kernel=2, stride=2)
    denses["fc6"] = dataclasses.replace(denses["fc6"], linear=True)
    return dataclasses.replace(network, convs=convs, denses=denses)


VARIANTS = {
    **_distinct(),
    "local columns": Case(network=_complete(), decay_of={"conv1": 0.5, "fc6": 0.0}, decay_biases=True, updates=3),
}
SPLIT = {
    name: case
    for name, case in VARIANTS.items()
    if case.network.columns == 2 and (case.network.lrn is None or case.network.lrn.sees == "column")
}
"""Those whose columns can be in two processes."""
