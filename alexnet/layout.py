"""The layout of maps in memory."""

from typing import TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def channels_last(module: M) -> M:
    """The module with its convolutions' weights in the order that makes their outputs [N, H, W, C] in memory.

    Only what has four dims has this layout.
    """
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # mypy knows no such `to`
