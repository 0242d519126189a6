"""`bench data`: JPEGs of 256 x 256 in, shuffled and augmented batches out, on one core; ours against the usual loaders.

Every contender runs in a process that may use one core only, its children with it, and one thread. All read the same JPEGs, warm
in memory, and end at the same thing: float32 [128, 3, 224, 224] cropped, mirrored, mean subtracted, colour offset added; or,
where that is said, uint8 crops alone. A turn is one epoch.
"""

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cluster.benchmarks.loaders.contender import Contender
from cluster.benchmarks.loaders.material import Material, make
from cluster.benchmarks.loaders.peer import FOLDER, missing
from cluster.benchmarks.rounds import WARM_UP, interleave, show
from cluster.environment import COLUMN_ENVIRONMENT

BATCH = 128
IMAGES = 1024
GOAL_IMAGES_PER_SECOND, GOAL_RATIO = 1500, 2.5

# By what they end at. DataLoader decodes in its own process: on one core a worker beside it only adds the way between them.
CROPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours, uint8 crops": ("ours", "InProcess", {"crops_only": True}),
    "DataLoader, crop only": ("dataloader", "Plain", {"crops_only": True}),
    "Ray Data, crop only, no shuffle": ("raydata", "RayData", {"crops_only": True, "shuffle": "none"}),
}
AUGMENTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours, column's part on this CPU": ("ours", "InProcess", {}),
    "DataLoader": ("dataloader", "Plain", {}),
    "Ray Data, random_shuffle": ("raydata", "RayData", {"shuffle": "all"}),
    "Ray Data, local shuffle buffer": ("raydata", "RayData", {"shuffle": "local"}),
}


def data(
    rounds: int, *, folder: Path | None = None, images: int = IMAGES, batch: int = BATCH, ray_data: bool = True
) -> dict[str, Any]:
    """Measure, print, and return all figures.

    folder: a prepared data set of 256 x 256 JPEGs; None: pictures drawn for it. images: how many are used; a multiple of `batch`.
    ray_data: whether Ray Data takes part, which takes most of the time.
    """
    contenders = {**CROPS, **AUGMENTED}
    if ray_data and (install := missing("Ray Data")):
        print(f"Ray Data is not installed: pip install '{install}'")
        ray_data = False
    if not ray_data:
        contenders = {name: what for name, what in contenders.items() if what[0] != "raydata"}
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        material, what = make(Path(temporary), images, folder)
        print(f"data      {what}")
        differences = same_pixels(material, batch)
        core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
        if ray_data:
            with Contender(material, f"{FOLDER}.raydata", "RayData", batch=batch, workers=1, write=True):
                pass
        passes: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        turns: dict[str, Callable[[], float]] = {}
        for module, kind in dict.fromkeys((module, kind) for module, kind, _ in contenders.values()):
            variants = {name: options for name, (*of, options) in contenders.items() if of == [module, kind]}
            contender = stack.enter_context(
                Contender(
                    material,
                    f"{FOLDER}.{module}",
                    kind,
                    batch=batch,
                    workers=0,
                    core=core,
                    variants=list(variants.values()),
                    # Ours computes as a column does; the others as their users do.
                    environment=COLUMN_ENVIRONMENT if module == "ours" else None,
                )
            )
            turns |= {name: _turn(contender, number, passes[name]) for number, name in enumerate(variants)}
        # In the order of the tables.
        times = interleave({name: turns[name] for name in contenders}, rounds)
    print("one core" if core is not None else "not limited to one core, which this system cannot do")
    for group, ending in ((CROPS, "uint8 crops"), (AUGMENTED, "float32, augmented")):
        print(f"\n{batch} images a batch, {images:,} an epoch, to {ending}")
        here = {name: times[name] for name in group if name in times}
        show(here, next(name for name in here if name.startswith("DataLoader")), images=images)
    measured = {name: made[-rounds:] for name, made in passes.items()}
    _show_cpu(measured)
    _show_goals(measured)
    return {"data": what, "images": images, "batch": batch, "same_pixels": differences, "passes": measured}


def _turn(contender: Contender, variant: int, passes: list[dict[str, Any]]) -> Callable[[], float]:
    calls = 0

    def turn() -> float:
        nonlocal calls
        calls += 1
        # One epoch warms a loader up; a second one would take Ray Data a quarter of the whole run.
        if 1 < calls <= WARM_UP:
            return 0.0
        passes.append(contender.ask("a_pass", variant=variant, first=calls == 1))
        return float(passes[-1]["seconds"])

    return turn


def _rate(passes: list[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> str:
    values = [of(one) for one in passes]
    return f"{statistics.median(values):8,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _show_cpu(measured: dict[str, list[dict[str, Any]]]) -> None:
    """The same by CPU time of all processes, and with the start of an epoch left out, which Ray Data pays for each."""
    print(
        "\nimages per CPU second of all its processes; per second after an epoch's first batch; seconds to that batch"
    )
    for name, passes in measured.items():
        by_cpu = _rate(passes, lambda one: one["images"] / one["cpu_seconds"])
        running = _rate(passes, lambda one: one["images_after_first"] / (one["seconds"] - one["first_seconds"]))
        first = statistics.median(one["first_seconds"] for one in passes)
        print(f"  {name:<34}{by_cpu:<28}{running:<28}{first:6.2f}")


def _show_goals(measured: dict[str, list[dict[str, Any]]]) -> None:
    def rate(name: str) -> float:
        return statistics.median(one["images"] / one["seconds"] for one in measured[name])

    crops, full, theirs = (
        rate(name) for name in ("ours, uint8 crops", "ours, column's part on this CPU", "DataLoader")
    )
    print(
        f"\ngoals: {GOAL_IMAGES_PER_SECOND:,} images/s on one core, {GOAL_RATIO} x DataLoader. Our data worker makes "
        f"{crops:,.0f} images/s, {crops / theirs:.2f} x DataLoader's; with the column's part on the same core "
        f"{full / theirs:.2f} x"
    )


def same_pixels(material: Material, batch: int) -> dict[str, Any]:
    """Our first batch against the opponents' transformation of the same files with our draws: differences in levels of 0..255."""
    import torch

    from cluster.benchmarks.loaders.ours import InProcess
    from cluster.benchmarks.loaders.plain import Transform
    from workers.data.data_worker import DataWorker
    from workers.program import Request

    made = DataWorker(material.config(), "check").batch(Request(split="train", start=0, count=batch))
    ours = InProcess(material, batch=batch, workers=0)
    ours.open(None)
    _, images = next(iter(ours.epoch()))
    transform = Transform(material)
    largest, different = 0.0, 0.0
    for number, record in enumerate(made["labels"]):
        y, x = made["offsets"][number]
        colour = torch.from_numpy(made["colour"][number])
        theirs = transform.with_draws(material.file(record), int(y), int(x), bool(made["mirror"][number]), colour)
        off = np.abs((theirs - images[number]).numpy())
        largest, different = max(largest, float(off.max())), different + float((off > 0.5).mean()) / batch
    print(
        f"pixels    the same draws give the opponents' float32 batch within {largest:.3g} levels of 255; "
        f"{different:.2%} of values differ by a level or more"
    )
    return {"largest": largest, "share_different": different}
