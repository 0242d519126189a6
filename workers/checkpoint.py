"""Checkpoints: a folder per step that any split of the network can load, also in one process without a cluster.

Every parameter, and its momentum, is split over columns along dim 0. So each process of replica 0 writes the rows that it owns to
a safetensors file of its own, and whoever loads reads the rows that it needs from whichever files have them.

The order of a save:
 1. every rank enters; rank 0 makes the checkpoint's folder anew, and all wait for that (unless the step is committed already);
 2. each process of replica 0 writes its file and flushes it to disk;
 3. rank 0 collects names, sizes and SHA-256 of the files, writes `state.json` beside them, flushed, by a rename: that is
    the commit, and a folder without it is no checkpoint;
 4. rank 0 removes checkpoints beyond the newest `keep`, and remains of saves that were never committed;
 5. all wait for rank 0, so that nobody reports a checkpoint that is not there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alexnet.network import AlexNet, Column
from alexnet.optimizer import PaperSGD
from configs.errors import UserError

VERSION = 1
MOMENTUM = "momentum/"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint: its folder and what `state.json` holds."""

    folder: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def evaluated(self) -> bool:
        return bool(self.state["evaluated"])


def committed(root: Path) -> list[Checkpoint]:
    """The checkpoints in a run's checkpoint folder, oldest first. Raises UserError if a state file is damaged."""
    found = []
    for state in root.glob("step-*/state.json"):
        try:
            content = json.loads(state.read_text(encoding="utf-8"))
            version = content["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(state, error) from None
        if version != VERSION:
            raise UserError(
                f"{state.parent} was written by another version of this program; remove it, or use that version"
            )
        try:
            found.append(Checkpoint(folder=state.parent, state=content))
            _ = found[-1].step, found[-1].evaluated, found[-1].state["files"], found[-1].state["shapes"]
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(state, error) from None
    return sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.evaluated))


def _damaged(state: Path, error: Exception) -> UserError:
    return UserError(f"{state} is damaged ({error}); remove the folder {state.parent} to go on without it")


def save(
    root: Path,
    model: AlexNet,
    optimizer: PaperSGD,
    state: Mapping[str, Any],
    *,
    writes: bool,
    keep: int,
    group: dist.ProcessGroup,
) -> Path:
    """Save what `state` describes; every rank calls it. Returns the checkpoint's folder.

    state: at least `step`, updates made, and `evaluated`, whether the evaluation due after them has been done. writes: whether
    this process belongs to replica 0. group: all ranks, for tensors on the CPU.
    Raises OSError on every rank if any of them could not write (a full disk, say); committed checkpoints stay as they are.
    """
    folder = root / f"step-{state['step']:08d}{'' if state['evaluated'] else '-before-evaluation'}"
    rank, problem, written = dist.get_rank(group), None, None
    if any(_from_all((folder / "state.json").is_file(), group)):
        return folder  # the same step of the same run: the same, bit for bit
    try:
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
    except OSError as error:
        problem = str(error)
    _agree(problem, group)
    try:
        written = _write(folder, model, optimizer) if writes else None
    except (OSError, SafetensorError) as error:
        problem = str(error)
    files = _from_all(written, group)
    _agree(problem, group)
    try:
        if rank == 0:
            shapes = {name: [layer.outputs, *rows.shape[1:]] for name, layer, rows in _rows(model)}
            content = {**state, "version": VERSION, "shapes": shapes, "files": [file for file in files if file]}
            _commit(folder / "state.json", content)
            _prune(root, keep, newest=folder)
    except (OSError, UserError) as error:  # UserError: one of the others turns out to be damaged
        problem = str(error)
    _agree(problem, group)
    return folder


