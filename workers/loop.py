"""The training loop: when to train, test, report, save and stop. The mathematics of a step is `alexnet.step`."""

import math
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist

from alexnet.exchange import ColumnExchange
from alexnet.ranges import named
from alexnet.schedule import Plateau, Stages
from alexnet.step import Step
from configs.loader import to_dict
from configs.schema import Config
from workers.batches import Batches
from workers.checkpoint import Checkpoint
from workers.checkpoint_store import keyless
from workers.data.storage import is_url
from workers.mesh import Mesh
from workers.meters import Cpu, Exchanged, Gpu, Meter
from workers.profiling import Profiling
from workers.program import Item, Program
from workers.progress import ProgressTeller
from workers.reports import ColumnReport, EvaluationReport, TrainReport
from workers.saving import Saver


@dataclass(kw_only=True)
class Loop:
    """One process's walk through its program. Every rank walks the same number of items in step with the others."""

    config: Config
    mesh: Mesh
    rank: int
    program: Program
    step: Step
    schedule: Stages | Plateau
    batches: Batches
    group: dist.ProcessGroup
    """All ranks, for tensors on the CPU."""
    save_group: dist.ProcessGroup
    """The same, for the threads that save."""
    checkpoints: str
    """Folder, or URL, that all nodes see."""
    facts: dict[str, Any]
    """What a checkpoint records of the run beside its weights, such as the data set's fingerprint."""
    report: Callable[[ColumnReport], None]
    untold: Callable[[], list[ColumnReport]]
    """The reports that the driver may not have: with them in the checkpoint, they outlive both."""
    asked_to_stop: Callable[[], bool]
    progress: ProgressTeller = field(default_factory=ProgressTeller)
    on_first_step: Callable[[], None] = lambda: None
    """Called after the first update."""
    views: Literal[1, 10] = 1
    """Of each image in testing."""
    start: Checkpoint | None = None
    """Where the run goes on from; the weights have been loaded from it."""
    attempt: int = 1
    """At the run: each start of its actors is one."""

    def __post_init__(self) -> None:
        self.steps_done = self.start.step if self.start else 0
        self.evaluated = self.start.evaluated if self.start else True
        """Whether the evaluation that is due after `steps_done` updates has been done."""
        self._training, self._testing = (Meter(Gpu() if self.mesh.device == "cuda" else Cpu()) for _ in range(2))
        self.profiling = Profiling(self.config.train.profile_steps, self.mesh.device, self.group)
        self._known: set[str] = set()
        """Kinds of items that have been done before."""
        # A checkpoint that is there already is not made again: that would begin by removing it.
        self._saved = (self.steps_done, self.evaluated) if self.start else None
        self._errors: dict[str, Any] = dict(self.start.state["errors"]) if self.start else {}
        self._saver: Saver | None = None

    def train(self) -> tuple[Literal["finished", "stopped"], dict[str, Any]]:
        """Go through what remains of the program, to its end or until all ranks agree to stop; saves either way.

        Returns how it ended, and the errors of the last evaluation.
        """
        self._saver = self._make_saver()
        ended: Literal["finished", "stopped"] = "finished"
        try:
            for item in self.program.items(step=self.steps_done, evaluated=self.evaluated):
                trains = item.request.split == "train"
                if trains:
                    self._training.run()
                if item.begins_step and self._agreed_to_stop(self._training if trains else None):
                    ended = "stopped"
                    break
                if trains:
                    self._train(item)
                else:
                    self._test(item)
                if self._save_is_due(item):
                    self._save()
            self._save()
        except FloatingPointError:  # on every rank at once, so that the save under way comes to its end
            with suppress(Exception):  # what is to be told is that training has diverged
                self._finish_saving()
            raise
        self._finish_saving()
        return ended, self._errors

    def evaluate(self) -> tuple[Literal["finished", "stopped"], dict[str, Any]]:
        """One evaluation of the network as it is; nothing is saved."""
        for item in self.program.evaluation(self.steps_done):
            if self._agreed_to_stop():
                return "stopped", {}
            self._test(item)
        return "finished", self._errors

    def _train(self, item: Item) -> None:
        rates = self.schedule.rates(self.program.epoch_at(item.step - 1))
        if item.begins_step:
            self._profile(self.profiling.begin, item)
        with named(f"step {item.step}"):
            self._begin(f"waiting for the data of step {item.step}", "train", fetches=True)
            with self._training.waiting("data"), named("waiting for data"):
                batch = next(self.batches)
            self._begin(f"computing step {item.step}", "train")
            with self._training.step():
                self._training.add(self.step.train(batch, rates, part=item.part, parts=item.parts))
        if not item.ends_step:
            return
        if "train" not in self._known:
            self._known.add("train")
            self.on_first_step()
        self.steps_done = item.step
        self.evaluated = not self.program.evaluates_after(item.step)
        if item.step % self.config.train.report_every_steps == 0 or not self.evaluated:
            self._report_training()
        if profiled := self._profile(self.profiling.end, item):
            self.report(profiled)

    def _profile(self, part: Callable[[int], Any], item: Item) -> Any:
        """Begin or end it; that is no time of the steps."""
        if item.step not in (self.config.train.profile_steps or ()):
            return part(item.step)
        self._training.stop()
        done = part(item.step)
        self._training.run()
        return done

    def _begin(self, doing: str, kind: str, *, fetches: bool = False) -> None:
        """Tell what is done now. The first of a kind may be compiled on the way, or wait for a cache to be filled.

        fetches: it waits for data; those at a URL come through a cache, which each of the first steps fills further.
        """
        slow = kind not in self._known or (fetches and is_url(self.config.data.path))
        self.progress.begin(doing, "first" if slow else "usual")

    def _report_training(self) -> None:
        """Report what was trained since the last report. Raises FloatingPointError if training has diverged."""
        rates = self.schedule.rates(self.program.epoch_at(self.steps_done - 1))
        exchanged = self._exchanged()
        taken = self._where() | self._training.take_with_times(self.group, self.mesh.processes_per_replica, exchanged)
        report = TrainReport(**taken, weights_rate=rates.weights, biases_rate=rates.biases)
        self.report(report)
        self._refuse_diverged("loss", report.loss)

    def _refuse_diverged(self, what: str, loss: float) -> None:
        """Before its weights are saved. Raises FloatingPointError, on every rank, if the loss is no number."""
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the {what} is {loss} at step {self.steps_done}: training has diverged; lower the learning rates "
                "(schedule) or the initial weights (init_std). No checkpoint was made since the last finite loss"
            )

    def _test(self, item: Item) -> None:
        self._training.stop()
        self._testing.run()
        if item.request.count:
            test = self.step.test if self.views == 1 else self.step.test_ten_views
            self._begin("waiting for validation data", "test", fetches=True)
            batch = next(self.batches)
            self._begin(f"testing after step {item.step}", "test")
            with self._testing.step():
                self._testing.add(test(batch))
            self._known.add("test")
        if item.ends_evaluation:
            self._testing.stop()
            took = self._testing.take_seconds()
            self._errors = self._where() | self._testing.take(self.group, self.mesh.processes_per_replica)
            self._training.leave_out_exchange(self._exchanged())
            self.schedule.observe(self._errors["top1_error"])
            self.evaluated = True
            self.report(EvaluationReport(**self._errors, took_seconds=took))
            if self._saver:
                self._refuse_diverged("validation loss", self._errors["loss"])

    def _exchanged(self) -> Exchanged:
        exchange = self.step.model.exchange
        if isinstance(exchange, ColumnExchange):
            return Exchanged(exchange.seconds, exchange.bytes_sent)
        return Exchanged()

    def _where(self) -> dict[str, Any]:
        return {"step": self.steps_done, "epoch": self.program.epoch_at(self.steps_done)}

    def _agreed_to_stop(self, meter: Meter | None = None) -> bool:
        """Whether any rank was asked to stop; all get the same answer before the same item. meter: of the wait for the others.

        Raises what a save has raised meanwhile, on every rank too.
        """
        failed = self._saver is not None and self._saver.has_failed
        flags = torch.tensor([int(self.asked_to_stop()), int(failed)])
        with meter.waiting("others") if meter else nullcontext(), named("agreeing to go on"):
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.group)
        stop, failed_anywhere = flags.tolist()
        if failed_anywhere:
            self._finish_saving()
        self._report_saved()
        return bool(stop)

    def _make_saver(self) -> Saver:
        assert self.step.optimizer is not None
        return Saver(
            self.checkpoints,
            self.step.model,
            self.step.optimizer,
            self.config.checkpoint,
            group=self.save_group,
            writes=self.mesh.replica(self.rank) == 0,
            attempt=self.attempt,
        )

    def _save_is_due(self, item: Item) -> bool:
        every = self.config.checkpoint.every_steps
        trained = item.request.split == "train"
        return item.ends_evaluation or bool(
            trained and item.ends_step and self.evaluated and every and item.step % every == 0
        )

    def _save(self) -> None:
        if self._saved == (self.steps_done, self.evaluated):
            return
        assert self._saver is not None
        if self._training.sums is not None:
            self._report_training()  # weights that are no numbers must not push out a checkpoint of some that are
        state = {
            **self.facts,
            "config": to_dict(keyless(self.config)),
            "step": self.steps_done,
            "evaluated": self.evaluated,
            "samples": self.steps_done * self.config.train.batch_size,
            "schedule": self.schedule.state(),
            "errors": self._errors,
            "reports": [report.as_json() for report in self.untold()],
        }
        self._training.stop()
        self.progress.begin(f"saving step {self.steps_done}", "saving")
        self._saver.save(state)
        self._saved = (self.steps_done, self.evaluated)

    def _finish_saving(self) -> None:
        """Wait for the save under way. Raises OSError if it, or one before, could not be written."""
        assert self._saver is not None
        self.progress.begin(f"waiting until step {self.steps_done} is saved", "saving")
        self._saver.wait()
        self._report_saved()

    def _report_saved(self) -> None:
        for report in self._saver.reports() if self._saver else ():
            self.report(report)
