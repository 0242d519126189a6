"""Response norm: its analytic backward against finite differences, its values against torch's norm and a loop."""

import dataclasses
from itertools import product

import pytest
import torch
from torch import Tensor

from alexnet.response_norm import LocalResponseNorm
from configs.schema import ResponseNorm
from tests import reference

# Strong enough that the denominator matters: with the authors' 1e-4 a norm that did nothing would be nearly right.
STRONG = ResponseNorm(size=5, k=1.3, alpha=0.7, beta=0.75)
VARIANTS = [
    (dataclasses.replace(STRONG, size=size, beta=beta, divide_alpha_by_window=divide), spatial)
    for size, beta, divide, spatial in product((1, 2, 4, 5), (0.75, 0.4), (True, False), (True, False))
]

ROUNDING = 1e-13
"""A power and a sum of up to 25 terms, in float64."""


def maps(columns: int = 2, *, own: int = 7, side: int = 6) -> Tensor:
    """[3, columns * own, side, side], float64."""
    generator = torch.Generator().manual_seed(columns)
    return torch.randn(3, columns * own, side, side, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("settings", "spatial"), VARIANTS)
def test_equals_the_reference_per_column(settings: ResponseNorm, spatial: bool) -> None:
    x = maps()
    found = LocalResponseNorm(settings, columns=2, spatial=spatial)(x)
    norm = reference.norm_over_positions if spatial else reference.norm_over_maps
    expected = torch.cat([norm(settings, own) for own in x.chunk(2, dim=1)], dim=1)
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(("settings", "spatial"), VARIANTS)
def test_gradient_equals_finite_differences(settings: ResponseNorm, spatial: bool) -> None:
    x = maps(own=3, side=3)[:1].requires_grad_()
    assert torch.autograd.gradcheck(LocalResponseNorm(settings, columns=2, spatial=spatial), x)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("divide", [True, False])
def test_formula_in_a_loop(size: int, divide: bool) -> None:
    """The paper's sum over neighbouring maps, written as it is printed; for even sizes one more map below than above."""
    settings = dataclasses.replace(STRONG, size=size, divide_alpha_by_window=divide)
    x = maps(1)
    found = LocalResponseNorm(settings, columns=1, spatial=False)(x)
    alpha = settings.alpha / size if divide else settings.alpha
    for i in range(x.shape[1]):
        first, last = max(0, i - size // 2), min(x.shape[1] - 1, i - size // 2 + size - 1)
        total = sum(x[:, j] ** 2 for j in range(first, last + 1))
        expected = x[:, i] / (settings.k + alpha * total) ** settings.beta
        torch.testing.assert_close(found[:, i], expected, rtol=ROUNDING, atol=ROUNDING)


def test_window_larger_than_the_maps() -> None:
    settings = dataclasses.replace(STRONG, size=9, divide_alpha_by_window=False)
    x = maps(2, own=3)
    found = LocalResponseNorm(settings, columns=2, spatial=False)(x)
    total = x.square().unflatten(1, (2, 3)).sum(2, keepdim=True).expand(-1, -1, 3, -1, -1).flatten(1, 2)
    torch.testing.assert_close(found, x * (1.3 + 0.7 * total) ** -0.75, rtol=ROUNDING, atol=ROUNDING)


def test_one_process_with_two_columns_norms_each_on_its_own_bitwise() -> None:
    x, one = maps(2), LocalResponseNorm(STRONG, columns=1, spatial=False)
    assert torch.equal(
        LocalResponseNorm(STRONG, columns=2, spatial=False)(x), torch.cat([one(own) for own in x.chunk(2, 1)], dim=1)
    )


def test_windows_do_not_cross_columns() -> None:
    """A change in one column leaves the other's outputs and gradients as they were, to the bit."""
    norm = LocalResponseNorm(STRONG, columns=2, spatial=False)
    x = maps(2)
    changed = x.clone()
    changed[:, :7] *= 5
    x.requires_grad_()
    changed.requires_grad_()
    before, after = norm(x), norm(changed)
    assert torch.equal(before[:, 7:], after[:, 7:])
    assert not torch.equal(before[:, :7], after[:, :7])
    (upper,) = torch.autograd.grad(after[:, 7:].sum(), changed)
    assert torch.equal(upper[:, :7], torch.zeros_like(upper[:, :7]))
    whole = LocalResponseNorm(STRONG, columns=1, spatial=False)
    assert not torch.equal(whole(x)[:, 7], before[:, 7]), "the test would pass with windows that cross"


def test_input_is_left_alone() -> None:
    x = maps()
    copy = x.clone()
    LocalResponseNorm(STRONG, columns=2, spatial=True)(x)
    LocalResponseNorm(STRONG, columns=2, spatial=False)(x)
    assert torch.equal(x, copy)