def load(checkpoint: Checkpoint, model: AlexNet, optimizer: PaperSGD | None = None) -> None:
    """Fill the model's parameters, and the optimizer's momentum if given, with the rows that this process owns.

    Raises UserError if the checkpoint is of another network, or a file of it is missing or damaged.
    """
    _same_network(checkpoint, model)
    wanted = [*_rows(model), *(_rows(model, optimizer) if optimizer else ())]
    missing = {name: rows.stop - rows.start for name, _, rows in wanted}
    for file in checkpoint.state["files"]:
        path = checkpoint.folder / Path(file["file"]).name
        if not path.is_file() or path.stat().st_size != file["bytes"] or _sha256(path) != file["sha256"]:
            raise UserError(
                f"{path} is missing or damaged (its checksum is not the one recorded when it was saved); remove the folder "
                f"{checkpoint.folder} to go on from the checkpoint before it"
            )
        with safe_open(path, framework="pt") as tensors:
            for name, _, rows in wanted:
                missing[name] -= _copy_rows(tensors, name, rows, file["rows"])
    if any(missing.values()):
        names = ", ".join(name for name, rows in missing.items() if rows)
        raise UserError(
            f"{checkpoint.folder} does not hold all rows of {names}; remove it to go on from the one before it"
        )


@dataclass(frozen=True)
class _Rows:
    """Rows [start, stop) of a parameter of the whole network, and the tensor that holds them."""

    values: Tensor
    start: int
    stop: int

    @property
    def shape(self) -> torch.Size:
        return self.values.shape


def _rows(model: AlexNet, optimizer: PaperSGD | None = None) -> list[tuple[str, Any, _Rows]]:
    """(name in the file, layer of the whole network, rows) of the parameters, or of the optimizer's momentum."""
    found = []
    for layer, kind, parameter in model.parameter_layers():
        part = model.parts[layer]
        assert isinstance(part, Column)
        values = parameter.data if optimizer is None else optimizer.steps[f"{layer}.{kind}"]
        name = f"{layer}.{kind}" if optimizer is None else f"{MOMENTUM}{layer}.{kind}"
        found.append((name, part.layer, _Rows(values, part.owned.start, part.owned.stop)))
    return found


def _write(folder: Path, model: AlexNet, optimizer: PaperSGD) -> dict[str, Any]:
    """Write and flush this process's file; returns its entry in `state.json`."""
    everything = [*_rows(model), *_rows(model, optimizer)]
    last = model.first_column + model.columns - 1
    path = folder / f"columns-{model.first_column:02d}-to-{last:02d}.safetensors"
    save_file({name: rows.values.contiguous().cpu() for name, _, rows in everything}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
        "rows": {name: [rows.start, rows.stop] for name, _, rows in everything},
    }


def _copy_rows(tensors: Any, name: str, wanted: _Rows, there: Mapping[str, list[int]]) -> int:
    """Copy the wanted rows that a file has; returns how many those were."""
    start, stop = there[name]
    low, high = max(start, wanted.start), min(stop, wanted.stop)
    if low < high:
        part = tensors.get_slice(name)[low - start : high - start]
        wanted.values[low - wanted.start : high - wanted.start].copy_(part)
    return max(0, high - low)


def _same_network(checkpoint: Checkpoint, model: AlexNet) -> None:
    ours = {name: [layer.outputs, *rows.shape[1:]] for name, layer, rows in _rows(model)}
    theirs = checkpoint.state["shapes"]
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            there = f"has shape {theirs[name]}" if name in theirs else "does not exist"
            here = f"has shape {ours[name]}" if name in ours else "does not exist"
            raise UserError(
                f"{checkpoint.folder} is a checkpoint of another network: {name} {there} there and {here} in this config; "
                "use the config that the checkpoint was made with, or another run name"
            )


def _commit(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _prune(root: Path, keep: int, newest: Path) -> None:
    kept = {checkpoint.folder for checkpoint in committed(root)[-keep:]} | {newest}
    for folder in root.glob("step-*"):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _from_all(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """Each rank's value, in order."""
    values: list[Any] = [None] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values


def _agree(problem: str | None, group: dist.ProcessGroup) -> None:
    """Raise OSError on every rank if any has a problem; without this the others would wait for it for ever."""
    said = [f"rank {rank}: {text}" for rank, text in enumerate(_from_all(problem, group)) if text]
    if said:
        raise OSError(f"the checkpoint could not be written ({'; '.join(said)}); the ones before it are whole")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
