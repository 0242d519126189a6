"""Checks before a run: what is wrong with nodes, versions, GPUs, network, storage and data, all at once and in words."""
