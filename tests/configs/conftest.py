from pathlib import Path

import pytest
import torch

from tests.configs.files import SMALL, written

# The tensors are small, so that more threads would only wait for each other, long where other processes use the cores too.
torch.set_num_threads(1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file with the small config."""
    return written(tmp_path, "small.yaml", SMALL)
