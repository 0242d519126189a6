"""`bench seeing`: what it costs to see a run: reports of every step, log, TensorBoard, metrics, live line, and Ray's dashboard.

The same run in turns, with all of that and with none of it: two columns and a data worker of `original.yaml` with 10 classes, on
pictures drawn at 256x256, on CPUs. Each turn starts Ray and its actors anew. Steps are timed by the column, from the report of
the last step of the warm-up to the last report, so whatever a report costs lies in between.
"""

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.benchmarks.rounds import interleave, show
from cluster.dataset import dataset_size, draw
from cluster.failures import RunFailed
from cluster.group import WorkerGroup
from cluster.outcomes import Finished
from cluster.plan import Plan, local_cpus, make_plan
from cluster.ray_session import ray_session
from cluster.signals import StopSignals
from cluster.supervisor import Supervisor
from configs.loader import load
from configs.schema import Config
from workers.reports import Report, TrainReport

STEPS = 8
"""That are measured, after as many to warm up."""
ON, OFF = "everything seen", "nothing seen"


def seeing(batch: int, rounds: int, config: Config | None = None) -> dict[str, Any]:
    """Prints and returns seconds of `STEPS` steps by turn, and the cost as a share of the time without.

    config: of another run than the one above; its pictures are drawn.
    """
    with tempfile.TemporaryDirectory(prefix="bench-seeing-") as folder:
        config = replace(config or _config(batch), runs_folder=str(Path(folder, "runs")))
        config = replace(config, data=replace(config.data, path=str(Path(folder, "data"))))
        turns = {name: _turns(config, Path(folder), seen=name == ON) for name in (OFF, ON)}
        times = interleave(turns, rounds)
    print(f"\ntwo columns, batch {config.train.batch_size}; a report every step, or none")
    show(times, OFF, STEPS * config.train.batch_size)
    off, on = (statistics.median(times[name]) for name in (OFF, ON))
    print(f"  seeing costs {on / off - 1:+.2%} of the time")
    return {**times, "cost": on / off - 1}


def _config(batch: int) -> Config:
    settings = [
        f"network.classes=10 cluster.device=cpu train.batch_size={batch} train.evaluate_batch_size={batch} train.epochs=null",
        f"data.drawn_pictures.size=256 data.drawn_pictures.train_per_class={-(-STEPS * batch // 10)}",
        "data.drawn_pictures.validation_per_class=1 checkpoint.every_steps=null cluster.data_workers=1 train.steps=1",
    ]
    return load("original.yaml", " ".join(settings).split())


def _turns(config: Config, folder: Path, *, seen: bool) -> Callable[[], float]:
    """A function that runs once and returns seconds; each call is a run of its own."""
    number = 0
    train = replace(
        config.train, steps=2 * STEPS, epochs=None, evaluate_every_epochs=None, report_every_steps=1 if seen else STEPS
    )

    def turn() -> float:
        nonlocal number
        number += 1
        own = replace(config, train=train, name=f"{'seen' if seen else 'unseen'}-{number}")
        plan = make_plan(own, 0, dataset_size(own))
        with (
            StopSignals() as signals,
            ray_session(
                None,
                num_cpus=local_cpus(plan),
                object_store_bytes=plan.object_store_bytes,
                dashboard=seen,
                quiet=True,
            ) as ray,
        ):
            if not Path(own.data.path).exists():
                draw(own, ray)
                plan = make_plan(own, 0, dataset_size(own))
            with WorkerGroup(plan) as group, _seen(plan, group) if seen else _unseen() as hear:
                return _seconds(group, signals, hear, folder / own.name)

    return turn


def _seconds(group: WorkerGroup, signals: StopSignals, hear: Callable[[Report], None], folder: Path) -> float:
    moments: dict[int, float] = {}

    def on_report(report: Report) -> None:
        if isinstance(report, TrainReport):
            moments[report.step] = report.seconds
        hear(report)

    outcome = Supervisor(group, signals, on_report, print).watch(group.train(str(folder / "checkpoints"), None))
    if not isinstance(outcome, Finished):
        raise RunFailed(str(outcome))
    return moments[2 * STEPS] - moments[STEPS]


@contextlib.contextmanager
def _seen(plan: Plan, group: WorkerGroup) -> Iterator[Callable[[Report], None]]:
    """All that `cluster.train` has on a terminal; its lines are made, and go nowhere."""
    from rich.console import Console

    from cluster.console import RunConsole
    from cluster.reporting import Reporting
    from cluster.run_folder import RunFolder

    run, terminal = RunFolder(plan.config), Console(file=io.StringIO(), force_terminal=True, width=120)
    run.open()
    with (
        RunConsole(plan.program().total_steps, rich=terminal) as console,
        Reporting(run, plan, console, start_step=0, sinks={}) as reporting,
    ):
        reporting.placed(group.about)
        yield reporting.report
        reporting.end("finished", plan.program().total_steps)


@contextlib.contextmanager
def _unseen() -> Iterator[Callable[[Report], None]]:
    yield lambda report: None
