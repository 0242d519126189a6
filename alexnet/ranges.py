"""Names for the parts of a step, for torch's profiler while it runs (`train.profile_steps`)."""

from contextlib import AbstractContextManager, nullcontext

import torch


def named(name: str) -> AbstractContextManager[object]:
    """What is done inside is seen under this name in a trace. Without a profiler this asks one question and does nothing."""
    return torch.profiler.record_function(name) if torch.autograd._profiler_enabled() else nullcontext()
