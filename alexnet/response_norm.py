"""Local response normalisation over neighbouring maps or positions, with its analytic backward.

    b = a * s ** -beta,   s = k + alpha' * (sum of a² over the window)                                  [P 3.3]

alpha' is alpha, or alpha divided by the number of elements in a full window as in the authors' code. Windows are cut off
at the edges: of the map, and of the column's own maps, also where one process owns several columns (authors'
layers-145.cfg: each column's norm has its own column as the only input).

Backward, with W the window sum (its own adjoint for odd sizes):
    da = g * s ** -beta - 2 alpha' beta a * W(g * a * s ** (-beta - 1)).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import ResponseNorm


def _sum_over_maps(x_BGMHW: Tensor, before: int, after: int) -> Tensor:
    """For each map of a group, the sum over itself, `before` maps below and `after` above, inside the group."""
    out = x_BGMHW.clone()
    maps = x_BGMHW.shape[2]
    for shift in range(1, max(before, after) + 1):
        if shift >= maps:
            break
        if shift <= before:
            out[:, :, shift:] += x_BGMHW[:, :, :-shift]
        if shift <= after:
            out[:, :, :-shift] += x_BGMHW[:, :, shift:]
    return out


def _sum_over_positions(x_BCHW: Tensor, before: int, after: int) -> Tensor:
    """For each position, the sum over the square of positions around it, inside the map."""
    padded = F.pad(x_BCHW, (before, after, before, after))
    return F.avg_pool2d(padded, before + after + 1, stride=1, divisor_override=1)


class _Normalise(torch.autograd.Function):
    """x * (k + alpha W(x²)) ** -beta; `adjoint` is the transpose of the window sum `window`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        window: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        alpha: float,
        beta: float,
        k: float,
    ) -> Tensor:
        scale = window(x * x).mul_(alpha).add_(k)
        ctx.save_for_backward(x, scale)
        ctx.adjoint, ctx.alpha, ctx.beta = adjoint, alpha, beta
        return _power(scale, beta).mul_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        x, scale = ctx.saved_tensors
        through = _power(scale, ctx.beta).mul_(grads[0])
        spread = ctx.adjoint((through * x).div_(scale))
        return through.sub_(spread.mul_(x), alpha=2 * ctx.alpha * ctx.beta), None, None, None, None, None


def _power(scale: Tensor, beta: float) -> Tensor:
    """scale ** -beta; two square roots are several times faster than a power, and exact to rounding."""
    if beta == 0.75:
        root = scale.rsqrt()
        return root.mul_(root.sqrt())
    return scale.pow(-beta)


class LocalResponseNorm(nn.Module):
    """Response norm of maps [B, C, H, W]; over neighbouring maps of each of `columns` equal groups, or over positions."""

    def __init__(self, settings: ResponseNorm, *, columns: int, spatial: bool) -> None:
        super().__init__()
        self.settings, self.columns, self.spatial = settings, columns, spatial
        elements = settings.size**2 if spatial else settings.size
        self.alpha = settings.alpha / elements if settings.divide_alpha_by_window else settings.alpha
        # cuda-convnet's window starts at -size // 2 for maps and positions alike; symmetric for odd sizes.
        self.before, self.after = settings.size // 2, settings.size - 1 - settings.size // 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        over = _sum_over_positions if self.spatial else _sum_over_maps
        before, after = self.before, self.after
        x = x_BCHW if self.spatial else x_BCHW.unflatten(1, (self.columns, -1))
        out: Tensor = _Normalise.apply(
            x,
            lambda values: over(values, before, after),
            lambda values: over(values, after, before),
            self.alpha,
            self.settings.beta,
            self.settings.k,
        )
        return out if self.spatial else out.flatten(1, 2)
