"""The layout of maps in memory."""

from typing import TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def in_layout(module: M, layout: torch.memory_format) -> M:
    """The module with its convolutions' weights in this order. Only what has four dims has one."""
    return module.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs know no such `to`


def channels_last(module: M) -> M:
    """The same in the order that makes the convolutions' outputs [N, H, W, C] in memory."""
    return in_layout(module, torch.channels_last)
