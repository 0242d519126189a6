"""A report from beginning to end: read the runs, load the network, draw, and write the page with its pictures.

1. What the runs' folders say is read, and the folder for the report is made: mistakes show before anything long.
2. The first run's newest checkpoint is loaded.
3. Figure 4's neighbours, which take longest.
4. All files are written; those of an earlier report there that this one does not have are removed.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.console import print_plan
from cluster.paths import check_folder
from cluster.report.records import RunRecord, read_records
from configs.errors import UserError
from workers.data.storage import is_url

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cluster.network import Device, LoadedNetwork
    from cluster.report.figure4 import Figure4

PAGE, NUMBERS = "report.html", "report.json"
TRIES = 5
"""To load the newest checkpoint of a run that still goes on, and may remove it meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a report; as the options say."""

    out: Path
    views: Literal[1, 10] = 1
    neighbours: bool = True
    among: int | None = None
    seed: int = 0
    data: str | None = None
    device: "Device" = "auto"
    batch: int = 128


def run_report(runs: Iterable[Path], wanted: Wanted) -> int:
    """Write report.html and its pictures into a folder; returns 0. Raises UserError for wrong input."""
    from cluster.report.contents import Contents, make_page
    from cluster.report.groups import group_runs

    records = read_records(runs)
    check_folder(wanted.out, "--out")
    loaded = _load(records[0], wanted)
    kernels = {records[0].label: (_kernels(loaded), loaded.network.columns)}
    for record in records[1:]:
        kernels[record.label] = (_stored_kernels(record), record.config.network.columns)
    figure4, without = _figure4(loaded, wanted)
    contents = Contents(
        records=records,
        groups=group_runs(records),
        loaded=loaded,
        kernels={label: (one, columns) for label, (one, columns) in kernels.items() if one is not None},
        figure4=figure4,
        without_figure4=without,
    )
    page, pictures, numbers = make_page(contents)
    _write(wanted.out, page, pictures, numbers)
    print_plan(
        [
            ("runs", ", ".join(record.label for record in records)),
            ("network", f"{loaded.source}, after step {loaded.updates:,}"),
            *([("figure 4", f"left out: {without}")] if without else ()),
            ("pictures", f"{len(pictures)} PNG files in {wanted.out}"),
            ("report", str(wanted.out / PAGE)),
        ]
    )
    return 0


def _load(record: RunRecord, wanted: Wanted) -> "LoadedNetwork":
    """The network at the run's newest checkpoint, or at the one that was named."""
    from cluster.network import load_run

    settings = [] if wanted.data is None else [f"data.path={wanted.data}"]
    for left in reversed(range(TRIES)):
        try:
            return load_run(record.given, settings, device=wanted.device)
        except (UserError, OSError) as error:
            if (
                record.state.state != "running"
                or not left
                or not (record.state.checkpoints or is_url(record.state.place))
            ):
                if isinstance(error, OSError):
                    raise UserError(f"{record.given}: its checkpoint cannot be read: {error}") from None
                raise
            time.sleep(1.0)
    raise AssertionError("the last try returns or raises")


def _kernels(loaded: "LoadedNetwork") -> "NDArray[np.float32] | None":
    from cluster.report.kernels import first_kernels

    return first_kernels(loaded)


def _stored_kernels(record: RunRecord) -> "NDArray[np.float32] | None":
    """Of a run's newest checkpoint, which is not read otherwise; None if there is none, which a note on stderr says."""
    import torch

    from cluster.report.kernels import first_layer
    from configs.geometry import layers
    from workers.checkpoint import Rows, load_rows
    from workers.checkpoint_list import committed
    from workers.checkpoint_store import place_of

    name = first_layer(record.config.network)
    if name is None:
        return None
    shape = layers(record.config.network)[0].weight_shape
    kernels = torch.empty(shape)
    try:
        found = committed(place_of(record.config, record.path))
        if not found:
            raise UserError("there is no checkpoint")
        load_rows(found[-1], [Rows(f"{name}.weights", kernels, 0, shape[0], shape)])
    except (UserError, OSError, RuntimeError) as error:
        print(f"note: {record.label} is shown without its kernels: {error}", file=sys.stderr, flush=True)
        return None
    pixels: NDArray[np.float32] = kernels.numpy()
    return pixels


def _figure4(loaded: "LoadedNetwork", wanted: Wanted) -> "tuple[Figure4 | None, str]":
    """Figure 4, or why there is none."""
    from cluster.report.figure4 import make_figure4

    assert loaded.config is not None, "a run's network comes with its config"
    data = loaded.config.data
    if wanted.data is not None:
        data = replace(data, path=wanted.data)
    try:
        return make_figure4(
            loaded,
            data,
            views=wanted.views,
            neighbours=wanted.neighbours,
            among=wanted.among,
            seed=wanted.seed,
            batch=wanted.batch,
        ), ""
    except UserError as error:
        return None, str(error)


def _write(out: Path, page: str, pictures: "dict[str, bytes]", numbers: dict[str, Any]) -> None:
    files = sorted([PAGE, NUMBERS, *pictures])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _files_before(out):
            if name not in files:
                (out / name).unlink(missing_ok=True)
        for name, content in pictures.items():
            (out / name).write_bytes(content)
        (out / NUMBERS).write_text(json.dumps({**numbers, "files": files}, indent=1, ensure_ascii=False), "utf-8")
        (out / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}") from None


def _files_before(out: Path) -> Sequence[str]:
    """What an earlier report put into the folder: plain names alone."""
    try:
        files = json.loads((out / NUMBERS).read_text(encoding="utf-8"))["files"]
        return [name for name in files if Path(name).name == name and name.endswith(".png")]
    except (OSError, ValueError, KeyError, TypeError):
        return []
