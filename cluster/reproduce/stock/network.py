"""A config's network as PyTorch's documentation would have one write it: grouped convolutions in one nn.Sequential.

Against `alexnet.network`: nn.LocalResponseNorm's window crosses the columns, there is no spatial norm, and nn.Dropout doubles
what is left in training instead of halving the outputs in testing.
"""

from collections import OrderedDict
from collections.abc import Iterator

from torch import Tensor, nn

from configs.errors import UserError
from configs.geometry import layers
from configs.schema import Classifier, Conv, Dense, Network


def build(network: Network) -> nn.Sequential:
    """Layers of the config's sizes, with its initial weights drawn from torch's global generator.

    Raises UserError if the network has layers that PyTorch has no module for.
    """
    _refuse_what_torch_lacks(network)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    maps, table = 3, {layer.name: layer for layer in layers(network)}
    for number, (name, conv) in enumerate(network.convs.items()):
        if overhang := table[name].overhang:
            modules[f"{name}_overhang"] = nn.ZeroPad2d((0, overhang, 0, overhang))
        groups = 1 if number == 0 or conv.sees == "all" else network.columns
        modules[name] = nn.Conv2d(maps, conv.maps, conv.kernel, conv.stride, conv.padding, groups=groups)
        for step, module in _followed_by(network, conv):
            modules[f"{name}_{step}"] = module
        maps = conv.maps
    modules["flatten"] = nn.Flatten()
    last = table[list(network.convs)[-1]]
    features = last.outputs * last.final_side**2
    for name, dense in network.denses.items():
        modules[name] = nn.Linear(features, dense.units)
        if not dense.linear:
            modules[f"{name}_activation"] = _activation(network)
        if dense.dropout:
            modules[f"{name}_dropout"] = nn.Dropout(dense.dropout)
        features = dense.units
    modules["classifier"] = nn.Linear(features, network.classes)
    model = nn.Sequential(modules)
    _initialise(model, network)
    return model


def left_out(network: Network) -> list[str]:
    """In words, what this network does otherwise than the config's."""
    found = []
    if network.lrn is not None and network.lrn.sees == "column" and network.columns > 1:
        found.append("nn.LocalResponseNorm looks at the neighbouring maps of all columns, not of the own one")
    if any("spatial_lrn" in conv.then for conv in network.convs.values()):
        found.append("the spatial norm is left out: PyTorch has none")
    if any(dense.dropout for dense in network.denses.values()):
        found.append("nn.Dropout scales up in training what it leaves, instead of scaling down in testing")
    return found


def layer_parameters(model: nn.Sequential) -> Iterator[tuple[str, str, Tensor]]:
    """(layer, "weights" or "biases", parameter) of every layer that has some."""
    for name, module in model.named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, "weights", module.weight
            assert module.bias is not None
            yield name, "biases", module.bias


def _followed_by(network: Network, conv: Conv) -> Iterator[tuple[str, nn.Module]]:
    for step in conv.then:
        if step == "activation":
            yield step, _activation(network)
        elif step == "pool":
            yield step, nn.MaxPool2d(network.pool.size, network.pool.stride, ceil_mode=True)
        elif step == "lrn":
            norm = network.lrn
            assert norm is not None
            alpha = norm.alpha if norm.divide_alpha_by_window else norm.alpha * norm.size
            yield step, nn.LocalResponseNorm(norm.size, alpha=alpha, beta=norm.beta, k=norm.k)


def _activation(network: Network) -> nn.Module:
    return nn.ReLU(inplace=True) if network.activation == "relu" else nn.Tanh()


def _initialise(model: nn.Sequential, network: Network) -> None:
    settings: dict[str, Conv | Dense | Classifier]
    settings = {**network.convs, **network.denses, "classifier": network.classifier}
    for layer, kind, parameter in layer_parameters(model):
        if kind == "weights":
            nn.init.normal_(parameter, std=settings[layer].init_std)
        else:
            nn.init.constant_(parameter, settings[layer].init_bias)


def _refuse_what_torch_lacks(network: Network) -> None:
    local = [name for name, conv in network.convs.items() if conv.local]
    apart = [name for name, dense in network.denses.items() if dense.sees == "column" and network.columns > 1]
    if local:
        raise UserError(f"{', '.join(local)}: PyTorch has no locally connected layer; choose a config without")
    if apart:
        raise UserError(
            f"{', '.join(apart)}: PyTorch has no grouped nn.Linear; choose a config whose dense layers see all columns"
        )
