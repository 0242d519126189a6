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


def _powers(scale: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """scale to the power of -beta and of -1; square roots are several times faster than powers, and exact to rounding."""
    if beta == 0.75:
        root = scale.rsqrt()
        return root * root.sqrt(), root * root
    return scale.pow(-beta), 1.0 / scale


@functools.cache
def _kernels(
    size: int, spatial: bool, alpha: float, beta: float, k: float, fused: bool, relu: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """(forward of x, backward of gradient and x); layers with the same settings share what is compiled."""
    # cuda-convnet's window starts at -size // 2, for maps and positions alike.
    before, after = size // 2, size - 1 - size // 2
    window = _over_positions if spatial else _over_maps if fused else _over_maps_in_place

    def forward(x: Tensor) -> Tensor:
        wide = _wide(x)
        if relu:
            wide = wide.relu()
        scale = window(wide * wide, before, after) * alpha + k
        return (wide * _powers(scale, beta)[0]).to(x.dtype)

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        wide = _wide(x)
        if relu:
            wide = wide.relu()
        scale = window(wide * wide, before, after) * alpha + k
        power, inverse = _powers(scale, beta)
        through = grad * power
        spread = window(through * wide * inverse, after, before)
        of_x = through - (2 * alpha * beta) * wide * spread
        return (torch.where(x > 0, of_x, 0.0) if relu else of_x).to(x.dtype)

    if not fused:
        return forward, backward
    what, setting = "response norm runs unfused", "compute.fused=false"
    return Compiled(forward, what, setting), Compiled(backward, what, setting)


def _wide(x: Tensor) -> Tensor:
    """In bfloat16 the k of 2 and a small sum of squares would come to 2."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _apart(x_BCHW: Tensor, groups: int, like: Tensor) -> Tensor:
    """The groups of maps one after the other in dim 0, by a view of the memory of `like` and of all that lie as it does.

    With channels last, every position of every group becomes an image of one pixel.
    """
    if like.is_contiguous(memory_format=torch.channels_last):
        return x_BCHW.permute(0, 2, 3, 1).reshape(-1, like.shape[1] // groups, 1, 1)
    return x_BCHW.reshape(-1, like.shape[1] // groups, *like.shape[2:])


def _together(x: Tensor, like: Tensor) -> Tensor:
    """The reverse of `_apart`."""
    if like.is_contiguous(memory_format=torch.channels_last):
        batch, maps, height, width = like.shape
        return x.reshape(batch, height, width, maps).permute(0, 3, 1, 2)
    return x.reshape(like.shape)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, forward: Callable[[Tensor], Tensor], backward: Callable[..., Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.groups, ctx.kernel = groups, backward
        return forward(x) if groups == 1 else _together(forward(_apart(x, groups, x)), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        if ctx.groups == 1:
            return ctx.kernel(grads[0], x), None, None, None
        grad = ctx.kernel(_apart(grads[0], ctx.groups, x), _apart(x, ctx.groups, x))
        return _together(grad, x), None, None, None


class LocalResponseNorm(nn.Module):
    """Response norm of maps [B, C, H, W]; over neighbouring maps of each of `columns` equal groups, or over positions.

    fused: compile forward and backward into one pass each, at their first use; that takes seconds, or less from torch's cache.
    relu: apply it to the input first, in the same pass.
    """

    def __init__(
        self, settings: ResponseNorm, *, columns: int, spatial: bool, fused: bool = False, relu: bool = False
    ) -> None:
        super().__init__()
        elements = settings.size**2 if spatial else settings.size
        alpha = settings.alpha / elements if settings.divide_alpha_by_window else settings.alpha
        self.groups = 1 if spatial else columns
        self.kernels = _kernels(settings.size, spatial, alpha, settings.beta, settings.k, fused, relu)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = _Normalise.apply(x_BCHW, self.groups, *self.kernels)
        return out
