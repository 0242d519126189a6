"""The run as a sequence of items: train on this stretch, test on that one. A pure function of config and data set sizes.

The feed and every column of a replica walk the same sequence, so that batches are made ahead of use across the edges of epochs
and evaluations, and nobody has to tell anybody what comes next.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from configs.schema import Config


@dataclass(frozen=True, kw_only=True)
class Request:
    """A batch of one replica: images [start, start + count) of the training stream, or rows of the validation set."""

    split: Literal["train", "validation"]
    start: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to do. `step` is the number of updates made when it is done, with all parts of the step."""

    step: int
    request: Request
    part: int = 0
    parts: int = 1
    """Where a replica takes several parts of a batch one after the other, the weights are updated after the last."""
    ends_evaluation: bool = False

    @property
    def begins_step(self) -> bool:
        return self.part == 0

    @property
    def ends_step(self) -> bool:
        return self.part == self.parts - 1


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one replica does in a run."""

    batch_size: int
    """Training images per update over all replicas."""
    test_batch_size: int
    """Images per replica and forward pass in testing."""
    replicas: int
    replica: int
    train_rows: int
    validation_rows: int
    total_steps: int
    evaluation_every: float | None
    """In updates; null: only after the last."""
    parts: int = 1
    """Of a batch that each replica takes one after the other; more than 1 where replicas are missing."""

    @classmethod
    def of(
        cls, config: Config, *, train_rows: int, validation_rows: int, replica: int, replicas: int | None = None
    ) -> "Program":
        """replicas: that there are, a divisor of those in the config (default: all of them)."""
        replicas = config.cluster.replica_count if replicas is None else replicas
        assert config.cluster.replica_count % replicas == 0, "every replica takes the same number of parts"
        train, per_epoch = config.train, train_rows / config.train.batch_size
        # 90 times 41.7 is 3753 and a little in floats; that little is no step.
        steps = train.steps if train.steps is not None else math.ceil((train.epochs or 0) * per_epoch - 1e-9)
        every = train.evaluate_every_epochs
        return cls(
            batch_size=train.batch_size,
            test_batch_size=train.evaluate_batch_size,
            replicas=replicas,
            replica=replica,
            parts=config.cluster.replica_count // replicas,
            train_rows=train_rows,
            validation_rows=validation_rows,
            total_steps=steps,
            evaluation_every=None if every is None else every * per_epoch,
        )

    def evaluates_after(self, step: int) -> bool:
        """Whether the validation set is tested once `step` updates have been made."""
        if step == self.total_steps:
            return True
        if self.evaluation_every is None or step == 0:
            return False
        number = math.floor(step / self.evaluation_every + 1e-9)
        return number > 0 and math.ceil(number * self.evaluation_every - 1e-9) == step

    def epoch_at(self, step: int) -> float:
        """Epochs of the training set consumed by `step` updates."""
        return step * self.batch_size / self.train_rows

    def items(self, *, step: int, evaluated: bool) -> Iterator[Item]:
        """What remains after `step` updates; `evaluated`: whether the evaluation that is due then has been done."""
        if not evaluated and self.evaluates_after(step):
            yield from self.evaluation(step)
        each = self.batch_size // (self.replicas * self.parts)
        for done in range(step, self.total_steps):
            start = done * self.batch_size + self.replica * self.parts * each
            for part in range(self.parts):
                request = Request(split="train", start=start + part * each, count=each)
                yield Item(step=done + 1, request=request, part=part, parts=self.parts)
            if self.evaluates_after(done + 1):
                yield from self.evaluation(done + 1)

    def evaluation(self, step: int) -> Iterator[Item]:
        """Tests on this replica's part of the validation set, each image once.

        Every replica has the same number of items, the last of which may be empty, for all agree on whether to stop before
        each item.
        """
        part = -(-self.validation_rows // self.replicas)
        first = min(self.replica * part, self.validation_rows)
        end = min(first + part, self.validation_rows)
        starts = range(0, max(part, 1), self.test_batch_size)
        for offset in starts:
            start = min(first + offset, end)
            count = min(self.test_batch_size, end - start)
            request = Request(split="validation", start=start, count=count)
            yield Item(step=step, request=request, ends_evaluation=offset == starts[-1])
