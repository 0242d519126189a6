"""Settings of the numeric tests."""

import pytest
import torch

# The tensors are small, so that more threads would only wait for each other, long where other processes use the cores too.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> str:
    """Where the code of training computes; `tests/gpu` collects some of these tests again, with another one."""
    return "cpu"
