"""Fine-tuning: a run that starts from the weights of another run's network, layer by layer.

A layer is taken if the other network has one of its name with weights and biases of the same shape; any other starts anew, as it
would without. Only weights are taken: momentum, schedule, order and epochs start from the beginning.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from alexnet.network import AlexNet, Column
from configs.errors import UserError
from configs.geometry import layers
from configs.schema import Network, Train
from workers.checkpoint import Checkpoint, committed


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run's first weights come from."""

    checkpoint: Checkpoint
    taken: tuple[str, ...]
    """Names of layers."""
    new: tuple[str, ...]

    def __str__(self) -> str:
        new = f"new: {', '.join(self.new)}" if self.new else "none is new"
        return f"starting from {self.checkpoint.folder}: {', '.join(self.taken)} taken, {new}"

    @property
    def record(self) -> dict[str, Any]:
        """What the run's own checkpoints say of it."""
        folder = str(self.checkpoint.folder.resolve())
        return {"folder": folder, "step": self.checkpoint.step, "taken": [*self.taken], "new": [*self.new]}


def find_start(train: Train, network: Network) -> Start | None:
    """What `train.init_from` leads to; None if it is not set. Reads no weights.

    Raises UserError if there is no checkpoint, a layer of `train.init_layers` does not fit, or none fits.
    """
    if train.init_from is None:
        return None
    checkpoint = _checkpoint(Path(train.init_from))
    shapes = checkpoint.state["shapes"]
    differing = {}
    for layer in layers(network):
        for kind, shape in (("weights", layer.weight_shape), ("biases", layer.bias_shape)):
            there = shapes.get(f"{layer.name}.{kind}")
            if there != [*shape]:
                found = f"shape {there}" if there else "no such layer"
                differing[layer.name] = f"{layer.name}.{kind} has shape {[*shape]} here, and there {found}"
                break
    names = [layer.name for layer in layers(network)]
    if train.init_layers is not None:
        wrong = [differing[name] for name in train.init_layers if name in differing]
        if wrong:
            raise UserError(
                f"train.init_layers cannot all be taken from {checkpoint.folder}: {'; '.join(wrong)}; take those out, or set "
                "train.init_layers=null to take all that fit"
            )
    wanted = names if train.init_layers is None else train.init_layers
    taken = tuple(name for name in names if name in wanted and name not in differing)
    if not taken:
        raise UserError(
            f"no layer of {checkpoint.folder} fits this network, so train.init_from would change nothing: "
            f"{'; '.join(differing.values()) or 'train.init_layers is empty'}"
        )
    return Start(checkpoint=checkpoint, taken=taken, new=tuple(name for name in names if name not in taken))


def init_from(train: Train, model: AlexNet) -> Start | None:
    """Fill the owned rows of the layers that are taken, on any split of the columns; None if `train.init_from` is not set.

    Raises UserError as `find_start`, and if a file of the checkpoint is missing or damaged.
    """
    start = find_start(train, model.network)
    if start is None:
        return None
    wanted = [entry for entry in model.parameter_layers() if entry[0] in start.taken]
    missing = {f"{layer}.{kind}": len(parameter) for layer, kind, parameter in wanted}
    for file in start.checkpoint.state["files"]:
        path = start.checkpoint.folder / Path(file["file"]).name
        _check(path, file)
        try:
            with safe_open(path, framework="pt") as tensors:
                for layer, kind, parameter in wanted:
                    name, part = f"{layer}.{kind}", model.parts[layer]
                    assert isinstance(part, Column)
                    missing[name] -= _copy(tensors, name, file["rows"], parameter.data, part.owned)
        except SafetensorError as error:
            raise UserError(f"{path} cannot be read ({error}); choose another checkpoint for train.init_from") from None
    if any(missing.values()):
        names = ", ".join(name for name, rows in missing.items() if rows)
        raise UserError(
            f"{start.checkpoint.folder} does not hold all rows of {names}; choose another for train.init_from"
        )
    return start


def _checkpoint(folder: Path) -> Checkpoint:
    """A run's newest checkpoint, or the one in this folder itself."""
    if (folder / "checkpoints").is_dir():
        found = committed(folder / "checkpoints")
    else:
        found = [one for one in committed(folder.parent) if one.folder.resolve() == folder.resolve()]
    if not found:
        raise UserError(
            f"train.init_from: there is no checkpoint at {folder}; give the folder of a run (runs/NAME) that has been trained, "
            "or of one of its checkpoints, or set train.init_from=null to start from random weights"
        )
    return found[-1]


def _check(path: Path, file: Mapping[str, Any]) -> None:
    whole = path.is_file() and path.stat().st_size == file["bytes"]
    if whole:
        with path.open("rb") as content:
            whole = hashlib.file_digest(content, "sha256").hexdigest() == file["sha256"]
    if not whole:
        raise UserError(
            f"{path} is missing or damaged (its checksum is not the one recorded when it was saved); choose another checkpoint "
            "for train.init_from"
        )


def _copy(tensors: Any, name: str, rows: Mapping[str, list[int]], into: torch.Tensor, owned: slice) -> int:
    """Copy the owned rows that a file has; returns how many those were."""
    if name not in rows:
        return 0
    start, stop = rows[name]
    low, high = max(start, owned.start), min(stop, owned.stop)
    if low >= high:
        return 0
    into[low - owned.start : high - owned.start].copy_(tensors.get_slice(name)[low - start : high - start])
    return high - low
