"""Local response normalisation over neighbouring maps or positions, with its analytic backward, fused by a compiler.

    b = a * s ** -beta,   s = k + alpha' * (sum of a² over the window)                                  [P 3.3]

alpha' is alpha, or alpha divided by the number of elements in a full window as in the authors' code. Windows are cut off
at the edges: of the map, and of the column's own maps, also where one process owns several columns (authors'
layers-145.cfg: each column's norm has its own column as the only input).

Backward, with W' the adjoint of the window sum (the same for odd sizes), from the input alone:
    da = g * s ** -beta - 2 alpha' beta a * W'(g * a * s ** (-beta - 1)).

Keeping the input and not s costs a second window sum, and saves writing, keeping and reading a tensor of the input's size.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.compiled import Compiled
from configs.schema import ResponseNorm

Window = Callable[[Tensor, int, int], Tensor]
"""Sum over the window from `before` below to `after` above each element."""


def _over_positions(x_BCHW: Tensor, before: int, after: int) -> Tensor:
    padded = F.pad(x_BCHW, (before, after, before, after))
    return F.avg_pool2d(padded, before + after + 1, stride=1, divisor_override=1)


def _over_maps(x_BCHW: Tensor, before: int, after: int) -> Tensor:
    """As the compiler likes it: shifted reads of one padded tensor, which it never makes."""
    maps = x_BCHW.shape[1]
    padded = F.pad(x_BCHW, (0, 0, 0, 0, before, after))
    total = padded[:, :maps]
    for shift in range(1, before + after + 1):
        total = total + padded[:, shift : shift + maps]
    return total


def _over_maps_in_place(x_BCHW: Tensor, before: int, after: int) -> Tensor:
    """As it is fastest without a compiler: one tensor, added to in place."""
    total, maps = x_BCHW.clone(), x_BCHW.shape[1]
    for shift in range(1, min(max(before, after), maps - 1) + 1):
        if shift <= before:
            total[:, shift:] += x_BCHW[:, :-shift]
        if shift <= after:
            total[:, :-shift] += x_BCHW[:, shift:]
    return total


def _in_groups(window: Window, groups: int) -> Window:
    """The same window within each of equal groups of maps."""
    if groups == 1:
        return window

    def grouped(x_BCHW: Tensor, before: int, after: int) -> Tensor:
        return torch.cat([window(group, before, after) for group in x_BCHW.chunk(groups, dim=1)], dim=1)

    return grouped


def _power(scale: Tensor, beta: float) -> Tensor:
    """scale ** -beta; two square roots are several times faster than a power, and exact to rounding."""
    if beta == 0.75:
        root = scale.rsqrt()
        return root * root.sqrt()
    return scale.pow(-beta)


@functools.cache
def _kernels(
    groups: int, size: int, spatial: bool, alpha: float, beta: float, k: float, fused: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """(forward of x, backward of gradient and x); layers with the same settings share what is compiled."""
    # cuda-convnet's window starts at -size // 2, for maps and positions alike.
    before, after = size // 2, size - 1 - size // 2
    window = _over_positions if spatial else _in_groups(_over_maps if fused else _over_maps_in_place, groups)

    def forward(x: Tensor) -> Tensor:
        wide = _wide(x)
        scale = window(wide * wide, before, after) * alpha + k
        return (wide * _power(scale, beta)).to(x.dtype)

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        wide = _wide(x)
        scale = window(wide * wide, before, after) * alpha + k
        through = grad * _power(scale, beta)
        spread = window(through * wide / scale, after, before)
        return (through - (2 * alpha * beta) * wide * spread).to(x.dtype)

    if not fused:
        return forward, backward
    what, setting = "response norm runs unfused", "compute.fused=false"
    return Compiled(forward, what, setting), Compiled(backward, what, setting)


def _wide(x: Tensor) -> Tensor:
    """In bfloat16 the k of 2 and a small sum of squares would come to 2."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor], backward: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kernel = backward
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return ctx.kernel(grads[0], x), None, None


class LocalResponseNorm(nn.Module):
    """Response norm of maps [B, C, H, W]; over neighbouring maps of each of `columns` equal groups, or over positions.

    fused: compile forward and backward into one pass each, at their first use; that takes seconds, or less from torch's cache.
    """

    def __init__(self, settings: ResponseNorm, *, columns: int, spatial: bool, fused: bool = False) -> None:
        super().__init__()
        elements = settings.size**2 if spatial else settings.size
        alpha = settings.alpha / elements if settings.divide_alpha_by_window else settings.alpha
        self.kernels = _kernels(
            1 if spatial else columns, settings.size, spatial, alpha, settings.beta, settings.k, fused
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = _Normalise.apply(x_BCHW, *self.kernels)
        return out
