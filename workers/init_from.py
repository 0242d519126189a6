"""Fine-tuning: a run that starts from the weights of another run's network, layer by layer.

A layer is taken if the other network has one of its name with weights and biases of the same shape; any other starts anew, as it
would without. Only weights are taken: momentum, schedule, order and epochs start from the beginning.
"""

from dataclasses import dataclass
from typing import Any

from alexnet.network import AlexNet
from configs.errors import UserError
from configs.geometry import layers
from configs.schema import Network, Train
from workers.checkpoint import Checkpoint, load_rows, rows_of
from workers.stored_network import find_checkpoint


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
        return {
            "folder": self.checkpoint.folder,
            "step": self.checkpoint.step,
            "taken": [*self.taken],
            "new": [*self.new],
        }


def find_start(train: Train, network: Network) -> Start | None:
    """What `train.init_from` leads to; None if it is not set. Reads no weights.

    Raises UserError if there is no checkpoint, a layer of `train.init_layers` does not fit, or none fits.
    """
    if train.init_from is None:
        return None
    checkpoint = _checkpoint(train.init_from)
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
    if start is not None:
        load_rows(start.checkpoint, [rows for rows in rows_of(model) if rows.name.rpartition(".")[0] in start.taken])
    return start


def _checkpoint(where: str) -> Checkpoint:
    """A run's newest whole checkpoint, or the one at this folder or URL itself."""
    try:
        return find_checkpoint(where, lambda text: None)
    except UserError as error:
        raise UserError(
            f"train.init_from: {error}. Give the folder of a run (runs/NAME) that has been trained, or of one of its checkpoints "
            "(or train.init_from=null to start from random weights)"
        ) from None
