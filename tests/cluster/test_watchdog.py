"""A hang is told from work by the time that nothing moves; who hangs, by who does not answer."""

import time

import pytest

from cluster.watchdog import Watchdog
from configs.loader import load
from workers.progress import Patience, Progress, ProgressTeller


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def dog(clock: list[float]) -> Watchdog:
    limits = ("fault.hang_timeout_seconds=10", "cluster.collective_timeout_seconds=50")
    return Watchdog(load(None, [*limits, "checkpoint.save_timeout_seconds=90"]), ["column r0 c0", "column r0 c1"])


def at(number: int, patience: Patience = "usual", doing: str = "computing step 7") -> Progress:
    return Progress(number=number, doing=doing, patience=patience)


def test_no_hang_while_any_rank_moves(dog: Watchdog, clock: list[float]) -> None:
    """And all are starting until one has gone through its first step."""
    assert dog.starting
    for rank in (0, 1):
        dog.heard(rank, at(2, "first"))
    assert dog.starting
    for number in range(20):
        clock[0] += 9
        dog.heard(0, at(number))
        dog.heard(1, at(3))
        assert dog.hang() is None and not dog.starting


@pytest.mark.parametrize("patience", ["usual", "saving"])
def test_a_hang_names_the_one_that_does_not_answer(dog: Watchdog, clock: list[float], patience: Patience) -> None:
    """A process that is stopped while it saves is found as one that is stopped while it computes."""
    dog.heard(0, at(5))
    dog.heard(1, at(5, patience, doing="working on step 6"))
    for seconds in range(12):
        dog.heard(0, at(5))
        said = dog.hang()
        assert (said is not None) == (seconds == 11)
        assert ("has not answered" in dog.describe()) == (seconds > 5)
        clock[0] += 1
    assert said is not None and dog.silent_seconds == 1
    assert said.startswith("no column has made progress for 11 s: column r0 c1 has not answered for 11 s")
    assert "(it was working on step 6)" in said and said.endswith("column r0 c0 is computing step 7")
    assert not dog.saving


@pytest.mark.parametrize(("patience", "seconds"), [("first", 50), ("saving", 90)])
def test_first_steps_and_saves_have_time(dog: Watchdog, clock: list[float], patience: Patience, seconds: int) -> None:
    for _ in range(seconds - 1):
        dog.heard(0, at(1, patience))
        dog.heard(1, at(1))
        clock[0] += 1
        assert dog.hang() is None
        assert dog.saving == (patience == "saving")
    clock[0] += 2
    assert dog.hang() is not None


def test_progress_says_what_is_done_and_since_when(clock: list[float]) -> None:
    teller = ProgressTeller()
    assert teller.read() == Progress(number=0, doing="starting", seconds=0.0, patience="first")
    clock[0] += 3
    teller.begin("computing step 1")
    clock[0] += 2
    assert teller.read() == Progress(number=1, doing="computing step 1", seconds=2.0, patience="usual")
