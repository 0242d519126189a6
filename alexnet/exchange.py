"""Everything that the columns of one replica say to each other: every collective of the model is in this file.

A column computes its own maps, units or classes of each layer, so the loss is one function that all columns compute
together. That fixes the adjoints:

* `gather_columns`: forward all-gather (each column gets all parts), backward reduce-scatter with sum (each column gets the
  sum over columns of the gradient of its own part). Each column's gradient is only its own share of the whole, so the shares
  must be added; there is no division.
* the reductions that the loss needs have no backward at all: the loss has its gradient in closed form (`alexnet.loss`).

Two tempting variants give gradients that are `columns` times too large and say nothing: gathering the logits and computing
the same loss on every column, and an all-reduce in the loss whose backward is an all-reduce again.
"""

import time
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed them; 2.11 has only the older names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Exchange(Protocol):
    """What the network and the loss ask of the other columns."""

    columns: int
    """Processes that share the network's columns."""

    def gather_columns(self, own_BC: Tensor) -> Tensor: ...

    def sum(self, values: Tensor) -> Tensor: ...

    def maximum(self, values: Tensor) -> Tensor: ...


class NoExchange:
    """For a process that owns every column: there is nobody to talk to, so everything is the identity."""

    columns = 1

    def gather_columns(self, own_BC: Tensor) -> Tensor:
        return own_BC

    def sum(self, values: Tensor) -> Tensor:
        return values

    def maximum(self, values: Tensor) -> Tensor:
        return values


class ColumnExchange:
    """The exchange over a process group whose ranks are the columns of one replica, in order.

    group: the process group; passed, never global.
    `floats_sent` and `seconds` count what this column sent to each other one and how long its host waited in collectives
    (on a GPU: how long it took to launch them).
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.columns = group.size()
        self.floats_sent = 0
        self.seconds = 0.0

    def gather_columns(self, own_BC: Tensor) -> Tensor:
        """The parts of all columns side by side: [B, C, ...] -> [B, columns * C, ...]. Differentiable."""
        whole: Tensor = _GatherColumns.apply(own_BC, self)
        return whole

    def sum(self, values: Tensor) -> Tensor:
        """The sum over columns. Not differentiable."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def maximum(self, values: Tensor) -> Tensor:
        """The elementwise maximum over columns. Not differentiable."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Tensor, operation: Any) -> Tensor:
        values = values.detach().clone()
        started = time.perf_counter()
        dist.all_reduce(values, operation, group=self.group)
        self._count(values.numel(), started)
        return values

    def _count(self, floats: int, started: float) -> None:
        self.floats_sent += floats
        self.seconds += time.perf_counter() - started


class _GatherColumns(torch.autograd.Function):
    """Forward: all-gather along dim 1. Backward, its adjoint: reduce-scatter (sum) along dim 1."""

    @staticmethod
    def forward(ctx: Any, own_BC: Tensor, exchange: ColumnExchange) -> Tensor:
        ctx.exchange = exchange
        # Maps that have their channels side by side in memory keep them so: there the columns meet in the last dim.
        ctx.last = own_BC.dim() == 4 and own_BC.is_contiguous(memory_format=torch.channels_last)
        own = (own_BC.permute(0, 2, 3, 1) if ctx.last else own_BC).contiguous()
        parts = own.new_empty((exchange.columns * own.shape[0], *own.shape[1:]))
        started = time.perf_counter()
        _all_gather(parts, own, group=exchange.group)
        exchange._count(own.numel(), started)
        whole = torch.cat(parts.chunk(exchange.columns), dim=-1 if ctx.last else 1)
        return whole.permute(0, 3, 1, 2) if ctx.last else whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        exchange: ColumnExchange = ctx.exchange
        whole = grads[0].permute(0, 2, 3, 1) if ctx.last else grads[0]
        # The collective splits dim 0, so the columns' parts are stacked there.
        parts = torch.cat(whole.chunk(exchange.columns, dim=-1 if ctx.last else 1))
        own = parts.new_empty((parts.shape[0] // exchange.columns, *parts.shape[1:]))
        started = time.perf_counter()
        _reduce_scatter(own, parts, group=exchange.group)
        exchange._count(own.numel(), started)
        return own.permute(0, 3, 1, 2) if ctx.last else own, None
