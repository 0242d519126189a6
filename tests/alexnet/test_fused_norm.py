"""The compiled response norm: equal to torch's own in both layouts, and to the plain form where there is no compiler."""

import warnings

import pytest
import torch

from alexnet.compiled import Compiled
from alexnet.response_norm import LocalResponseNorm
from configs.schema import ResponseNorm


def results(norm: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(grad)
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_equals_torchs_own(layout: torch.memory_format, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
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
