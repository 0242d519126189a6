"""How far the clocks of a run's processes are apart, so that what they did can be drawn in one picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Of one rank, seen from rank 0."""

    ahead_ns: int = 0
    """What it shows more than rank 0's at the same moment."""
    error_ns: int = 0
    """The most that `ahead_ns` may be wrong by."""


def compare(group: dist.ProcessGroup, now_ns: Callable[[], int] = time.time_ns) -> Clock:
    """This rank's clock against that of rank 0; every rank of `group` calls it, for tensors on the CPU.

    Rank 0 asks each other rank in turn for its time, several times. The answer was given at some moment between question and
    reply; the quickest reply leaves the least doubt (Cristian, Probabilistic clock synchronization, 1989). Clocks that may be
    equal, as those of processes on one machine are, are taken to be.
    """
    own = Clock()
    for other in range(1, group.size()):
        found = torch.zeros(2, dtype=torch.int64)
        if group.rank() == 0:
            ahead, error = min((_ask(group, other, now_ns) for _ in range(ROUNDS)), key=lambda answer: answer[1])
            found[:] = torch.tensor([0 if abs(ahead) <= error else ahead, error])
            dist.send(found, group=group, group_dst=other)
        elif group.rank() == other:
            for _ in range(ROUNDS):
                dist.recv(found, group=group, group_src=0)
                found[0] = now_ns()
                dist.send(found, group=group, group_dst=0)
            dist.recv(found, group=group, group_src=0)
            own = Clock(ahead_ns=int(found[0]), error_ns=int(found[1]))
    return own


def _ask(group: dist.ProcessGroup, other: int, now_ns: Callable[[], int]) -> tuple[int, int]:
    """How far `other`'s clock is ahead, and half of the time from question to reply."""
    told = torch.zeros(2, dtype=torch.int64)
    asked = now_ns()
    dist.send(told, group=group, group_dst=other)
    dist.recv(told, group=group, group_src=other)
    replied = now_ns()
    return int(told[0]) - (asked + replied) // 2, (replied - asked + 1) // 2
