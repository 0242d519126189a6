"""The loop's policy: when it reports, saves and stops, and what it knows after a restart.

Steps are played, because their mathematics is tested elsewhere; program, meters, checkpoints and the process group are real.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet.exchange import ColumnExchange
from alexnet.schedule import make_schedule
from configs.loader import load
from tests.workers.columns import make
from workers import meters, saving
from workers.checkpoint import Checkpoint
from workers.checkpoint_list import committed
from workers.loop import Loop
from workers.mesh import Mesh
from workers.program import Program
from workers.reports import ColumnReport, ProfileReport


class PlayedStep:
    """Counts, and takes the exchange a second each time."""

    def __init__(self, group: dist.ProcessGroup, loss: float = 2.0) -> None:
        self.model, self.optimizer = make()
        self.model.exchange = ColumnExchange(group)
        self.loss = self.tested_loss = loss
        self.trained = self.tested = 0

    def _sums(self, images: float, loss: float) -> Tensor:
        assert isinstance(self.model.exchange, ColumnExchange)
        self.model.exchange.seconds += 1.0
        return torch.tensor([images, images * loss, images, 0.0], dtype=torch.float64)

    def train(self, batch: object, rates: object, *, part: int, parts: int) -> Tensor:
        self.trained += 1
        return self._sums(4.0, self.loss)

    def test(self, batch: object) -> Tensor:
        self.tested += 1
        return self._sums(2.0, self.tested_loss)


class Started:
    """A loop of 6 steps with an evaluation of 3 batches after every second, saving every `every_steps`.

    taken: how many of its reports the driver takes.
    """

    def __init__(
        self,
        root: Path,
        group: dist.ProcessGroup,
        *,
        loss: float = 2.0,
        start: Checkpoint | None = None,
        every_steps: int | None = None,
        attempt: int = 1,
        taken: int = 0,
        stop: Callable[[PlayedStep], bool] = lambda step: False,
    ) -> None:
        config = load(None, ["train.report_every_steps=3", "train.batch_size=4"])
        config = replace(config, checkpoint=replace(config.checkpoint, every_steps=every_steps))
        program = Program(
            batch_size=4, test_batch_size=2, replicas=1, replica=0, train_rows=8, validation_rows=6, total_steps=6,
            evaluation_every=2.0,
        )  # fmt: skip
        self.told: list[ColumnReport] = []
        self.step = PlayedStep(group, loss)
        step: Any = self.step
        batches: Any = iter(range(1000))
        self.loop = Loop(
            config=config,
            mesh=Mesh(replicas=1, processes_per_replica=1, columns_per_process=2, device="cpu"),
            rank=0,
            program=program,
            step=step,
            schedule=make_schedule(config.schedule),
            batches=batches,
            group=group,
            save_group=dist.new_group(backend="gloo"),
            checkpoints=str(root),
            facts={"seed": 5},
            report=self.told.append,
            untold=lambda: self.told[taken:],
            asked_to_stop=lambda: stop(self.step),
            start=start,
            attempt=attempt,
        )

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [report.as_json() for report in self.told]

    def said(self) -> list[tuple[str, int]]:
        """Without checkpoints, which come when they are committed, some items later."""
        return [(report["kind"], report["step"]) for report in self.reports if report["kind"] != "checkpoint"]

    def saved(self) -> list[int]:
        return [report["step"] for report in self.reports if report["kind"] == "checkpoint"]


Start = Callable[..., Started]


@pytest.fixture
def start(alone: dist.ProcessGroup, tmp_path: Path) -> Start:
    """Makes loops that save in one folder."""
    return partial(Started, tmp_path, alone)


def steps_in(folder: Path) -> list[int]:
    return [found.step for found in committed(str(folder))]


def test_a_whole_run(start: Start, tmp_path: Path) -> None:
    """Reports come every third step and before each evaluation, and of a profile; each evaluation is saved."""
    run = start()
    profiling = Mock(
        **{"end.side_effect": lambda step: ProfileReport(step=5, first=5, last=5, bytes=[1]) if step == 5 else None}
    )
    run.loop.profiling = profiling
    ended, errors = run.loop.train()
    assert ended == "finished"
    assert (errors["images"], errors["loss"], errors["top1_error"], errors["step"]) == (6, 2.0, 1.0, 6)
    assert run.said() == [
        ("train", 2), ("evaluation", 2), ("train", 3), ("train", 4), ("evaluation", 4), ("profile", 5), ("train", 6),
        ("evaluation", 6),
    ]  # fmt: skip
    assert profiling.method_calls == [part(step) for step in range(1, 7) for part in (call.begin, call.end)]
    assert run.saved() == [2, 4, 6]
    assert (run.step.trained, run.step.tested) == (6, 9)
    newest = committed(str(tmp_path))[-1]
    assert (newest.step, newest.evaluated, newest.state["samples"], newest.state["seed"]) == (6, True, 24, 5)
    assert newest.state["errors"] == errors


def test_saving_between_evaluations_and_the_attempt_in_the_names(start: Start, tmp_path: Path) -> None:
    run = start(every_steps=1, attempt=3)
    run.loop.train()
    assert run.saved() == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005-a3", "step-00000006-a3"]
    assert committed(str(tmp_path))[-1].state["config"]["name"] == "demo", "a checkpoint stands alone"


def test_a_checkpoint_holds_what_the_driver_has_not_taken_of_the_steps_before_it(start: Start, tmp_path: Path) -> None:
    """If it never takes them, the checkpoint is the only place where they are."""
    run = start(taken=2)
    run.loop.train()
    assert run.said()[:2] == [("train", 2), ("evaluation", 2)]
    newest = committed(str(tmp_path))[-1]
    kept = [(report["kind"], report["step"]) for report in newest.state["reports"] if report["kind"] != "checkpoint"]
    assert kept == run.said()[2:] and kept[-1] == ("evaluation", 6)
    assert all(report in run.reports for report in newest.state["reports"])


@pytest.mark.parametrize("items", [0, 1, 2, 3, 5, 6, 14])
def test_stopped_anywhere_and_continued_it_does_the_rest(start: Start, tmp_path: Path, items: int) -> None:
    """An evaluation that was cut short is done anew, so 3 more tests may come; no update is made twice or left out."""
    first = start(stop=lambda step: step.trained + step.tested >= items)
    assert first.loop.train()[0] == "stopped"
    newest = committed(str(tmp_path))[-1]
    assert newest.step == first.step.trained == first.loop.steps_done
    assert newest.evaluated == (items in (0, 1, 5, 6))
    second = start(start=newest)
    ended, errors = second.loop.train()
    assert (ended, errors["step"]) == ("finished", 6)
    assert first.step.trained + second.step.trained == 6
    # Not counting the tests of the evaluation that was cut short.
    whole = [report for report in (*first.reports, *second.reports) if report["kind"] == "evaluation"]
    assert [report["step"] for report in whole] == [2, 4, 6]


def test_a_run_with_nothing_left_knows_its_errors(start: Start, tmp_path: Path) -> None:
    """As when it was killed after its last checkpoint and before the result was written."""
    expected = start().loop.train()
    again = start(start=committed(str(tmp_path))[-1])
    assert again.loop.train() == expected
    assert again.reports == []


def test_the_checkpoint_that_it_started_from_is_left_alone(start: Start, tmp_path: Path) -> None:
    """To save begins with removing the folder; between that and the commit, a power cut would leave an older one only."""
    start(stop=lambda step: step.tested == 3).loop.train()
    newest = committed(str(tmp_path))[-1]
    file = Path(newest.folder) / "state.json"
    before = (file.stat().st_ino, file.stat().st_mtime_ns)
    stopped = start(start=newest, stop=lambda step: True)
    assert stopped.loop.train()[0] == "stopped"
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("loss", "tested_loss", "every_steps", "message"),
    [
        ("nan", "nan", 2, "at step 2: training has diverged"),
        ("inf", "inf", 2, "at step 2: training has diverged"),
        # Between reports: a save is due after the first step, a report after the second.
        ("nan", "nan", 1, "at step 1: training has diverged"),
        # An update can break the weights after its own loss was taken.
        ("2", "nan", None, "the validation loss is nan at step 2: training has diverged"),
    ],
)
def test_divergence_ends_the_run_before_it_is_saved(
    start: Start, tmp_path: Path, loss: str, tested_loss: str, every_steps: int | None, message: str
) -> None:
    run = start(loss=float(loss), every_steps=every_steps)
    run.step.tested_loss = float(tested_loss)
    with pytest.raises(FloatingPointError, match=message):
        run.loop.train()
    assert steps_in(tmp_path) == []
    assert "validation" not in message or run.said()[-1] == ("evaluation", 2)


def test_an_evaluation_alone_saves_nothing(start: Start, tmp_path: Path) -> None:
    run = start()
    ended, errors = run.loop.evaluate()
    assert (ended, errors["images"], run.step.trained, run.step.tested) == ("finished", 6, 0, 3)
    assert steps_in(tmp_path) == []


def test_evaluations_and_profiles_are_no_part_of_the_next_steps(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step waits one second for the exchange, by the played clock, and takes two; so does each test, three of which come
    between the reports of steps 2 and 3."""
    run = start()
    exchange: Any = run.step.model.exchange
    profiling = Mock(**{"end.return_value": None})
    run.loop.profiling, train = profiling, run.loop.config.train
    run.loop.config = replace(run.loop.config, train=replace(train, profile_steps=(5, 5)))

    def clock() -> float:
        """Seven seconds to begin a profile."""
        return 2.0 * exchange.seconds + 7.0 * (call.begin(5) in profiling.method_calls)

    monkeypatch.setattr(meters, "time", SimpleNamespace(perf_counter=clock))
    run.loop.train()
    assert [report["exchange_wait"] for report in run.reports if report["kind"] == "train"] == [0.5] * 4
    # Three tests of two seconds each; checkpoints take time that is no part of either.
    assert [report["took_seconds"] for report in run.reports if report["kind"] == "evaluation"] == [6.0] * 3


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float, fails: bool = False) -> None:
    """Every file of a checkpoint takes this long, and then fails if `fails`."""
    working = saving.save_file

    def write(*arguments: Any) -> None:
        time.sleep(seconds)
        if fails:
            raise OSError(28, "No space left on device")
        working(*arguments)

    monkeypatch.setattr(saving, "save_file", write)


