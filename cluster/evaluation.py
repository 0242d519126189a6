"""Testing a run's network: the same actors, feed and exchange as in training, on the validation set alone."""

from collections.abc import Iterable
from typing import Any, Literal

from cluster.console import RunConsole, errors_table, print_plan
from cluster.dataset import check_classes, dataset_size, load_manifest, verify
from cluster.evaluations import ERRORS, as_json, keep
from cluster.failures import RunFailed
from cluster.network import facts_of, find_checkpoint, find_run
from cluster.outcomes import Failure, Stopped
from cluster.paths import check_file
from cluster.plan import local_cpus, plan_before_joining
from cluster.prediction import write_json
from cluster.preflight.run import plan_for_cluster, preflight
from cluster.ray_session import cluster_address, ray_session
from cluster.settings import overrides
from cluster.signals import StopSignals
from configs.errors import UserError
from configs.loader import load
from workers.reports import WarningReport

HERE = ("cluster.replicas=auto", "cluster.nodes=null", "cluster.device=auto", "cluster.dashboard=false")
"""In place of the run's: it may have been trained on other machines, and a dashboard takes longer to start than this runs."""


def run_evaluation(
    folder: str,
    settings: Iterable[str],
    *,
    views: Literal[1, 10],
    checkpoint: str | None,
    json_file: str | None,
    address: str | None,
) -> int:
    """Test a run's newest checkpoint, or the one in folder `checkpoint`; returns the exit code.

    folder: of a run, or of a checkpoint inside it.
    views: of each image; the centre, or four corners and the centre with their mirror images, whose probabilities are averaged.

    Raises UserError for wrong input, RunFailed if it could not go on, Interrupted if it was stopped at once.
    """
    if json_file is not None:
        check_file(json_file, "--json")
    run, itself = find_run(folder)
    config = load(run / "config.yaml", [*HERE, *settings])
    address = cluster_address(address)
    plan = plan_before_joining(config, address, dataset_size(config))
    if plan.dataset is None or plan.dataset.drawn_first:
        raise UserError(f"no data set at {config.data.path}; set data.path to where it is")
    start = find_checkpoint(run, config, checkpoint or itself)
    facts, manifest = facts_of(run, config, start), load_manifest(config)
    check_classes(run, facts.classes, config, manifest)
    with StopSignals() as signals:
        verify(config)
        with ray_session(
            address,
            num_cpus=local_cpus(plan) if address is None else None,
            object_store_bytes=plan.object_store_bytes,
            metadata={"run": config.name},
        ) as ray:
            if address is not None:
                plan = plan_for_cluster(ray, config, plan.dataset)
            preflight(ray, plan, None)
            from cluster.group import WorkerGroup
            from cluster.supervisor import Supervisor

            with WorkerGroup(plan, views=views) as group, RunConsole(start.step, waiting="testing") as console:
                signals.gentle = True
                supervisor = Supervisor(
                    group,
                    signals,
                    lambda report: console.report(report) if isinstance(report, WarningReport) else None,
                    console.message,
                )
                outcome = supervisor.watch(group.evaluate(start, facts.statistics))
    if isinstance(outcome, Failure):
        raise RunFailed(outcome.what)
    if isinstance(outcome, Stopped):
        print("stopped; an evaluation leaves nothing behind")
        return 128 + (signals.requested or 0)
    what = "centre view" if views == 1 else "ten views"
    result: dict[str, Any] = outcome.results[0]
    errors_table([(f"validation, {what}, after step {start.step:,}", result["errors"])])
    about = {"checkpoint": start.folder, "step": start.step, "views": views, "data": config.data.path}
    about |= {"dataset": manifest.fingerprint, "overrides": overrides(load(run / "config.yaml"), config)}
    keep(run, about | {key: result["errors"][key] for key in ERRORS})
    print_plan([("checkpoint", start.folder), ("data", config.data.path)])
    if json_file is not None:
        errors = {key: result["errors"][key] for key in ERRORS}
        errors["mean_log_probability"] = -errors["loss"]  # as `Tally.errors` has it
        member = {"checkpoint": start.folder, "updates": start.step, "weight": 1.0, **errors}
        write_json(json_file, as_json(views, config.data.path, errors, [member]))
    return 0
