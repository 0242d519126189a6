"""What the tests with several processes rest on: failures come back, and nobody waits for ever."""

import multiprocessing
import time

import pytest
import torch.distributed as dist

from tests.ranks import run_ranks


def fail_on_the_second(rank: int) -> None:
    if rank == 1:
        raise KeyError("lost on the way")
    dist.barrier()  # which the other one never comes to


def sleep(rank: int) -> None:
    time.sleep(600)


def test_a_failed_rank_ends_the_others_and_its_traceback_comes_back() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 of 2 failed.*fail_on_the_second.*lost on the way"):
        run_ranks(fail_on_the_second, 2)


def test_time_limit() -> None:
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] of 2 were not done after 2"):
        run_ranks(sleep, 2, time_limit_seconds=2)
    assert not multiprocessing.active_children(), "they were waited for, or left behind"
