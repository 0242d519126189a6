"""The loop of the stock run: torch.optim.SGD, LambdaLR, a checkpoint after each epoch, a log like that of any run.

torch's SGD keeps gradients in its momentum and scales them by the rate when it steps, so after a drop of the rate what has
gathered counts a tenth at once; the paper's keeps steps, and the old, larger ones die away (`alexnet.optimizer`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from alexnet.layout import in_layout
from cluster.failures import RunFailed
from cluster.reproduce.stock.data import Photos, TrainingCrops, loader, views
from cluster.reproduce.stock.network import build, layer_parameters
from cluster.run_folder import RunFolder
from configs.errors import UserError
from configs.schema import Config, Stage, StageSchedule
from workers.data.files import whole_file
from workers.reports import EvaluationReport, Report, TrainReport

CHECKPOINT = "stock.pt"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How it is computed."""

    threads: int
    workers: int
    """Of the DataLoader; 0: this process loads."""
    device: str
    channels_last: bool


@dataclass(kw_only=True)
class Sums:
    """Of what was trained or tested since the last report."""

    images: int = 0
    loss: Tensor | float = 0.0
    top1: Tensor | float = 0.0
    top5: Tensor | float = 0.0
    waited_seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(self, scores_BK: Tensor, labels_B: Tensor, loss: Tensor) -> None:
        """scores: anything that puts the classes K in order. loss: the sum over the images."""
        best_BN = scores_BK.topk(min(5, scores_BK.shape[1]), dim=1).indices
        right_BN = best_BN == labels_B[:, None]
        self.images += len(labels_B)
        self.loss = self.loss + loss.detach()
        self.top1 = self.top1 + (~right_BN[:, 0]).sum()
        self.top5 = self.top5 + (~right_BN.any(dim=1)).sum()

    def errors(self) -> dict[str, Any]:
        count = max(self.images, 1)
        sums = {"loss": self.loss, "top1_error": self.top1, "top5_error": self.top5}
        return {"images": self.images, **{name: float(number) / count for name, number in sums.items()}}

    def speed(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.started
        waited = self.waited_seconds
        return {
            "images_per_second": self.images / seconds,
            "data_wait": waited / seconds,
            "exchange_wait": 0.0,
            "by_rank": {
                "data_wait_seconds": [waited],
                "exchange_wait_seconds": [0.0],
                "compute_seconds": [seconds - waited],
            },
        }


class Training:
    """A run, from its last checkpoint if it has one. Raises UserError if that belongs to another data set or is damaged.

    machines: all that it was computed with, the last one at the end; times are over all of them.
    """

    def __init__(self, config: Config, run: RunFolder, machine: Machine) -> None:
        self.config, self.run, self.machine = config, run, machine
        assert isinstance(config.schedule, StageSchedule) and config.train.epochs is not None
        self.stages = config.schedule.stages
        torch.set_num_threads(machine.threads)
        # PyTorch's default for convolutions is tf32 where a GPU has it; the config says fp32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.manual_seed(config.train.seed)
        self.layout = torch.channels_last if machine.channels_last else torch.contiguous_format
        self.model = in_layout(build(config.network).to(machine.device), self.layout)
        self.train_set, self.validation_set = TrainingCrops(config), Photos(config.data.path, "validation")
        self.mean_SSC = self.train_set.mean_SSC.to(machine.device)
        self.steps_per_epoch = math.ceil(len(self.train_set) / config.train.batch_size)
        self.whole_epochs = round(config.train.epochs)
        names = [(layer, kind) for layer, kind, _ in layer_parameters(self.model)]
        self.optimizer = torch.optim.SGD(self._groups(), lr=1.0, momentum=config.optimizer.momentum)
        self.scheduler = LambdaLR(self.optimizer, [self._rates_of(layer, kind) for layer, kind in names])
        self.epochs_done, self.seconds, self.training_seconds = 0, 0.0, 0.0
        self._began = time.perf_counter()
        self.machines = [vars(machine)]
        self._load()

    @property
    def steps_done(self) -> int:
        return self.epochs_done * self.steps_per_epoch

    @property
    def whole_steps(self) -> int:
        return self.whole_epochs * self.steps_per_epoch

    def to_the_end(self, report: Callable[[Report], None], check: Callable[[], None]) -> dict[str, Any]:
        """Train what remains, test by the centre after each epoch and by ten views at the end; returns the result.

        check: called before each batch; raises if this is to stop.
        """
        self._report, self._check = report, check
        errors: dict[str, Any] = {}
        for epoch in range(self.epochs_done, self.whole_epochs):
            self._epoch(epoch)
            self.epochs_done = epoch + 1
            began = time.perf_counter()
            errors = {**self._test(1), "took_seconds": time.perf_counter() - began}
            self._report(EvaluationReport(step=self.steps_done, epoch=float(self.epochs_done), **errors))
            self._save()
        result = {"validation": errors or self._test(1), "ten_views": self._test(10)}
        self._count_seconds()
        return {
            "step": self.steps_done,
            **result,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
            "images_per_second": self.epochs_done * len(self.train_set) / max(self.training_seconds, 1e-9),
        }

    def _epoch(self, epoch: int) -> None:
        # From seed and epoch alone, so that a run that was stopped in between comes to the same end.
        torch.manual_seed(self.config.train.seed * 1_000_003 + epoch + 1)
        order = torch.Generator().manual_seed(self.config.train.seed * 1_000_033 + epoch + 1)
        self.train_set.epoch = epoch
        batches = iter(loader(self.train_set, self.config.train.batch_size, self.machine.workers, order))
        self.model.train()
        began, sums, first = time.perf_counter(), Sums(), epoch * self.steps_per_epoch + 1
        for step in range(first, first + self.steps_per_epoch):
            self._check()
            asked = time.perf_counter()
            images, labels = next(batches)
            sums.waited_seconds += time.perf_counter() - asked
            self._step(images, labels, sums)
            if step % self.config.train.report_every_steps == 0 or step % self.steps_per_epoch == 0:
                self._tell(step, sums)
                sums = Sums()
        self.training_seconds += time.perf_counter() - began

    def _step(self, images: Tensor, labels: Tensor, sums: Sums) -> None:
        images = images.to(self.machine.device, memory_format=self.layout)
        labels = labels.to(self.machine.device)
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        sums.add(logits, labels, loss * len(labels))

    def _tell(self, step: int, sums: Sums) -> None:
        errors = sums.errors()
        epoch = step / self.steps_per_epoch
        before = (step - 1) / self.steps_per_epoch
        rates: dict[str, Any] = {f"{kind}_rate": rate(self.stages, before, "", kind) for kind in ("weights", "biases")}
        self._report(TrainReport(step=step, epoch=epoch, **errors, **sums.speed(), **rates))
        if not math.isfinite(errors["loss"]):
            raise RunFailed(f"the loss is {errors['loss']} at step {step}: training has diverged; lower the rates")

    @torch.no_grad()
    def _test(self, count: Literal[1, 10]) -> dict[str, Any]:
        """Errors on the validation set, probabilities averaged over views."""
        self.model.eval()
        sums, crop = Sums(), self.config.network.input_size
        for images, labels in loader(self.validation_set, self.config.train.evaluate_batch_size, self.machine.workers):
            self._check()
            images, labels = images.to(self.machine.device), labels.to(self.machine.device)
            seen = views(images, self.mean_SSC, crop, self.config.augment, count)
            each = [self.model(view.contiguous(memory_format=self.layout)).softmax(1) for view in seen]
            probabilities = torch.stack(each).mean(0)
            sums.add(probabilities, labels, F.nll_loss(probabilities.log(), labels, reduction="sum"))
        return sums.errors()

    def _groups(self) -> list[dict[str, Any]]:
        """One for each parameter, for its rate and decay may be its own."""
        settings = self.config.optimizer
        found = []
        for layer, kind, parameter in layer_parameters(self.model):
            decay = settings.weight_decay_of.get(layer, settings.weight_decay)
            decays = kind == "weights" or settings.decay_biases
            found.append({"params": [parameter], "weight_decay": decay if decays else 0.0})
        return found

    def _rates_of(self, layer: str, kind: str) -> Callable[[int], float]:
        """What LambdaLR multiplies the rate of 1 by, before each step."""
        return lambda step: rate(self.stages, step / self.steps_per_epoch, layer, kind)

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.seconds, self._began = self.seconds + now - self._began, now

    def _save(self) -> None:
        self._count_seconds()
        state = {
            "epochs": self.epochs_done,
            "machines": self.machines,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
            "dataset": self.train_set.manifest["fingerprint"],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        with whole_file(self.run.path / CHECKPOINT) as file:
            torch.save(state, file)

    def _load(self) -> None:
        path = self.run.path / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.machine.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # of many kinds, by where the bytes are wrong
            raise UserError(
                f"{path} is damaged ({type(error).__name__}); remove {self.run.path} to begin again"
            ) from None
        if state["dataset"] != self.train_set.manifest["fingerprint"]:
            raise UserError(f"{path} was trained on another data set than {self.config.data.path}; give another name")
        self.machines = [*(one for one in state.get("machines", []) if one != vars(self.machine)), vars(self.machine)]
        self.scheduler.load_state_dict(state["scheduler"])
        self.epochs_done, self.seconds = state["epochs"], state["seconds"]
        self.training_seconds = state["training_seconds"]


def rate(stages: tuple[Stage, ...], epoch: float, layer: str, kind: str) -> float:
    """Learning rate of a layer's "weights" or "biases" at an epoch: the last stage's that has begun and says one."""
    found, own = 0.0, None
    for stage in stages:
        if stage.from_epoch > epoch:
            break
        general = getattr(stage, kind)
        found = found if general is None else general
        named = getattr(stage.layers.get(layer), kind, None)
        own = own if named is None else named
    return found if own is None else own
