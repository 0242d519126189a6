"""A checkpoint: a folder of files that any split of the network can load, also in one process without a cluster.

Every parameter, and its momentum, is split over columns along dim 0. So each process of replica 0 writes the rows that it owns to
a safetensors file of its own (saving.py), and whoever loads reads the rows that it needs from whichever files have them.
`state.json` says which rows are where, with the files' SHA-256, and holds what else a run goes on with, its config among it.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from alexnet.network import AlexNet, Column
from alexnet.optimizer import PaperSGD
from configs.errors import UserError
from workers.checkpoint_store import DamagedFileError, open_store
from workers.data.storage import shown

VERSION = 1
MOMENTUM = "momentum/"
NAME = re.compile(r"step-(?P<step>\d{8,})(?:-a(?P<attempt>\d+))?(?P<before>-before-evaluation)?")


@dataclass(frozen=True, kw_only=True, order=True)
class Name:
    """What a checkpoint's folder is called: `step-00001234-a2`, and `-before-evaluation` where that is due and not done.

    Later ones are greater.
    """

    step: int
    """Updates made."""
    evaluated: bool
    attempt: int
    """At the run, from 1; 0 in the names of old, which do not have it."""

    @classmethod
    def parse(cls, folder: str) -> "Name | None":
        found = NAME.fullmatch(folder)
        if found is None:
            return None
        return cls(step=int(found["step"]), evaluated=not found["before"], attempt=int(found["attempt"] or 0))

    def __str__(self) -> str:
        return f"step-{self.step:08d}-a{self.attempt}{'' if self.evaluated else '-before-evaluation'}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint: where it lies, and what `state.json` holds."""

    place: str
    """Folder or URL of the run's checkpoints."""
    name: str
    """Of its folder there."""
    state: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """For messages."""
        return f"{shown(self.place)}/{self.name}" if "://" in self.place else f"{self.place}/{self.name}"

    @property
    def location(self) -> str:
        """Folder, or URL with whatever keys it holds: for reading."""
        if "://" not in self.place:
            return f"{self.place}/{self.name}"
        path, mark, query = self.place.partition("?")
        return f"{path}/{self.name}{mark}{query}"

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def evaluated(self) -> bool:
        return bool(self.state["evaluated"])

    @property
    def top1_error(self) -> float | None:
        """Of these very weights on the validation set (0 to 1); None if they have not been tested."""
        errors = self.state.get("errors") or {}
        tested = self.evaluated and errors.get("step") == self.step
        return float(errors["top1_error"]) if tested else None


def load(checkpoint: Checkpoint, model: AlexNet, optimizer: PaperSGD | None = None) -> None:
    """Fill the model's parameters, and the optimizer's momentum if given, with the rows that this process owns.

    Reads, and checks, the files that hold some of those.
    Raises UserError if the checkpoint is of another network, or a file of it is missing or damaged; FileNotFoundError if this
    machine does not see it at all.
    """
    _same_network(checkpoint, model)
    load_rows(checkpoint, [*rows_of(model), *(rows_of(model, optimizer) if optimizer else ())])


def load_rows(checkpoint: Checkpoint, wanted: "list[Rows]") -> None:
    """Fill these, whose names and shapes must be the checkpoint's. Raises as `load` does."""
    store = open_store(checkpoint.place)
    missing = {rows.name: rows.stop - rows.start for rows in wanted}
    for file in checkpoint.state["files"]:
        needed = [rows for rows in wanted if rows.shared(file["rows"])]
        if not needed:
            continue
        try:
            with store.fetched(checkpoint.name, file) as path, safe_open(path, framework="pt") as tensors:
                for rows in needed:
                    missing[rows.name] -= _copy(tensors, rows, file["rows"])
        except DamagedFileError as error:
            if checkpoint.name not in store.tree():
                raise FileNotFoundError(
                    f"{socket.gethostname()} does not see {checkpoint.folder}: is the storage mounted there?"
                ) from None
            raise UserError(
                f"{checkpoint.folder} is damaged: {error}; take another checkpoint (the command that trains the run goes on from "
                "the one before it by itself)"
            ) from None
    if any(missing.values()):
        names = ", ".join(name for name, rows in missing.items() if rows)
        raise UserError(f"{checkpoint.folder} does not hold all rows of {names}; take another checkpoint")


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of a tensor of the whole network, and the tensor that holds them in this process."""

    name: str
    """In the file."""
    values: Tensor
    start: int
    stop: int
    whole: tuple[int, ...]
    """Shape in the whole network."""

    def shared(self, there: Mapping[str, list[int]]) -> range:
        """Those that a file has too."""
        start, stop = there.get(self.name, (0, 0))
        return range(max(start, self.start), min(stop, self.stop))


def rows_of(model: AlexNet, optimizer: PaperSGD | None = None) -> list[Rows]:
    """What this process owns of the parameters, or of the optimizer's momentum."""
    found = []
    for layer, kind, parameter in model.parameter_layers():
        part = model.parts[layer]
        assert isinstance(part, Column)
        values = parameter.data if optimizer is None else optimizer.steps[f"{layer}.{kind}"]
        name = f"{layer}.{kind}" if optimizer is None else f"{MOMENTUM}{layer}.{kind}"
        whole = (part.layer.outputs, *values.shape[1:])
        found.append(Rows(name, values, part.owned.start, part.owned.stop, whole))
    return found


@torch.no_grad()
def _copy(tensors: Any, wanted: Rows, there: Mapping[str, list[int]]) -> int:
    """Copy the wanted rows that a file has; returns how many those were."""
    shared, first = wanted.shared(there), there[wanted.name][0]
    part = tensors.get_slice(wanted.name)[shared.start - first : shared.stop - first]
    wanted.values[shared.start - wanted.start : shared.stop - wanted.start].copy_(part)
    return len(shared)


def _same_network(checkpoint: Checkpoint, model: AlexNet) -> None:
    ours = {rows.name: list(rows.whole) for rows in rows_of(model)}
    theirs = checkpoint.state["shapes"]
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            there = f"has shape {theirs[name]}" if name in theirs else "does not exist"
            here = f"has shape {ours[name]}" if name in ours else "does not exist"
            raise UserError(
                f"{checkpoint.folder} is a checkpoint of another network: {name} {there} there and {here} in this config; "
                "use the config that the checkpoint was made with, or another run name"
            )
