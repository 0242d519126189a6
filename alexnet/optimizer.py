"""The paper's update rule [P 5]:  v <- momentum v - decay rate w - rate gradient;  w <- w + v.

The momentum buffer holds steps, already scaled by the rate of their time. torch's SGD keeps gradients there instead and
scales when it steps, so after each drop of the rate the two differ: here the old, larger steps die away.
"""

import torch
from torch import Tensor

from alexnet.network import AlexNet
from alexnet.schedule import Rates
from configs.schema import Optimizer


class PaperSGD:
    """Updates a network's parameters with one rate for each layer's weights and biases.

    A rate of 0 freezes the parameter altogether: no decay and no momentum either (authors' src/weights.cu).
    """

    def __init__(self, model: AlexNet, settings: Optimizer) -> None:
        self.settings = settings
        self.parameters = model.parameter_layers()
        self.steps = {
            f"{layer}.{kind}": torch.zeros_like(parameter, memory_format=torch.preserve_format)
            for layer, kind, parameter in self.parameters
        }
        """The momentum buffers v, in the units of the parameters."""

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """One update from the gradients in the parameters' `.grad`."""
        for layer, kind, parameter in self.parameters:
            rate = rates.of(layer, kind)
            if rate == 0.0 or parameter.grad is None:
                continue
            step: Tensor = self.steps[f"{layer}.{kind}"]
            step.mul_(self.settings.momentum).add_(parameter.grad, alpha=-rate)
            if kind == "weights" or self.settings.decay_biases:
                step.add_(parameter, alpha=-rate * self.settings.weight_decay)
            parameter.add_(step)

    def zero_grad(self) -> None:
        for _, _, parameter in self.parameters:
            parameter.grad = None
