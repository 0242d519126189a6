"""The paper's update against its formula written by hand, and where it parts from torch's SGD."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alexnet.layout import channels_last
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.schedule import Rates
from configs.schema import Conv, Network, Optimizer
from tests import reference

NETWORK = Network(classes=4, input_size=5, convs={"conv1": Conv(maps=4, kernel=3, init_std=0.5, init_bias=0.5)})
SETTINGS = Optimizer(momentum=0.9, weight_decay=0.05)

ROUNDING = 1e-15
"""A product more or less in float64."""


def model_and_gradients(updates: int) -> tuple[AlexNet, list[list[Tensor]]]:
    """A small network, float64, and made-up gradients of its parameters for each update."""
    model = AlexNet(NETWORK).double()
    generator = torch.Generator().manual_seed(0)
    shapes = [parameter.shape for _, _, parameter in model.parameter_layers()]
    gradients = [
        [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes] for _ in range(updates)
    ]
    return model, gradients


def give(model: AlexNet, gradients: list[Tensor]) -> None:
    for (_, _, parameter), gradient in zip(model.parameter_layers(), gradients, strict=True):
        parameter.grad = gradient.clone()


@pytest.mark.parametrize("decay_biases", [False, True])
@pytest.mark.parametrize(
    ("fused", "last", "alike"), [(False, False, True), (True, False, True), (True, True, True), (True, True, False)]
)
def test_equals_the_papers_formula(
    decay_biases: bool, fused: bool, last: bool, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every layout, and a rate of 0 freezes value and momentum. Fused, all that lie alike are of one shape to the compiler."""
    dims = set[int]()

    def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*tensors: Tensor) -> Tensor:
            dims.update(tensor.dim() for tensor in tensors[:3])
            return function(*tensors)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    model, gradients = model_and_gradients(6)
    if last:
        channels_last(model)
    values = [parameter.detach().clone() for _, _, parameter in model.parameter_layers()]
    steps = [torch.zeros_like(value) for value in values]
    decays = {"conv1": 0.05, "classifier": 0.02}
    settings = dataclasses.replace(SETTINGS, decay_biases=decay_biases, weight_decay_of={"classifier": 0.02})
    optimizer = PaperSGD(model, settings, fused=fused)
    optimizer.step(Rates(weights=0.1, biases=0.1))  # without gradients nothing moves
    for update, given in enumerate(gradients):
        weights, biases = (0.1, 0.2) if update < 3 else (0.01, 0.15)
        own = {("conv1", "biases"): 0.05, ("classifier", "weights"): 0.1 if update < 2 else 0.0}
        give(model, given)
        if alike:
            for _, _, parameter in model.parameter_layers():
                assert parameter.grad is not None
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        optimizer.step(Rates(weights=weights, biases=biases, layers=own))
        for number, (layer, kind, _) in enumerate(model.parameter_layers()):
            rate = own.get((layer, kind), weights if kind == "weights" else biases)
            decay = decays[layer] if kind == "weights" or decay_biases else 0.0
            reference.paper_update(values[number], steps[number], given[number], rate=rate, momentum=0.9, decay=decay)
    for value, step, (layer, kind, parameter) in zip(values, steps, model.parameter_layers(), strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=ROUNDING, atol=ROUNDING)
        torch.testing.assert_close(optimizer.steps[f"{layer}.{kind}"], step, rtol=ROUNDING, atol=ROUNDING)
    optimizer.zero_grad()
    assert all(parameter.grad is None for _, _, parameter in model.parameter_layers())
    assert dims == (set() if not fused else {1} if alike else {1, 4})


def test_equals_torchs_sgd_until_the_rate_drops_and_not_after() -> None:
    model, gradients = model_and_gradients(4)
    theirs = [parameter.detach().clone().requires_grad_() for _, _, parameter in model.parameter_layers()]
    ours, sgd = PaperSGD(model, Optimizer(momentum=0.9, weight_decay=0.0)), torch.optim.SGD(theirs, 0.1, momentum=0.9)

    def largest_difference(update: int, rate: float) -> float:
        give(model, gradients[update])
        ours.step(Rates(weights=rate, biases=rate))
        for group in sgd.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(theirs, gradients[update], strict=True):
            parameter.grad = gradient.clone()
        sgd.step()
        pairs = zip(model.parameter_layers(), theirs, strict=True)
        return max((own.detach() - their.detach()).abs().max().item() for (_, _, own), their in pairs)

    assert max(largest_difference(update, 0.1) for update in range(3)) < 1e-14
    # The old steps of about 0.1 * 0.9 go on here; torch shrinks them with the rate.
    assert largest_difference(3, 0.01) > 0.05
