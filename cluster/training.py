"""A training run from config to table: plan, data set, actors, supervision, result."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cluster.console import RunConsole, clock, errors_table, print_plan
from cluster.dataset import dataset_size, draw, load_manifest, verify
from cluster.failures import RunFailed
from cluster.network import keep_facts
from cluster.plan import Plan, describe, local_cpus, local_gpus, make_plan
from cluster.ray_session import ray_session
from cluster.run_folder import RunFolder
from cluster.signals import StopSignals
from configs.errors import UserError
from configs.loader import load

if TYPE_CHECKING:
    from workers.checkpoint import Checkpoint


def run_training(config_path: str | None, settings: Iterable[str], *, plan_only: bool, address: str | None) -> int:
    """Train to the end, or until stopped; returns the exit code.

    Raises UserError for wrong input, RunFailed if the run could not go on, Interrupted if it was stopped at once.
    """
    config = load(config_path, settings)
    plan = make_plan(config, local_gpus(), dataset_size(config))
    if plan_only:
        print_plan(describe(plan))
        return 0
    run = RunFolder(config)
    run.check_same_experiment()
    if plan.dataset is None:
        raise UserError(
            f"no data set at {config.data.path}; make one with "
            f"`python -m cluster.prepare folder SOURCE --out {config.data.path}`, or set data.path"
        )
    if _complete(run, plan):
        return 0
    with StopSignals() as signals:
        if not plan.dataset.drawn_first:
            verify(config)
        with ray_session(
            address,
            num_cpus=local_cpus(plan) if address is None else None,
            object_store_bytes=plan.object_store_bytes,
            dashboard=config.cluster.dashboard,
            metadata={"run": config.name},
        ) as ray:
            if address is not None:
                plan = make_plan(config, int(ray.cluster_resources().get("GPU", 0)), plan.dataset)
            if plan.dataset is not None and plan.dataset.drawn_first:
                draw(config, ray)
                verify(config)
            print_plan(describe(plan))
            return _train(run, plan, signals)


def _train(run: RunFolder, plan: Plan, signals: StopSignals) -> int:
    from cluster.group import WorkerGroup
    from cluster.supervisor import Supervisor

    run.open()
    start = run.latest()
    _check_start(run, start)
    keep_facts(run.path, run.config)
    started = time.monotonic()
    if start:
        print(f"continuing from {start.folder}", flush=True)
    with WorkerGroup(plan) as group, RunConsole(plan.program().total_steps) as console:
        for about in group.about:
            console.message(f"{about['name']}: pid {about['pid']} on {about['node']}, {about['device']}")
        for name, pid in group.data_pids.items():
            console.message(f"{name}: pid {pid}")
        if run.config.compute.fused or run.config.compute.compile:
            console.message("compiling; the first start on a machine takes a minute or so for it")
        signals.gentle = True

        def on_report(report: dict[str, Any]) -> None:
            run.write_log(report)
            console.report(report)

        supervisor = Supervisor(group, signals, on_report, console.message)
        try:
            results = supervisor.watch(group.train(run.checkpoints, start))
        except RunFailed as error:
            raise RunFailed(f"{error}. {_where_it_goes_on(run)}") from None
        finally:
            signals.gentle = False
    if results[0]["ended"] == "stopped":
        print(f"stopped after step {results[0]['step']:,}; {_where_it_goes_on(run)}")
        return 128 + (signals.requested or 0)
    result = {
        "step": results[0]["step"],
        "validation": results[0]["errors"],
        "train": console.last_train,
        "seconds": time.monotonic() - started,
        "feeds": supervisor.feed_counts,
    }
    run.write_result(result)
    _summary(run, result)
    return 0


def _complete(run: RunFolder, plan: Plan) -> bool:
    """Say so if there is nothing left to do."""
    result = run.result()
    if result is None or result["step"] < plan.program().total_steps:
        return False
    _summary(run, result)
    name = run.config.name
    print(
        f"this run is complete. Start another with another name (python -m cluster.train ... name={name}-2), train this one "
        f"longer (train.epochs=...), or remove {run.path} to begin it again"
    )
    return True


def _summary(run: RunFolder, result: dict[str, Any]) -> None:
    rows = [("validation, centre view", result["validation"])]
    if result.get("train"):
        rows.append(("training, last report", result["train"]))
    errors_table(rows)
    checkpoint = run.latest()
    print_plan(
        [
            ("steps", f"{result['step']:,} in {clock(result['seconds'])}"),
            ("log", str(run.log)),
            ("checkpoint", str(checkpoint.folder) if checkpoint else "none"),
            ("config", str(run.path / "config.yaml")),
            ("evaluate", f"python -m cluster.evaluate {run.path}"),
        ]
    )


def _check_start(run: RunFolder, start: "Checkpoint | None") -> None:
    """Raises UserError if the checkpoint was made from another data set, or with other rules of drawing."""
    from alexnet.counter import VERSION

    if start is None:
        return
    if start.state["dataset"] != load_manifest(run.config).fingerprint:
        raise UserError(
            f"{start.folder} was trained on another data set than {run.config.data.path} (their fingerprints differ); "
            "set data.path to that one, or give this run another name (name=...)"
        )
    if start.state["draws_version"] != VERSION:
        raise UserError(
            f"{start.folder} was made by a version of this program that draws crops and masks in another way; finish it there"
        )


def _where_it_goes_on(run: RunFolder) -> str:
    start = run.latest()
    where = f"the last checkpoint is {start.folder}" if start else "there is no checkpoint yet"
    return f"{where}; the same command goes on from there"
