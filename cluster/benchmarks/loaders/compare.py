"""`bench peers`: ours beside each loader that is installed, with workers, edges of epochs, stops and deaths.

Every loader runs as its documentation says, with the same number of workers, on all cores. It delivers the same float32 batches;
a record's id comes with it, so that lost and doubled ones can be counted.
"""

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.benchmarks.loaders.contender import Contender
from cluster.benchmarks.loaders.material import make
from cluster.benchmarks.loaders.peer import PEERS, missing
from cluster.benchmarks.rounds import WARM_UP, interleave
from cluster.console import print_table
from cluster.environment import COLUMN_ENVIRONMENT

BATCH, IMAGES, WORKERS = 128, 2048, 2

Figures = dict[str, Any]


def peers(
    rounds: int,
    *,
    folder: Path | None = None,
    images: int = IMAGES,
    batch: int = BATCH,
    workers: int = WORKERS,
    names: tuple[str, ...] = tuple(PEERS),
) -> Figures:
    """Measure, print, and return all figures.

    folder: as in `data`. images: how many are used; a multiple of `workers` batches, of eight at least. names: whom to compare,
    of `PEERS`; those that are not installed are told and left out.
    """
    there = [name for name in names if not missing(name)]
    for name in names:
        if name not in there:
            print(f"{name} is not installed: pip install '{missing(name)}'")
    versions = {name: version(PEERS[name][3].split("[")[0]) for name in there if PEERS[name][3]}
    print(f"versions  {', '.join(f'{name} {number}' for name, number in versions.items())}")
    found: dict[str, Figures] = {name: {} for name in there}
    with tempfile.TemporaryDirectory() as temporary:
        material, what = make(Path(temporary), images, folder)
        print(f"data      {what}; {workers} workers, {os.cpu_count()} cores")

        def start(name: str, *, write: bool = False) -> Contender:
            module, kind, _, _ = PEERS[name]
            # Our consumer is a column; the others have the environment of their users.
            environment = COLUMN_ENVIRONMENT if name == "ours" else None
            return Contender(material, module, kind, batch=batch, workers=workers, write=write, environment=environment)

        for name in there:
            with start(name, write=True):
                pass
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(start(name)) for name in there}
            edges: dict[str, list[Figures]] = {name: [] for name in there}
            interleave({name: _turn(contender, edges[name]) for name, contender in running.items()}, rounds)
            state = {name: str(material.folder / f"state-{number}") for number, name in enumerate(there)}
            stopped = {name: contender.ask("stop", file=state[name]) for name, contender in running.items()}
        for name in there:
            with start(name) as contender:
                continued = contender.ask("go_on", file=state[name])
                killed = contender.ask("kill")
            same = compare(stopped[name]["has_state"], stopped[name]["rest"], continued["rest"])
            resumed = {"seconds": continued["seconds"], **same}
            found[name] = {"edges": edges[name][-rounds:], "resume": resumed, "kill": killed}
    _show(found)
    return {"data": what, "images": images, "batch": batch, "workers": workers, "versions": versions, "peers": found}


def _turn(contender: Contender, edges: list[Figures]) -> Callable[[], float]:
    calls = 0

    def turn() -> float:
        nonlocal calls
        calls += 1
        if 1 < calls <= WARM_UP:  # the first has warmed it up
            return 0.0
        edges.append(contender.ask("edge"))
        return float(edges[-1]["seconds"])

    return turn


def compare(has_state: bool, wanted: list[Any], got: list[Any]) -> Figures:
    """What came after a continuation against what came without a stop: lists of batches, which are lists of (id, CRC).

    `verdict` in words; `missing` and `extra`, images that should have come and did not, and the other way round.
    """
    ids_wanted, ids_got = ([number for batch in batches for number, _ in batch] for batches in (wanted, got))
    missing_ids, extra = set(ids_wanted) - set(ids_got), len(ids_got) - len(set(ids_got) & set(ids_wanted))
    if not has_state:
        verdict = "no state; the epoch starts again"
    elif [[tuple(item) for item in batch] for batch in wanted] == [[tuple(item) for item in batch] for batch in got]:
        verdict = "exact, every pixel"
    elif ids_wanted == ids_got:
        verdict = "same images and order, other crops"
    elif sorted(ids_wanted) == sorted(ids_got):
        verdict = "same images, other order"
    else:
        verdict = f"{len(missing_ids)} of {len(ids_wanted)} do not come, {extra} come that should not"
    return {"verdict": verdict, "missing": len(missing_ids), "extra": extra}


def _middle(edges: list[Figures], of: Callable[[Figures], float], form: str) -> str:
    values = [of(one) for one in edges]
    low, high = (format(value, form) for value in (min(values), max(values)))
    return f"{statistics.median(values):{form}} ({low} to {high})"


def _show(found: dict[str, Figures]) -> None:
    table = Table(title="data loaders, medians (range)")
    table.add_column("")
    for name in found:
        table.add_column(name)
    rows: dict[str, Callable[[Figures], str]] = {
        "images per CPU second": lambda f: _middle(f["edges"], lambda e: e["images"] / e["cpu_seconds"], ",.0f"),
        "images per second": lambda f: _middle(f["edges"], lambda e: e["images"] / e["seconds"], ",.0f"),
        "first batch, s": lambda f: _middle(f["edges"], lambda e: e["first_seconds"], ".2f"),
        "longest wait at an epoch's edge, s": lambda f: _middle(f["edges"], lambda e: e["edge_seconds"], ".2f"),
        "the same, in mean waits": lambda f: _middle(
            f["edges"], lambda e: e["edge_seconds"] / e["other_seconds"], ".1f"
        ),
        "lost, doubled in an epoch": lambda f: _lost(f["edges"][-1]),
        "resume in mid-epoch": lambda f: f["resume"]["verdict"],
        "first batch then, s": lambda f: f"{f['resume']['seconds']:.2f}",
        "kill -9 of a worker": lambda f: after_kill(f["kill"]),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(figures) for figures in found.values()))
    print_table(table, 36 + 19 * len(found))


def _lost(figures: Figures) -> str:
    return f"{figures['lost']}, {figures['doubled']}"


def after_kill(figures: Figures) -> str:
    """What the death of a worker did, in words."""
    if figures["ended"]:
        return f"ends after {figures['ended_seconds']:.1f} s: {figures['ended']}"
    return f"goes on; longest wait {figures['longest_seconds']:.2f} s; lost, doubled: {_lost(figures)}"
