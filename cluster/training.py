"""A training run from config to table: plan, data set, actors, supervision, result."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from cluster.console import RunConsole, clock, errors_table, print_plan
from cluster.dataset import dataset_size, draw, load_manifest, verify
from cluster.failures import RunFailed
from cluster.job import job_metadata
from cluster.network import keep_facts
from cluster.paths import absolute_location, check_folder
from cluster.plan import Plan, describe, local_cpus, plan_before_joining
from cluster.preflight.run import plan_for_cluster, preflight, report
from cluster.ray_session import cluster_address, ray_session
from cluster.run_folder import RunFolder
from cluster.signals import StopSignals
from cluster.sinks import MakeSink, find_sinks
from cluster.totals import total_lines
from configs.errors import UserError
from configs.loader import load
from configs.schema import Config

if TYPE_CHECKING:
    from workers.checkpoint import Checkpoint


def run_training(
    config_path: str | None,
    settings: Iterable[str],
    *,
    check_only: bool = False,
    address: str | None = None,
    quiet: bool = False,
    sinks: Iterable[str] = (),
) -> int:
    """Train to the end, or until stopped; returns the exit code.

    check_only: look at what a run needs, and stop. quiet: say only what is wrong, and the result. sinks: where else reports go,
    by `module:Class` (`cluster.sinks`).

    Raises UserError for wrong input, RunFailed if the run could not go on, Interrupted if it was stopped at once.
    """
    settings = list(settings)
    config, address = load(config_path, settings), cluster_address(address)
    plan = plan_before_joining(config, address, dataset_size(config))
    run = RunFolder(config)
    run.check_same_experiment()
    dataset = plan.dataset
    if dataset is None:
        raise UserError(
            f"no data set at {config.data.path}; make one with "
            f"`python -m cluster.prepare folder SOURCE --out {quote(config.data.path)}`, or set data.path"
        )
    _check_profile(plan)
    if not check_only and _complete(run, plan):
        return 0
    if not check_only:
        run.hold()
        run.check_writable()
        if dataset.drawn_first:
            check_folder(config.data.path, "the data set's folder")
        if not dataset.drawn_first:
            _check_start(run, run.latest())
    config = _with_first_weights(config, run)
    plan = replace(plan, config=replace(plan.config, train=config.train))
    others = find_sinks(sinks)
    with StopSignals() as signals:
        if not dataset.drawn_first and not check_only:
            verify(config)
        with ray_session(
            address,
            num_cpus=local_cpus(plan) if address is None else None,
            object_store_bytes=plan.object_store_bytes,
            dashboard=config.cluster.dashboard,
            metadata=job_metadata(config, config_path, settings),
            quiet=quiet,
        ) as ray:
            if address is not None:
                plan = plan_for_cluster(ray, config, dataset)
            if check_only:
                return report(ray, plan, absolute_location(run.checkpoints))
            if dataset.drawn_first:
                draw(config, ray)
                verify(config)
            if not quiet:
                print_plan(describe(plan))
            preflight(ray, plan, absolute_location(run.checkpoints), quiet=quiet)
            return _train(run, plan, signals, quiet, others)


def _train(run: RunFolder, plan: Plan, signals: StopSignals, quiet: bool, sinks: Mapping[str, MakeSink]) -> int:
    from cluster.attempts import Attempts
    from cluster.outcomes import Stopped
    from cluster.reporting import Reporting

    newest = run.latest()  # what it goes on from is settled when the actors are there
    _check_start(run, newest)
    console = RunConsole(plan.program().total_steps, quiet=quiet)
    whole = plan.with_replicas(plan.config.cluster.replica_count)
    run.make()
    first_step, changed = newest.step if newest else 0, run.changes()
    reporting = Reporting(run, whole, console, start_step=first_step, changed=changed, sinks=sinks)
    # Whatever can be refused has been: from here on the run is another one.
    run.open()
    _say_profile(run, newest)
    keep_facts(run.path, run.config)
    started = time.monotonic()
    with console, reporting:
        if changed:
            console.note(f"note: since its last start, this run has other settings: {'; '.join(changed)}")
        if run.config.compute.fused or run.config.compute.compile:
            console.message("compiling; the first start on a machine takes a minute or so for it")
        attempts = Attempts(run, plan, signals, console, reporting, run.next_attempt())
        try:
            outcome = attempts.train()
        except RunFailed as error:
            where = _where_it_goes_on(run)
            raise RunFailed(f"{error}. {where[0].upper()}{where[1:]}") from None
        except KeyboardInterrupt:
            signals.end_within(run.config.fault.stop_grace_seconds)
            console.note(f"stopped at once; {_where_it_goes_on(run)}")
            raise
        if isinstance(outcome, Stopped):
            reporting.end("stopped", outcome.step)
        else:
            reporting.end("finished", outcome.results[0]["step"])
    if isinstance(outcome, Stopped):
        print(f"stopped after step {outcome.step:,}; {_where_it_goes_on(run)}")
        return 128 + (signals.requested or 0)
    result = {
        "step": outcome.results[0]["step"],
        "first_step": first_step,
        "validation": outcome.results[0]["errors"],
        "train": console.last_train and console.last_train.as_json(),
        "seconds": time.monotonic() - started,
        "attempts": attempts.number,
        "failures": attempts.failures,
        "spent": reporting.totals.as_json(),
        "feeds": attempts.feed_counts,
    }
    try:
        run.write_result(result)
    finally:
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
    print_plan(
        [
            ("steps", _steps(result)),
            *(total_lines(result["spent"], result["seconds"]) if "spent" in result else ()),
            ("log", str(run.log)),
            ("checkpoint", run.newest_in_words()),
            ("TensorBoard", f"tensorboard --logdir {quote(str(run.events))}"),
            ("config", str(run.path / "config.yaml")),
            ("evaluate", f"python -m cluster.evaluate {quote(str(run.path))}"),
        ]
    )


def _steps(result: dict[str, Any]) -> str:
    """Seconds are those of the command that came to the end, which may have made some of the steps."""
    first, last = result.get("first_step", 0), result["step"]
    return f"{last:,}{f', the last {last - first:,} of them' if first else ''} in {clock(result['seconds'])}"


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


def _check_profile(plan: Plan) -> None:
    """Raises UserError if the run ends before the steps that are to be profiled."""
    profiled, steps = plan.config.train.profile_steps, plan.program().total_steps
    if profiled is not None and profiled[1] > steps:
        raise UserError(f"train.profile_steps ends at update {profiled[1]:,}, and the run has {steps:,}")


def _with_first_weights(config: Config, run: RunFolder) -> Config:
    """With `train.init_from` as the one checkpoint that it leads to now: a run that is still trained makes new ones.

    Says which layers are taken, and which begin anew. Raises UserError if it leads nowhere.
    """
    if config.train.init_from is None or run.latest() is not None:
        return config
    from workers.init_from import find_start

    start = find_start(config.train, config.network)
    print(start, flush=True)
    assert start is not None
    return replace(config, train=replace(config.train, init_from=start.checkpoint.location))


def _say_profile(run: RunFolder, start: "Checkpoint | None") -> None:
    """A setting that has no effect says so."""
    profiled = run.config.train.profile_steps
    if profiled and start and start.step >= profiled[1] and not (run.path / "profile").exists():
        print(f"note: the run goes on after step {start.step:,}, so train.profile_steps={list(profiled)} has no effect")


def _where_it_goes_on(run: RunFolder) -> str:
    newest = run.newest_in_words()
    if newest == "none":
        return "there is no checkpoint yet, so the same command begins again"
    return f"the last checkpoint is {newest}; the same command goes on from there"
