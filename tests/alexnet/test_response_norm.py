"""Response norm: its analytic backward against finite differences, its values against torch's norm and a loop.

The compiled one is equal to torch's own in both layouts, and to the plain form where there is no compiler.
"""

import dataclasses
import warnings
from itertools import product

import pytest
import torch
from torch import Tensor

from alexnet.compiled import Compiled
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
    x, copy = maps(), maps()
    found = LocalResponseNorm(settings, columns=2, spatial=spatial)(x)
    assert torch.equal(x, copy), "the input is left alone"
    norm = reference.norm_over_positions if spatial else reference.norm_over_maps
    expected = torch.cat([norm(settings, own) for own in x.chunk(2, dim=1)], dim=1)
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(("settings", "spatial"), VARIANTS)
def test_gradient_equals_finite_differences(settings: ResponseNorm, spatial: bool) -> None:
    x = maps(own=3, side=3)[:1].requires_grad_()
    assert torch.autograd.gradcheck(LocalResponseNorm(settings, columns=2, spatial=spatial), x)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 15])
@pytest.mark.parametrize("divide", [True, False])
def test_formula_in_a_loop(size: int, divide: bool) -> None:
    """The paper's sum over neighbouring maps, written as it is printed; for even sizes one more map below than above.

    A window of 15 is larger than the maps.
    """
    settings = dataclasses.replace(STRONG, size=size, divide_alpha_by_window=divide)
    x = maps(1)
    found = LocalResponseNorm(settings, columns=1, spatial=False)(x)
    alpha = settings.alpha / size if divide else settings.alpha
    for i in range(x.shape[1]):
        first, last = max(0, i - size // 2), min(x.shape[1] - 1, i - size // 2 + size - 1)
        total = sum(x[:, j] ** 2 for j in range(first, last + 1))
        expected = x[:, i] / (settings.k + alpha * total) ** settings.beta
        torch.testing.assert_close(found[:, i], expected, rtol=ROUNDING, atol=ROUNDING)


def results(norm: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(grad)
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_equals_torchs_own(layout: torch.memory_format, dtype: torch.dtype, tolerance: float) -> None:
    x = (torch.randn(5, 24, 9, 9, dtype=dtype) * 20).contiguous(memory_format=layout)
    grad = torch.randn_like(x)
    ours = results(LocalResponseNorm(ResponseNorm(alpha=1e-2), columns=1, spatial=False, fused=True), x, grad)
    theirs = results(torch.nn.LocalResponseNorm(5, 1e-2, 0.75, 2.0), x, grad)
    for got, wanted in zip(ours, theirs, strict=True):
        # Sums of five squares in another order: a few roundings of the largest number.
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
        assert got.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(("columns", "spatial"), [(1, False), (2, False), (1, True)])
def test_fused_equals_plain_for_any_batch(columns: int, spatial: bool) -> None:
    settings = ResponseNorm(size=3, alpha=0.3)
    fused = LocalResponseNorm(settings, columns=columns, spatial=spatial, fused=True)
    plain = LocalResponseNorm(settings, columns=columns, spatial=spatial)
    for batch in (4, 3, 1):
        x, grad = torch.randn(batch, 8, 6, 6, dtype=torch.float64), torch.randn(batch, 8, 6, 6, dtype=torch.float64)
        for got, wanted in zip(results(fused, x, grad), results(plain, x, grad), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)


def test_without_a_compiler_it_runs_plainly_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: object) -> object:
        def fail(*tensors: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no working C++ compiler found\nand a long story")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(Compiled, "_told", set())
    # Settings of its own, for kernels are shared between norms with the same ones.
    settings = ResponseNorm(size=3, alpha=0.123)
    x, grad = torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = results(LocalResponseNorm(settings, columns=1, spatial=False, fused=True), x, grad)
    assert [str(warning.message) for warning in told if "unfused" in str(warning.message)] == [
        "response norm runs unfused, which is slower: no working C++ compiler found. If there is no C++ compiler, "
        "install one; or set compute.fused=false"
    ]
    for got, wanted in zip(ours, results(LocalResponseNorm(settings, columns=1, spatial=False), x, grad), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("spatial", [False, True])
def test_rectifier_in_the_same_pass(layout: torch.memory_format, fused: bool, spatial: bool) -> None:
    settings = ResponseNorm(size=3, alpha=0.3)
    x = torch.randn(3, 8, 5, 5, dtype=torch.float64).contiguous(memory_format=layout)
    x[0, :, 0, 0] = 0.0  # where the rectifier's gradient is zero, as torch has it
    grad = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    norm = LocalResponseNorm(settings, columns=2, spatial=spatial, fused=fused, relu=True)
    plain = torch.nn.Sequential(torch.nn.ReLU(), LocalResponseNorm(settings, columns=2, spatial=spatial))
    for got, wanted in zip(results(norm, x, grad), results(plain, x, grad), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("fused", [False, True])
def test_bfloat16_is_rounded_once(fused: bool) -> None:
    x, grad = (torch.randn(2, 16, 5, 5).mul(30).bfloat16() for _ in range(2))
    found = results(LocalResponseNorm(ResponseNorm(), columns=1, spatial=False, fused=fused), x, grad)
    wide = results(LocalResponseNorm(ResponseNorm(), columns=1, spatial=False), x.float(), grad.float())
    for got, wanted in zip(found, wide, strict=True):
        assert got.dtype == torch.bfloat16
        # Half a unit in the last of 8 bits.
        assert ((got.float() - wanted).abs() <= wanted.abs() * 2**-8 + 1e-30).all()
