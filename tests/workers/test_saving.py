"""Saving while training goes on: what is saved is the state at its step, one at a time, and a failure reaches every rank."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch.distributed as dist

from configs.loader import load as load_config
from configs.loader import to_dict
from tests.workers.columns import differences, fill, holds, make, save_whole, saver, state
from workers import saving
from workers.checkpoint_list import committed
from workers.checkpoint_store import keyless
from workers.reports import CheckpointReport

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets `save_file` begin when it is opened."""
    gate, working = SimpleNamespace(reached=threading.Event(), opened=threading.Event()), saving.save_file

    def held(*arguments: Any) -> None:
        gate.reached.set()
        assert gate.opened.wait(60)
        working(*arguments)

    monkeypatch.setattr(saving, "save_file", held)
    return gate


def test_what_is_saved_is_the_state_at_its_step_though_training_goes_on(
    alone: dist.ProcessGroup, tmp_path: Path, gate: Any
) -> None:
    model, optimizer = make()
    fill(model, optimizer, 1)
    own, facts = saver(tmp_path, model, optimizer, alone), {**state(1), "schedule": {"waited": 1}}
    own.save(facts)
    assert gate.reached.wait(60)
    # Not a byte is written yet, and everything changes.
    fill(model, optimizer, 2)
    facts["schedule"]["waited"] = 2
    assert committed(str(tmp_path)) == [] and own.reports() == []
    gate.opened.set()
    own.wait()
    assert differences(model, optimizer, 2) == []
    [found] = committed(str(tmp_path))
    assert holds(found, 1) and found.state["schedule"] == {"waited": 1}


def test_one_save_is_under_way_and_the_next_waits_and_says_how_long(
    alone: dist.ProcessGroup, tmp_path: Path, gate: Any
) -> None:
    model, optimizer = make()
    own = saver(tmp_path, model, optimizer, alone)
    own.save(state(1))
    assert gate.reached.wait(60)
    threading.Timer(0.3, gate.opened.set).start()
    fill(model, optimizer, 2)
    own.save(state(2))
    [first] = own.reports()
    assert isinstance(first, CheckpointReport)
    assert (first.step, first.folder) == (1, f"{tmp_path}/step-00000001-a1")
    own.wait()
    [second] = own.reports()
    assert isinstance(second, CheckpointReport)
    assert max(first.waited_seconds, 0.1) < second.waited_seconds <= second.stopped_seconds
    assert first.commit_seconds > 0.1
    assert [found.step for found in committed(str(tmp_path))] == [1, 2]
    assert holds(committed(str(tmp_path))[-1], 2)


def test_state_comes_back_as_it_was_given_and_a_step_that_is_committed_is_left_alone(
    alone: dist.ProcessGroup, tmp_path: Path
) -> None:
    """By whatever attempt: it is the same, bit for bit; writing it anew would put it at risk."""
    given = {"schedule": {"best": float("inf"), "waited": 2}, "errors": {"loss": 0.1}, "dataset": "ä"}
    own = saver(tmp_path, *make(), alone)
    own.wait()
    assert not own.has_failed and own.reports() == [] and list(tmp_path.iterdir()) == [], "nothing is under way"
    first = save_whole(tmp_path, alone, 7, attempt=3, facts=given)
    [found] = committed(str(tmp_path))
    assert {key: found.state[key] for key in given} == given
    assert (found.name, found.state["attempt"]) == ("step-00000007-a3", 3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for attempt in (3, 4):
        assert save_whole(tmp_path, alone, 7, attempt=attempt) == first
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_saving_over_what_was_never_committed_begins_anew(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    folder = Path(save_whole(tmp_path, alone, 1))
    (folder / "columns-00-to-00.safetensors").write_bytes(b"of a save that had another split")
    (folder / "state.json").unlink()
    save_whole(tmp_path, alone, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["columns-00-to-01.safetensors", "state.json"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device"),
            r"\[Errno 28\] No space left on device\); the ones before it are whole",
        ),
        (TypeError("not a tensor"), "TypeError: not a tensor"),  # a mistake of ours is named too
    ],
)
def test_a_failure_is_an_oserror_and_kept_until_it_is_asked_for(
    alone: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    save_whole(tmp_path, alone, 1)
    monkeypatch.setattr(saving, "save_file", Mock(side_effect=error))
    own = saver(tmp_path, *make(), alone)
    own.save(state(2))
    end = time.monotonic() + 60
    while not own.has_failed:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert own.reports() == []
    for again in (lambda: own.save(state(3)), own.wait):
        with pytest.raises(OSError, match=rf"the checkpoint could not be written \(rank 0: {said}"):
            again()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001-a1"]


def test_a_place_that_is_a_file(alone: dist.ProcessGroup, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the checkpoint could not be written \(rank 0: .*/file"):
        save_whole(tmp_path / "file", alone)


def test_a_checkpoint_keeps_its_config_but_no_keys() -> None:
    folder = "s3://bucket/runs?access_key=me&secret_key=mine&endpoint_override=host:1"
    given = ["data.path=s3://me:mine@bucket/set?region=x&secret_key=mine", f"checkpoint.folder={folder}"]
    kept = to_dict(keyless(load_config(None, given)))
    assert kept["data"]["path"] == "s3://bucket/set?region=x"
    assert kept["checkpoint"]["folder"] == "s3://bucket/runs?endpoint_override=host%3A1"
    assert "mine" not in json.dumps(kept)
    assert keyless(load_config()).data.path == load_config().data.path
