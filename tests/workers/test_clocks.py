"""Clocks of two real processes, one of which is made to be ahead or behind."""

import time
from typing import Any

import pytest
import torch.distributed as dist

from tests.ranks import run_ranks
from workers.clocks import Clock, compare

SHIFTS_NS = (0, 5_000_000_000, -3_000_000_000)


def ranks(rank: int) -> list[Clock]:
    """Rank 1 is ahead by each of these in turn, rank 2 by twice as much."""
    group: Any = dist.group.WORLD

    def shifted(shift_ns: int) -> Clock:
        return compare(group, lambda: time.time_ns() + rank * shift_ns)

    return [shifted(shift_ns) for shift_ns in SHIFTS_NS]


def test_clocks_that_are_apart_are_found_to_be_and_equal_ones_are_left_alone() -> None:
    found = run_ranks(ranks, 3)
    assert found[0] == [Clock()] * len(SHIFTS_NS)
    for rank in (1, 2):
        for shift, clock in zip(SHIFTS_NS, found[rank], strict=True):
            # The machine's one clock: what is found may be wrong by no more than is said, and a reply takes no second here.
            assert clock.ahead_ns == pytest.approx(rank * shift, abs=clock.error_ns)
            assert 0 < clock.error_ns < 1_000_000_000
        assert found[rank][0].ahead_ns == 0
