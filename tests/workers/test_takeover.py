"""An attempt that is over, but does not know it, writes no more."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.workers.columns import make, saver, state
from workers import saving
from workers.checkpoint_list import committed
from workers.takeover import newest_attempt, take_over


def names(place: Path) -> list[str]:
    return [checkpoint.name for checkpoint in committed(str(place))]


def test_the_newest_mark_counts_and_is_the_only_one(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there"
    assert newest_attempt(str(place)) == 0
    for attempt, newest in ((1, 1), (3, 3), (3, 3), (2, 3)):
        take_over(str(place), attempt)
        assert newest_attempt(str(place)) == newest
    assert sorted(path.name for path in place.iterdir()) == ["attempt-00000002", "attempt-00000003"]
    take_over(f"file://{place}", 12)
    assert [path.name for path in place.iterdir()] == ["attempt-00000012"]
    (place / "attempt-00000013").mkdir()
    assert newest_attempt(str(place)) == 12, "a mark that was not finished is none"
    assert names(place) == []


def test_saves_of_an_earlier_attempt_fail_and_remove_nothing(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    own = saver(tmp_path, *make(), alone)
    for step in (1, 2, 3):
        own.save(state(step))
        own.wait()
    before = names(tmp_path)
    take_over(str(tmp_path), 2)
    own.save(state(4))
    with pytest.raises(
        OSError, match=r"attempt 2 at this run has begun, so attempt 1 writes no more.*ones before it are"
    ):
        own.wait()
    assert names(tmp_path) == before


@pytest.mark.parametrize("moment", ["before the state is put", "before old ones are removed"])
def test_taken_over_in_the_middle_of_a_save(
    alone: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    own = saver(tmp_path, *make(), alone)
    for step in (1, 2):
        own.save(state(step))
        own.wait()
    before = names(tmp_path)
    name = {"before the state is put": "_put_state", "before old ones are removed": "_prune"}[moment]
    as_it_is = getattr(saving.Saver, name)

    def taken_over_first(self: saving.Saver, *what: Any) -> Any:
        take_over(str(tmp_path), 2)
        return as_it_is(self, *what)

    monkeypatch.setattr(saving.Saver, name, taken_over_first)
    own.save(state(3))
    with pytest.raises(OSError, match="attempt 1 writes no more"):
        own.wait()
    assert set(before) <= set(names(tmp_path))
