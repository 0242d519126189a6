"""Settings of the numeric tests."""

import torch

# The tensors are small, so that more threads would only wait for each other, long where other processes use the cores too.
torch.set_num_threads(1)
