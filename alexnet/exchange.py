"""What the columns' processes say to each other: every collective of the model is in this file.

Forward, a layer that sees every column gathers their parts; backward, each column sends the others the gradients of theirs, and
adds what it is sent (`alexnet.across`, which computes meanwhile). The two are each other's adjoint: every column's
gradient is only its own share of the whole, so the shares must be added; there is no division.

The reductions that the loss needs have no backward at all: the loss has its gradient in closed form (`alexnet.loss`).

Two tempting variants give gradients that are `columns` times too large and say nothing: gathering the logits and computing
the same loss on every column, and an all-reduce in the loss whose backward is an all-reduce again.
"""

import time
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet.ranges import named

# torch 2.13 renamed it; 2.11 has only the older name.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

BEGINNING, WAITING = "begin exchange", "waiting for exchange"
"""Names in a trace."""


class Reductions(Protocol):
    """What the loss asks of the other columns."""

    columns: int
    """Processes that share the network's columns."""

    def sum(self, values: Tensor) -> Tensor: ...

    def maximum(self, values: Tensor) -> Tensor: ...


class Exchange(Reductions, Protocol):
    """What the network asks of them as well."""

    column: int
    """This process's number among them."""

    def begin_gather(self, own_BC: Tensor) -> "Gathering": ...

    def begin_send(self, pieces: dict[int, Tensor], like: Tensor) -> "Sending": ...


class Gathering(Protocol):
    def end(self) -> list[Tensor]: ...


class Sending(Protocol):
    def end(self) -> dict[int, Tensor]: ...


class NoExchange:
    """For a process that owns every column: there is nobody to talk to."""

    columns = 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def maximum(self, values: Tensor) -> Tensor:
        return values


class ColumnExchange:
    """The exchange over a process group whose ranks are the columns of one replica, in order.

    group: the process group; passed, never global.
    `floats_sent` and `seconds` count what this column sent to each other one and how long its host waited for collectives, which
    is the exposed part of the exchange (on a GPU, where the stream waits and not the host, next to nothing, whatever it costs).
    `bytes_sent` is what it sent to all of them together.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.columns, self.column = group.size(), group.rank()
        self.floats_sent = self.bytes_sent = 0
        self.seconds = 0.0

    def begin_gather(self, own_BC: Tensor) -> "Gathering":
        """Send this column's part to the others; `end` waits and returns all columns' parts, in order. Not differentiable."""
        with named(BEGINNING):
            return _Gathering(self, own_BC)

    def begin_send(self, pieces: dict[int, Tensor], like: Tensor) -> "Sending":
        """Send every other column its piece; `end` waits and returns what they sent, by column. Not differentiable.

        like: a tensor that lies in memory as on every column; the pieces travel so, however a library laid them out.
        """
        with named(BEGINNING):
            return _Sending(self, pieces, like)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over columns. Not differentiable."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def maximum(self, values: Tensor) -> Tensor:
        """The elementwise maximum over columns. Not differentiable."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: Tensor, operation: Any) -> Tensor:
        values = values.detach().clone()
        started = time.perf_counter()
        with named("waiting for all-reduce"):
            dist.all_reduce(values, operation, group=self.group)
        self._count(values.numel(), values.element_size(), started)
        return values

    def _count(self, floats: int, float_bytes: int, started: float) -> None:
        self.floats_sent += floats
        self.bytes_sent += floats * float_bytes * (self.columns - 1)
        self.seconds += time.perf_counter() - started


class _Gathering:
    """An all-gather under way."""

    def __init__(self, exchange: ColumnExchange, own_BC: Tensor) -> None:
        self._exchange, self._mine = exchange, own_BC
        own, self._last = _dense(own_BC)
        self._sent = own  # must live until the others have it
        self._parts = own.new_empty((exchange.columns * own.shape[0], *own.shape[1:]))
        self._work = _all_gather(self._parts, own, group=exchange.group, async_op=True)

    def end(self) -> list[Tensor]:
        started = time.perf_counter()
        with named(WAITING):
            self._work.wait()
        self._exchange._count(self._sent.numel(), self._sent.element_size(), started)
        parts = [_maps(part, self._last) for part in self._parts.chunk(self._exchange.columns)]
        parts[self._exchange.column] = self._mine
        return parts


class _Sending:
    """An all-to-all under way, in which nobody sends anything to itself."""

    def __init__(self, exchange: ColumnExchange, pieces: dict[int, Tensor], like: Tensor) -> None:
        self._exchange, self._others = exchange, sorted(pieces)
        self._last = _dense(like)[1]
        of_others = [pieces[column] for column in self._others]
        self._sent = torch.cat([piece.permute(0, 2, 3, 1) if self._last else piece for piece in of_others]).contiguous()
        self._received = torch.empty_like(self._sent)
        rows = len(of_others[0])
        split = [0 if column == exchange.column else rows for column in range(exchange.columns)]
        self._work = dist.all_to_all_single(
            self._received, self._sent, split, split, group=exchange.group, async_op=True
        )

    def end(self) -> dict[int, Tensor]:
        started = time.perf_counter()
        assert self._work is not None
        with named(WAITING):
            self._work.wait()
        self._exchange._count(self._sent.numel() // len(self._others), self._sent.element_size(), started)
        received = self._received.chunk(len(self._others))
        return {column: _maps(piece, self._last) for column, piece in zip(self._others, received, strict=True)}


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """Contiguous, with channels last if the maps have them so in memory; and whether they have."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return (x.permute(0, 2, 3, 1) if last else x).contiguous(), last


def _maps(x: Tensor, last: bool) -> Tensor:
    return x.permute(0, 3, 1, 2) if last else x
