"""The paper's update rule [P 5]:  v <- momentum v - decay rate w - rate gradient;  w <- w + v.

The momentum buffer holds steps, already scaled by the rate of their time. torch's SGD keeps gradients there instead and
scales when it steps, so after each drop of the rate the two differ: here the old, larger steps die away.
"""

import torch
from torch import Tensor

from alexnet.compiled import Compiled
from alexnet.network import AlexNet
from alexnet.schedule import Rates
from configs.schema import Optimizer


def _in_place(parameter: Tensor, grad: Tensor, step: Tensor, momentum: float, decay: float, rate: float) -> Tensor:
    """decay: already multiplied by the rate."""
    step.mul_(momentum).add_(grad, alpha=-rate)
    if decay:
        step.add_(parameter, alpha=-decay)
    return parameter.add_(step)


def _in_one_pass(
    parameter: Tensor, grad: Tensor, step: Tensor, momentum: Tensor, decay: Tensor, rate: Tensor
) -> Tensor:
    """For a compiler: three tensors read and two written, once. The numbers are tensors, lest each new rate be a new function."""
    step.copy_(momentum * step - rate * grad - decay * parameter)
    return parameter.add_(step)


class PaperSGD:
    """Updates a network's parameters with one rate for each layer's weights and biases.

    A rate of 0 freezes the parameter altogether: no decay and no momentum either (authors' src/weights.cu).
    fused: compile the update into one pass.
    """

    def __init__(self, model: AlexNet, settings: Optimizer, *, fused: bool = False) -> None:
        self.settings = settings
        self.parameters = model.parameter_layers()
        self.steps = {
            f"{layer}.{kind}": torch.zeros_like(parameter, memory_format=torch.preserve_format)
            for layer, kind, parameter in self.parameters
        }
        """The momentum buffers v, in the units of the parameters."""
        self._fused = Compiled(_in_one_pass, "the update runs unfused", "compute.fused=false") if fused else None

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """One update from the gradients in the parameters' `.grad`."""
        for layer, kind, parameter in self.parameters:
            rate = rates.of(layer, kind)
            if rate == 0.0 or parameter.grad is None:
                continue
            decay = self.settings.weight_decay_of.get(layer, self.settings.weight_decay)
            if kind == "biases" and not self.settings.decay_biases:
                decay = 0.0
            numbers = (self.settings.momentum, rate * decay, rate)
            tensors = _as_vectors(parameter, parameter.grad, self.steps[f"{layer}.{kind}"])
            if self._fused:
                # float64 tensors of no dim leave the others' type as it is.
                self._fused(*tensors, *(torch.tensor(number, dtype=torch.float64) for number in numbers))
            else:
                _in_place(*tensors, *numbers)

    def zero_grad(self) -> None:
        for _, _, parameter in self.parameters:
            parameter.grad = None


def _as_vectors(parameter: Tensor, grad: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors as they lie in memory, if all lie alike: so that one compiled function serves every shape and layout."""
    strides = parameter.stride()
    dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
    if not dense or grad.stride() != strides or step.stride() != strides:
        return parameter, grad, step
    length = (parameter.numel(),)
    return parameter.as_strided(length, (1,)), grad.as_strided(length, (1,)), step.as_strided(length, (1,))
