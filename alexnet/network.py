"""The two-column network as one module that owns all or some of its columns.

Owning all of them is the whole network in one process; owning one is the paper's GPU. Every parameter of the whole network is
split along dim 0 (output maps, units or classes), so a column's parameters are rows of the whole network's.

Shape suffixes: B images, C maps of the owned columns, H and W positions, D units of the owned columns.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.columns import Column, ConvColumn, DenseColumn, LocalColumn
from alexnet.compiled import Compiled
from alexnet.dropout import Dropout
from alexnet.exchange import Exchange, NoExchange
from alexnet.response_norm import LocalResponseNorm
from configs.geometry import Layer, layers, share
from configs.schema import Network

__all__ = ["AlexNet", "Column", "Stretch"]


@dataclass
class Stretch:
    """What a process computes between two exchanges."""

    across: str = ""
    """The layer that begins it by seeing other processes' columns; none in the first stretch."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    """(kind, name of the part if it has one), in order."""


class AlexNet(nn.Module):
    """Columns `first_column` to `first_column + columns` of the network; all of them by default.

    exchange: how the processes that own the other columns are reached; not needed by a process that owns all.
    seed: of the initial weights, which are drawn whole and then sliced, so that they do not depend on the split.
    fused: compile the response norms (see `LocalResponseNorm`).
    compiled: compile all that lies between two exchanges.
    """

    def __init__(
        self,
        network: Network,
        *,
        first_column: int = 0,
        columns: int | None = None,
        exchange: Exchange | NoExchange | None = None,
        seed: int = 0,
        fused: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        columns = network.columns - first_column if columns is None else columns
        self.network, self.first_column, self.columns, self.fused = network, first_column, columns, fused
        self.exchange: Exchange | NoExchange = exchange or NoExchange()
        assert self.exchange.columns * columns == network.columns, "the processes own all columns, in equal parts"
        self.parts = nn.ModuleDict()
        self._stretches = [Stretch()]
        table = layers(network)
        for number, layer in enumerate(table):
            owned = slice(
                share(layer.outputs, network.columns, first_column).start,
                share(layer.outputs, network.columns, first_column + columns - 1).stop,
            )
            if layer.kind == "conv":
                self._add_conv(layer, owned, seed=seed, first=number == 0)
            else:
                self._add_dense(layer, owned, seed=seed, number=number)
        self.first_class = owned.start
        self._walks = [self._walk_of(stretch, compiled) for stretch in self._stretches]

    def _add_conv(self, layer: Layer, owned: slice, *, seed: int, first: bool) -> None:
        conv = self.network.convs[layer.name]
        groups = 1 if first or conv.sees == "all" else self.columns
        start: dict[str, Any] = {"groups": groups, "seed": seed, "std": conv.init_std, "bias": conv.init_bias}
        if conv.local:
            self.parts[layer.name] = LocalColumn(
                layer, owned, kernel=conv.kernel, stride=conv.stride, padding=conv.padding, **start
            )
        else:
            self.parts[layer.name] = ConvColumn(layer, owned, stride=conv.stride, padding=conv.padding, **start)
        self._begin(layer)
        for before, step in zip(("", *conv.then), conv.then, strict=False):
            if step in ("lrn", "spatial_lrn"):
                settings = getattr(self.network, step)
                name = f"{layer.name}_{step}"
                # A rectifier before it costs nothing in the same pass.
                relu = before == "activation" and self.network.activation == "relu"
                if relu:
                    self._stretches[-1].steps.pop()
                columns = 1 if settings.sees == "all" else self.columns
                assert settings.sees == "column" or self.columns == self.network.columns, (
                    "nobody sends this norm its maps"
                )
                self.parts[name] = LocalResponseNorm(
                    settings, columns=columns, spatial=step == "spatial_lrn", fused=self.fused, relu=relu
                )
                self._stretches[-1].steps.append(("part", name))
            else:
                self._stretches[-1].steps.append((step, ""))

    def _add_dense(self, layer: Layer, owned: slice, *, seed: int, number: int) -> None:
        settings = self.network.denses.get(layer.name, self.network.classifier)
        if number == len(self.network.convs):
            self._stretches[-1].steps.append(("flatten", ""))
        self.parts[layer.name] = DenseColumn(
            layer,
            owned,
            groups=1 if layer.exchanges else self.columns,
            seed=seed,
            std=settings.init_std,
            bias=settings.init_bias,
        )
        self._begin(layer)
        if layer.kind == "dense":
            dense = self.network.denses[layer.name]
            if not dense.linear:
                self._stretches[-1].steps.append(("activation", ""))
            dropout = dense.dropout
            if dropout:
                name = f"{layer.name}_dropout"
                self.parts[name] = Dropout(
                    dropout, layer=number, first_unit=owned.start, units=owned.stop - owned.start
                )
                self._stretches[-1].steps.append(("dropout", name))

    def _begin(self, layer: Layer) -> None:
        """A layer that sees other processes' columns begins a new stretch."""
        if layer.exchanges and self.exchange.columns > 1:
            self._stretches.append(Stretch(across=layer.name))
        else:
            self._stretches[-1].steps.append(("part", layer.name))

    def forward(self, images_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """Logits [B, owned classes] of images [B, 3, input_size, input_size].

        keys_B: int64, one per image, of the dropout masks; needed in training only.
        """
        x = images_BCHW
        for stretch, walk in zip(self._stretches, self._walks, strict=True):
            if stretch.across:
                # Columns stand side by side in dim 1 of maps and of flattened units alike.
                x = self.parts[stretch.across](x, self.exchange)
            x = walk(x, keys_B)
        return x

    def _walk_of(self, stretch: "Stretch", compiled: bool) -> Callable[[Tensor, Tensor | None], Tensor]:
        if not compiled:
            return functools.partial(self._walk, stretch.steps)
        # Norms have kernels of their own. In one with a pool, the compiler would work out the pool's gradient anew for each
        # element of each window, which takes thirty times as long.
        walks = [
            functools.partial(self._walk, list(steps)) if norm else self._compiled(list(steps))
            for norm, steps in itertools.groupby(stretch.steps, self._is_norm)
        ]
        return lambda x, keys_B: functools.reduce(lambda x, walk: walk(x, keys_B), walks, x)

    def _compiled(self, steps: list[tuple[str, str]]) -> Callable[[Tensor, Tensor | None], Tensor]:
        def walk(x: Tensor, keys_B: Tensor | None) -> Tensor:
            return self._walk(steps, x, keys_B)

        return Compiled(walk, "the layers run uncompiled", "compute.compile=false")

    def _is_norm(self, step: tuple[str, str]) -> bool:
        kind, name = step
        return kind == "part" and isinstance(self.parts[name], LocalResponseNorm)

    def _walk(self, steps: list[tuple[str, str]], x: Tensor, keys_B: Tensor | None) -> Tensor:
        activation = torch.relu if self.network.activation == "relu" else torch.tanh
        pool = self.network.pool
        for kind, name in steps:
            if kind == "part":
                x = self.parts[name](x)
            elif kind == "dropout":
                x = self.parts[name](x, keys_B)
            elif kind == "activation":
                x = activation(x)
            elif kind == "pool":
                x = F.max_pool2d(x, pool.size, pool.stride, ceil_mode=True)
            else:
                x = x.flatten(1)
        return x

    def parameter_layers(self) -> list[tuple[str, str, nn.Parameter]]:
        """(layer, "weights" or "biases", parameter) for every parameter, in order."""
        found = []
        for name, part in self.parts.items():
            if isinstance(part, Column):
                found += [(name, "weights", part.weight), (name, "biases", part.bias)]
        return found
