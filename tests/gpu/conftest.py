"""The tests of tests/parity that are collected here again compute on the GPU; this folder's own, on CPUs as well."""

import os

import pytest
import torch

torch.set_num_threads(1)
# A pool of compilers for each of several ranks takes longer to start than there is to compile.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def _or_skip(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return device


@pytest.fixture(scope="session")
def device() -> str:
    """GPU_TIER_DEVICE=cpu rehearses on a machine without."""
    return _or_skip(os.environ.get("GPU_TIER_DEVICE", "cuda"))


@pytest.fixture(params=["cpu", "cuda"])
def any_device(request: pytest.FixtureRequest) -> str:
    return _or_skip(request.param)
