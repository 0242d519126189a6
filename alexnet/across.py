"""Layers that see every column, computed as own part plus other columns' parts, so that the exchange runs meanwhile.

    y = f(own x, own slice of the weights) + sum over other columns of f(their x, their slice) + bias

Order of operations; what stands between a "begin" and its "end" is computed while the pieces travel.

Forward: 1. begin the all-gather of x; 2. the own part; 3. end; 4. the other parts.
Backward: 1. gradients of the others' x; 2. begin to send each column its own; 3. gradients of the weights and of the own x;
4. end, and add what the others sent, in the order of columns, so that every process adds alike.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from alexnet.exchange import Exchange
from alexnet.ranges import named


class Operation(Protocol):
    """A bilinear function of input and weights, with its gradients."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...

    def of_input(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor: ...

    def of_weight(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor: ...


class Convolution:
    """Of maps [B, C, H, W] with weights [O, C, K, K]."""

    def __init__(self, stride: int, padding: int) -> None:
        self.stride, self.padding = [stride] * 2, [padding] * 2

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.conv2d(x, weight, bias, self.stride, self.padding)

    def of_input(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad, x, weight, [True, False, False])[0]

    def of_weight(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._backward(grad, x, weight, [False, True, False])[1]

    def _backward(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, [1, 1], False, [0, 0], 1, wanted
        )
        return found


class Product:
    """Of units [B, D] with weights [O, D]."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    def of_input(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad @ weight

    def of_weight(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad.t() @ x


class _AcrossColumns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, weight: Tensor, bias: Tensor, exchange: Exchange, operation: Operation
    ) -> Tensor:
        mine, each = exchange.column, own.shape[1]
        gathering = exchange.begin_gather(own)
        with named("own part"):
            # Under autocast the pieces travel, and the parts are computed, in the input's own type.
            slices = weight.to(own.dtype).split(each, dim=1)
            y = operation.forward(own, slices[mine], bias.to(own.dtype))
        parts = gathering.end()
        with named("others' part"):
            for column, part in enumerate(parts):
                if column != mine:
                    y += operation.forward(part, slices[column], None)
        ctx.save_for_backward(weight, own, *(part for column, part in enumerate(parts) if column != mine))
        ctx.exchange, ctx.operation = exchange, operation
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        exchange, operation = ctx.exchange, ctx.operation
        weight, own, *others = ctx.saved_tensors
        grad, mine = grads[0], exchange.column
        parts: Sequence[Tensor] = [*others[:mine], own, *others[mine:]]
        slices = weight.to(own.dtype).split(own.shape[1], dim=1)
        with named("others' part"):
            theirs = {
                column: operation.of_input(grad, parts[column], slices[column])
                for column in range(exchange.columns)
                if column != mine
            }
        sending = exchange.begin_send(theirs, own)
        with named("own part"):
            of_weight = torch.cat(
                [operation.of_weight(grad, x, piece) for x, piece in zip(parts, slices, strict=True)], dim=1
            )
            of_bias = grad.sum(dim=[dim for dim in range(grad.dim()) if dim != 1], dtype=weight.dtype)
            of_mine = operation.of_input(grad, own, slices[mine])
        pieces = {mine: of_mine, **sending.end()}
        of_own = pieces[0]
        for column in range(1, exchange.columns):
            of_own = of_own + pieces[column]
        return of_own, of_weight.to(weight.dtype), of_bias, None, None


def across_columns(own: Tensor, weight: Tensor, bias: Tensor, exchange: Exchange, operation: Operation) -> Tensor:
    """The layer's output for this column. own: [B, C, ...] of this process; weight: [O, columns * C, ...], columns in order."""
    out: Tensor = _AcrossColumns.apply(own, weight, bias, exchange, operation)
    return out
