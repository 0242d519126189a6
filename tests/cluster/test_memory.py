"""Planned memory against what autograd really keeps, byte for byte."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from alexnet.layout import channels_last
from alexnet.network import AlexNet
from cluster.memory import kept_bytes
from configs.geometry import layers
from configs.loader import load
from tests.alexnet.test_network import Echo, Silent

IMAGES = 3


class Copying(Silent):
    """Columns' parts arrive in one block of memory, as from a real exchange."""

    def begin_gather(self, own_BC: Tensor) -> Echo:
        last = own_BC.dim() == 4 and own_BC.is_contiguous(memory_format=torch.channels_last)
        dense = own_BC.permute(0, 2, 3, 1) if last else own_BC
        parts = torch.cat([dense] * self.columns).chunk(self.columns)
        return Echo([own_BC, *((part.permute(0, 3, 1, 2) if last else part) for part in parts[1:])])


BOTH = ["original.yaml", "paper.yaml", "tiny_imagenet.yaml", "demo.yaml", "no_exchange.yaml"]
ONE = ["caffe.yaml", "cifar10_13pct.yaml", "cifar10_11pct.yaml", "figure1_tanh.yaml"]


@pytest.mark.parametrize(("name", "processes"), [*itertools.product(BOTH, [1, 2]), *itertools.product(ONE, [1])])
def test_what_the_forward_pass_keeps(name: str, processes: int) -> None:
    config = load(name)
    # Units cost time here and change nothing: a quarter of them will do.
    denses = {key: dataclasses.replace(dense, units=dense.units // 4) for key, dense in config.network.denses.items()}
    network = dataclasses.replace(config.network, denses=denses)
    config = dataclasses.replace(config, network=network)
    each = network.columns // processes
    model = AlexNet(network, columns=each, exchange=Copying(2) if processes == 2 else None)
    if config.compute.channels_last:
        model = channels_last(model)
    images = torch.zeros(IMAGES, 3, network.input_size, network.input_size).contiguous(
        memory_format=torch.channels_last
    )
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(images, torch.arange(IMAGES))
    assert logits.requires_grad
    assert sum(kept.values()) == IMAGES * kept_bytes(config, layers(network), each, processes)
