"""What a plan's predictions know of a machine: speeds, links, watts and price, from a YAML file with named fields.

The built-in ones lie in `machines/`. `python -m cluster.train --plan --calibrate FILE.yaml` measures this machine and writes one.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from configs.errors import UserError
from configs.loader import read_yaml
from configs.sections import Count, NonNegative, Positive, Section

FOLDER = Path(__file__).parent / "machines"
PIXELS = 256 * 256
"""Of the images that `data_images_per_second` is given for."""


@dataclass(frozen=True, kw_only=True)
class Link(Section):
    """Between two processes, or of a whole node."""

    gigabytes_per_second: Positive
    """One way; both ways are taken to work at once."""
    microseconds: NonNegative
    """Until the first byte arrives."""


@dataclass(frozen=True, kw_only=True)
class Efficiency(Section):
    """What part of the speed that arithmetic or memory allows is reached, from above 0; over 1 where a part does better than the
    ceiling it was measured with (a copy, a large matrix product)."""

    first_conv: Positive
    """Of the convolution that sees the images' three channels."""
    conv: Positive
    dense: Positive
    norm: Positive
    """Of `lrn`, compiled."""
    spatial_norm: Positive
    update: Positive
    other: Positive
    """Pools, activations, dropout, preprocessing."""
    link: Positive
    """Of both links."""


@dataclass(frozen=True, kw_only=True)
class Machine(Section):
    """One kind of node, and how many there are. A device is a GPU or, on CPUs, a core that has all others busy beside it."""

    name: str
    device: Literal["cpu", "cuda"]
    measured: bool
    """Whether efficiencies and links were measured by this program; without it, a prediction is called a guess."""
    source: str
    """Where the figures are from."""
    date: str
    """Of the figures, as year-month."""
    devices_per_node: Count
    cpus_per_node: Count
    """CPUs for data workers and column processes."""
    nodes: Count | None = None
    """Null: as many as the run needs."""
    gflops: Mapping[Literal["fp32", "tf32", "bf16"], Positive]
    """Ceiling of convolutions and matrix products of one device, in 10^9 operations (additions, multiplications) a second."""
    gigabytes_per_second: Positive
    """Of a device's memory."""
    efficiency: Efficiency
    operation_microseconds: NonNegative = 0.0
    """Host time to give a GPU one operation. Hidden while the GPU has longer ones to do."""
    within_node: Link
    """Between two devices of a node."""
    between_nodes: Link | None = None
    """Of a whole node, shared by its devices; null: runs on one node only."""
    data_images_per_second: Positive
    """That a data worker decodes and cuts on one CPU, at 256x256."""
    watts_per_device: NonNegative
    watts_per_node: NonNegative
    """Of all that is not devices."""
    price_per_device_hour: NonNegative | None = None
    currency: str = "USD"


def built_in_machines() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_machine(name: str | Path) -> Machine:
    """The machine of a file, or the built-in one of this name.

    Raises UserError with every error found, each with its field.
    """
    file = next((f for f in (Path(name), FOLDER / str(name), FOLDER / f"{name}.yaml") if f.is_file()), None)
    if file is None:
        known = built_in_machines()
        near = difflib.get_close_matches(Path(name).stem, known, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"no machine {name}; {meant}The built-in ones are {', '.join(known)}; "
            "`python -m cluster.train --plan --calibrate FILE.yaml` describes this one"
        )
    try:
        return TypeAdapter(Machine).validate_json(json.dumps(read_yaml(file), default=str), strict=True)
    except ValidationError as error:
        listed = "\n".join(f"  {_explain(item)}" for item in error.errors())
        raise UserError(f"{file} does not describe a machine:\n{listed}") from None


def save_machine(machine: Machine, file: Path, header: str) -> None:
    """Raises UserError if the file cannot be written."""
    plain: dict[str, Any] = json.loads(TypeAdapter(Machine).dump_json(machine))
    try:
        file.write_text(header + yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None


def _explain(item: Any) -> str:
    keys = [str(key) for key in item["loc"] if key != "[key]"]
    path = ".".join(keys)
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        part = {"efficiency": Efficiency, "within_node": Link, "between_nodes": Link}.get(keys[0], Machine)
        known = sorted(f.name for f in fields(part))
        near = difflib.get_close_matches(keys[-1], known, n=1)
        return f"{path}: no such field; " + (f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}")
    if "missing" in item["type"]:
        return f"{path}: is missing; set it"
    return f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, not {item.get('input')!r}"
