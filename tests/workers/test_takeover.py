"""An attempt that is over, but does not know it, writes no more."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.bucket import Bucket
from tests.talkers import Talkers
from tests.workers.columns import make, saver, state
from workers import checkpoint_store, saving
from workers.checkpoint_list import committed
from workers.checkpoint_store import FolderStore
from workers.data import storage
from workers.reports import CheckpointReport, WarningReport
from workers.takeover import TakenOverError, newest_attempt, take_over


def names(place: Path) -> list[str]:
    return [checkpoint.name for checkpoint in committed(str(place))]


def test_the_newest_mark_counts_and_is_the_only_one(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there"
    assert newest_attempt(str(place)) == 0
    for attempt in (1, 3):
        take_over(str(place), attempt)
        assert newest_attempt(str(place)) == attempt
        assert [path.name for path in place.iterdir()] == [f"attempt-{attempt:08d}"]
    for attempt in (2, 3):
        lost = f"has begun attempt 3 at this run, so attempt {attempt} does not begin"
        with pytest.raises(TakenOverError, match=lost):
            take_over(str(place), attempt)
    assert [path.name for path in place.iterdir()] == ["attempt-00000003"]
    take_over(f"file://{place}", 12)
    assert [path.name for path in place.iterdir()] == ["attempt-00000012"]
    assert names(place) == []


CONTENDS = """
import sys
from workers.reports import CheckpointReport, WarningReport
from workers.takeover import TakenOverError, take_over
for line in sys.stdin:
    try:
        take_over(sys.argv[1], int(line))
        print("begins", flush=True)
    except TakenOverError as error:
        print(error, flush=True)
"""


def test_of_two_hosts_at_one_number_exactly_one_begins(tmp_path: Path) -> None:
    line = [sys.executable, "-c", CONTENDS, str(tmp_path)]
    with Talkers(line, line) as both:
        for number in range(1, 41):
            said = both.say(str(number), str(number))
            lost = f"another command has begun attempt {number} at this run, so attempt {number} does not begin"
            assert sorted(said) == [lost, "begins"], number
            assert [path.name for path in tmp_path.iterdir()] == [f"attempt-{number:08d}"]


def test_of_two_hosts_at_different_numbers_the_earlier_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing was there when it looked, nor is its own number taken when it comes to that."""
    _take_over_before(FolderStore, "claim", tmp_path, monkeypatch, attempt=2)
    with pytest.raises(TakenOverError, match="has begun attempt 2 at this run, so attempt 1 does not"):
        take_over(str(tmp_path), 1)


def test_of_several_in_an_object_store_exactly_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, gate = Bucket(), threading.Barrier(4)
    monkeypatch.setattr(checkpoint_store.Remote, "at", lambda url, **how: bucket.remote())
    monkeypatch.setattr(storage, "CLAIM_SECONDS", 0.05)

    def contend(number: int) -> str:
        gate.wait(60)
        try:
            take_over("gs://bucket/run", number)
        except TakenOverError as error:
            return str(error)
        return "begins"

    with ThreadPoolExecutor(4) as threads:
        for number in range(1, 11):
            said = sorted(threads.map(contend, [number] * 4))
            lost = f"another command has begun attempt {number} at this run, so attempt {number} does not begin"
            assert said == [lost] * 3 + ["begins"], number
            assert newest_attempt("gs://bucket/run") == number and len(bucket.objects) == 1


def test_taken_over_before_the_commit_and_before_the_removal(
    alone: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed is no failure; the next save is."""
    own = saver(tmp_path, *make(), alone)
    for step in (1, 2):
        own.save(state(step))
        own.wait()
    own.reports()
    before = names(tmp_path)
    with monkeypatch.context() as patch:
        _take_over_before(saving.Saver, "_prune", tmp_path, patch, attempt=2)
        own.save(state(3))
        own.wait()
    assert names(tmp_path) == [*before, "step-00000003-a1"], "nothing is removed"
    committed_, warning = own.reports()
    assert isinstance(committed_, CheckpointReport) and isinstance(warning, WarningReport)
    assert "old checkpoints were not removed: attempt 2" in warning.text
    later = saver(tmp_path, *make(), alone, attempt=3)
    _take_over_before(saving.Saver, "_put_state", tmp_path, monkeypatch, attempt=4)
    later.save(state(4))
    with pytest.raises(
        OSError, match=r"attempt 4 at this run has begun, so attempt 3 writes no more.*ones before it are"
    ):
        later.wait()
    assert names(tmp_path) == [*before, "step-00000003-a1"]


def _take_over_before(owner: Any, name: str, place: Path, monkeypatch: pytest.MonkeyPatch, *, attempt: int) -> None:
    as_it_is = getattr(owner, name)

    def taken_over_first(self: Any, *what: Any) -> Any:
        monkeypatch.setattr(owner, name, as_it_is)
        take_over(str(place), attempt)
        return as_it_is(self, *what)

    monkeypatch.setattr(owner, name, taken_over_first)