@pytest.mark.parametrize("waits", [True, False], ids=["before the next item", "at the next save"])
def test_a_save_that_fails_ends_the_run(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    slow(monkeypatch, 0.3, fails=True)
    run = start()
    train = run.step.train

    def until_it_has_failed(*batch: Any, **parts: Any) -> Tensor:
        for thread in threading.enumerate():
            if thread.name == "saving" and waits:
                thread.join()
        return train(*batch, **parts)

    monkeypatch.setattr(run.step, "train", until_it_has_failed)
    with pytest.raises(OSError, match="No space left on device"):
        run.loop.train()
    assert steps_in(tmp_path) == [] and run.saved() == []
    assert run.step.trained == 3 or not waits


def test_training_goes_on_while_it_is_saved_and_nothing_is_finished_before_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.3)
    run = start()
    assert run.loop.train()[0] == "finished"
    assert steps_in(tmp_path) == [4, 6]
    kinds = [(report["kind"], report["step"]) for report in run.reports]
    assert kinds.index(("train", 3)) < kinds.index(("checkpoint", 2)), "training waited for the first save"
    assert kinds.index(("checkpoint", 2)) < kinds.index(("train", 6)) and kinds[-1] == ("checkpoint", 6)


def test_divergence_lets_the_save_under_way_come_to_its_end(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being saved is from before it."""
    slow(monkeypatch, 0.3)
    run = start(every_steps=1)
    train = run.step.train

    def diverges(batch: object, rates: object, *, part: int, parts: int) -> Tensor:
        run.step.loss = float("nan") if run.step.trained >= 1 else 2.0
        return train(batch, rates, part=part, parts=parts)

    monkeypatch.setattr(run.step, "train", diverges)
    with pytest.raises(FloatingPointError, match="at step 2: training has diverged"):
        run.loop.train()
    assert steps_in(tmp_path) == run.saved() == [1]
