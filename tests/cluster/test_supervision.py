"""Supervision by itself: what follows each kind of end. Actors, placement and checkpoints are real, columns are played."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import GetTimeoutError

from cluster import attempts, group, supervisor
from cluster.failures import NoRoomError, RunFailed
from cluster.outcomes import Finished, Stopped
from cluster.signals import Interrupted
from configs.errors import UnreachableError, UserError
from tests.cluster.actors import PlayedColumn
from tests.cluster.play import Act, Play, PlayedGroup
from workers.checkpoint import Checkpoint

ALL = {"CPU": 4.0}
"""Of the cluster's, but for data workers."""
SETTLE_SECONDS = attempts.SETTLE_SECONDS
DIES: list[Act] = [("die", 0)]


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[str]:
    """The only one, by id."""
    ray.init(
        address="local", num_cpus=5, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=10**8
    )
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


@pytest.fixture(autouse=True)
def diagnose(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Played actors in the place of real ones, and nothing to see of them; waits that are sized for real ones cut short."""
    monkeypatch.setattr(attempts, "WorkerGroup", PlayedGroup)
    monkeypatch.setattr(attempts, "SETTLE_SECONDS", 1.0)
    monkeypatch.setattr(attempts, "diagnose", diagnose := Mock())
    monkeypatch.setattr(group, "ColumnWorker", PlayedColumn)
    monkeypatch.setattr(group, "column_environment", lambda mesh, rank: {})  # one of its own starts a second later
    monkeypatch.setattr(supervisor, "STATUS_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "COMPANION_SECONDS", 0.5)
    return diagnose


def saves(step: int, *then: Act) -> list[Act]:
    return [("save", step), *then]


def finished(play: Play) -> Play:
    assert isinstance(play.perform(), Finished)
    return play


def test_failures_are_counted_since_the_last_checkpoint(tmp_path: Path) -> None:
    settings = "network.columns=2 fault.max_failures=1"
    play = finished(Play(tmp_path, *(saves(step, ("die", 1)) for step in (5, 10, 15)), settings=settings))
    assert [attempt["step"] for attempt in play.log("attempt")] == [0, 5, 10, 15]
    assert len(play.attempts.failures) == 3
    assert "column r0 c1 (pid " in play.text and "was killed" in play.text and "continuing from" in play.text
    assert "parts of a batch" not in play.text


def test_what_a_checkpoint_holds_and_the_log_lacks_is_told_once_before_the_next_attempt(tmp_path: Path) -> None:
    steps: list[Act] = [("train_step", step) for step in range(1, 5)]
    first = [*steps[:2], ("wait_until_taken",), steps[2], *saves(3, steps[3], *DIES)]
    play = finished(Play(tmp_path, first, DIES, [steps[3]]))
    told = [(entry["kind"], entry["step"]) for entry in play.log("start", "attempt", "train", "restart")]
    lost = [("restart", 3), ("train", 3), ("attempt", 3), ("restart", 3), ("attempt", 3)]
    assert told == [("start", 0), ("attempt", 0), ("train", 1), ("train", 2), *lost, ("train", 4)]
    assert all(entry["time"] > 1e9 for entry in play.log("train")), "as all others"
    assert play.reporting.totals.images == 4 * 1280


def test_without_a_new_checkpoint_the_budget_is_spent_and_pauses_grow(tmp_path: Path) -> None:
    play = Play(tmp_path, saves(5, *DIES), DIES, DIES, settings="fault.max_failures=2 fault.backoff_seconds=1")
    told = r"column r0 c0 .*number 3 since the last checkpoint, and fault.max_failures is 2"
    with pytest.raises(RunFailed, match=told):
        play.perform()
    assert play.attempts.number == 3
    [_, second] = [restart["time"] for restart in play.log("restart")]
    assert second - play.log("failure")[1]["time"] >= 1


def test_a_hang_counts_as_a_failure(tmp_path: Path, diagnose: Mock) -> None:
    settings = "fault.hang_timeout_seconds=1 fault.max_failures=1"
    play = finished(Play(tmp_path, saves(5, ("hang",)), settings=settings))
    assert [failure["cause"] for failure in play.log("failure")] == ["hang"]
    assert play.text.count("column r0 c0 has a feed") == 2, "what a feed says is told once"
    assert diagnose.return_value.join.call_count == 1, "the end waits for what is still being written down"


def test_a_node_taken_away_is_no_failure(tmp_path: Path, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "draining_nodes", lambda: {node})
    monkeypatch.setattr(supervisor, "NODES_SECONDS", 60.0)  # it dies before it is known to be leaving
    play = finished(Play(tmp_path, DIES, DIES, settings="fault.max_failures=0"))
    assert "preemption 2 of any number since the last checkpoint" in play.text


def test_a_node_that_is_leaving_is_left(tmp_path: Path, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(tmp_path, saves(5, ("stop_when_asked",)), settings="fault.max_failures=0")
    monkeypatch.setattr(supervisor, "draining_nodes", lambda: {node} if play.attempts.number == 1 else set())
    monkeypatch.setattr(supervisor, "NODES_SECONDS", 0.1)
    assert finished(play).attempts.failures == []
    assert [restart["cause"] for restart in play.log("restart")] == ["drain"]


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def fails(error: Exception) -> list[Act]:
    return saves(5, ("fail", 0, error))


@pytest.mark.parametrize(
    ("acts", "settings", "raised", "said"),
    [
        ([fails(FloatingPointError("nan"))], "", RunFailed, "nan. No other attempt is made"),
        ([fails(UserError("no such class"))], "", UserError, "no such class"),
        ([fails(os_error(errno.ENOSPC))], "", RunFailed, "No space left on device. No other .*: make room on the disk"),
        ([fails(os_error(errno.EACCES))], "", RunFailed, "Permission denied. No other attempt is made"),
        ([DIES], "fault.rejoin_timeout_seconds=1", RunFailed, "no room for the run in the cluster"),
        (
            [],
            "cluster.replicas=8 cluster.start_timeout_seconds=1",
            NoRoomError,
            "needs 8.08 CPUs .* GPUs .* has 5 CPUs",
        ),
    ],
)
def test_what_ends_a_run(
    tmp_path: Path, acts: list[list[Act]], settings: str, raised: type[Exception], said: str
) -> None:
    """What would only happen again, and a cluster that has no room: from the start on, or for longer than may be."""
    play = Play(tmp_path, *acts, taken={2: ALL}, settings=settings)
    with pytest.raises(raised, match=said):
        play.perform()
    assert len(play.log("attempt")) == len(acts)


@pytest.mark.parametrize(
    "error",
    [RuntimeError(), ConnectionResetError(), GetTimeoutError(), UnreachableError("no answer"), os_error(errno.EIO)],
)
def test_what_may_be_over_soon_is_tried_again(tmp_path: Path, error: Exception) -> None:
    assert len(finished(Play(tmp_path, fails(error))).attempts.failures) == 1


@pytest.mark.parametrize("tries", [1, 9])
def test_a_storage_that_is_away_is_waited_for_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """The columns meet the outage first, then the driver, which looks for the newest checkpoint there."""
    play = Play(tmp_path, fails(TimeoutError("no answer")), settings="fault.max_failures=3")
    real, answers = play.run.latest, iter([True, True, *[False] * tries])

    def latest() -> Checkpoint | None:
        if not next(answers, True):
            raise UnreachableError("the storage does not answer")
        return real()

    monkeypatch.setattr(play.run, "latest", latest)
    if tries == 1:
        assert finished(play).attempts.failures[1:] == ["the storage does not answer"]
        assert play.log("attempt")[-1]["step"] == 5
    else:
        with pytest.raises(RunFailed, match=r"fault\.max_failures is 3"):
            play.perform()


def test_a_machine_that_was_asleep_is_what_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to look after it finds a connection broken, or nothing moved for an hour."""
    looks = iter([0.0])
    monkeypatch.setattr(supervisor, "boot_time", lambda: next(looks, 3600.0))
    play = finished(Play(tmp_path, fails(RuntimeError("gloo: timed out"))))
    [failure] = play.log("failure")
    assert failure["what"].startswith("this machine stood still for 3600 s, and then column r0 c0 ")
    assert "note: this machine stood still for 3600 s (it was suspended" in play.text


def test_a_signal_stops_at_a_step(tmp_path: Path) -> None:
    play = Play(tmp_path, saves(5, ("signal", signal.SIGTERM), ("stop_when_asked",)))
    assert play.perform() == Stopped(why="signal", step=5)
    assert play.signals.requested == signal.SIGTERM


ASK: Act = ("signal", signal.SIGTERM)


@pytest.mark.parametrize(
    ("acts", "late"), [((ASK, ("wait_until_asked",), ASK, ("work", 60)), False), ((ASK, ("work", 60)), True)]
)
def test_a_stop_at_once(tmp_path: Path, acts: tuple[Act, ...], late: bool) -> None:
    """By a second signal, or when it took as long as a step may."""
    play = Play(tmp_path, saves(5, *acts), settings=f"fault.hang_timeout_seconds={5 if late else 120}")
    with pytest.raises(Interrupted) as stopped:
        play.perform()
    assert stopped.value.number == signal.SIGTERM
    assert ("the columns did not stop in time" in play.text) == late


@pytest.mark.parametrize(("taken", "gpus"), [(ALL, 0), ({"GPU": 1.0}, 1)])
def test_a_restart_waits_for_a_node_to_return(tmp_path: Path, taken: dict[str, float], gpus: int) -> None:
    play = finished(Play(tmp_path, DIES, taken={2: taken}, taken_seconds=2.0, gpus=gpus))
    assert [attempt["replicas"] for attempt in play.log("attempt")] == [1, 1]


def test_a_node_whose_ray_is_started_anew_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is back after six seconds; an elastic run would lose more by shrinking and growing again."""
    now = [0.0]
    sleep = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    monkeypatch.setattr(attempts, "time", sleep)
    monkeypatch.setattr(attempts, "SETTLE_SECONDS", SETTLE_SECONDS)
    monkeypatch.setattr(attempts, "replicas_that_fit", lambda plan: 4 if now[0] > 6 else 2)
    play = Play(tmp_path, settings="cluster.replicas=4 fault.elastic=true")
    assert play.attempts._shape(first=False).mesh.replicas == 4


def test_elastic_runs_take_a_divisor_of_their_replicas_and_come_back(tmp_path: Path) -> None:
    """Room for 3 of 4 is used by 2, for each takes the same number of parts of a batch."""
    settings = "cluster.replicas=4 fault.elastic=true fault.max_failures=2"
    acts: list[list[Act]] = [DIES, DIES, saves(5, ("stop_when_asked",))]
    play = finished(Play(tmp_path, *acts, taken={2: {"CPU": 1.0}, 3: {"CPU": 3.0}}, settings=settings))
    assert [attempt["replicas"] for attempt in play.log("attempt")] == [4, 2, 1, 4]
    assert "there is room for 4 replicas instead of 1" in play.text
    assert "2 of 4 replicas: each takes 2 parts of a batch" in play.text
    assert play.log("attempt")[-1]["step"] == 5
