"""What convolutions and matrix products are computed in."""

from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def set_precision(precision: Precision) -> None:
    """Of this process's float32 products, on GPUs: whether they may be computed in tf32.

    torch allows it for convolutions unless told otherwise, so fp32 has to be asked for.
    """
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def autocast(precision: Precision, device: str) -> torch.autocast:
    """The context of a forward pass: with bf16, products take and give bfloat16, and parameters stay as they are."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
