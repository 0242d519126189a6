"""A process group of this process alone, for what needs one and nobody else."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

# The tensors are small, so that more threads would only wait for each other, long where other processes use the cores too.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def alone() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()
