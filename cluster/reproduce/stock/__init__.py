"""A config's recipe in plain PyTorch, one process, without anything of `alexnet` or `workers`: an independent opponent."""
