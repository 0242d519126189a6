"""`bench lrn`: forward and backward of the response norm alone."""

import time
from collections.abc import Callable
from typing import Any

import torch

from alexnet.response_norm import LocalResponseNorm
from cluster.benchmarks.rounds import interleave, show
from configs.schema import ResponseNorm


def response_norm(batch: int, rounds: int, threads: int, device: str) -> dict[str, Any]:
    """Forward and backward of the two norms of the network, ours against nn.LocalResponseNorm, in both layouts."""
    torch.set_num_threads(threads)
    figures: dict[str, Any] = {}
    for shape in ((batch, 96, 55, 55), (batch, 256, 27, 27)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = (torch.randn(shape, device=device) * 10).contiguous(memory_format=layout).requires_grad_()
            grad = torch.randn_like(x)
            contenders = {
                "stock": torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0),
                "ours": LocalResponseNorm(ResponseNorm(), columns=1, spatial=False, fused=True),
                "ours, two columns in one process": LocalResponseNorm(
                    ResponseNorm(), columns=2, spatial=False, fused=True
                ),
                "ours, not compiled": LocalResponseNorm(ResponseNorm(), columns=1, spatial=False),
            }
            name = f"{tuple(shape)} {str(layout).removeprefix('torch.')}"
            times = interleave({key: _pass(norm, x, grad, device) for key, norm in contenders.items()}, rounds)
            figures[name] = times
            print(f"\nresponse norm, forward and backward, {name}")
            show(times, "stock")
    return figures


def _pass(norm: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor, device: str) -> Callable[[], float]:
    def turn() -> float:
        started = time.perf_counter()
        norm(x).backward(grad)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        x.grad = None
        return seconds

    return turn
