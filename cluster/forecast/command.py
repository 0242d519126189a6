"""`python -m cluster.train --plan`: what would run, how fast, how long and for how much. Starts nothing, and needs no Ray."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.auto import NodeDevices
from cluster.console import print_plan
from cluster.cpus import usable_cpus
from cluster.dataset import dataset_size
from cluster.devices import local_gpus
from cluster.forecast.model import Forecast, forecast
from cluster.forecast.sweep import curves, draw, parse_range, table
from cluster.forecast.words import forecast_lines
from cluster.paths import check_file
from cluster.plan import DatasetSize, Plan, describe, make_plan
from configs.errors import UserError
from configs.loader import load
from configs.machine import Machine, built_in_machines, load_machine
from configs.schema import Config

IMAGENET = DatasetSize(train_rows=1_281_167, validation_rows=50_000, image_size=256, classes=1000)
"""What is assumed of a data set that is not prepared yet, where a network has ILSVRC-2012's classes."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was asked of the plan beside the config."""

    machine: str | None = None
    devices: int | None = None
    calibrate: Path | None = None
    sweep: str | None = None
    plot: Path | None = None


def run_plan(config_path: str | None, settings: Iterable[str], wish: Wish) -> int:
    """Print the plan with its forecast, or the table of a sweep; returns the exit code. Raises UserError."""
    settings = list(settings)
    config = load(config_path, settings)
    wanted = parse_range(wish.sweep) if wish.sweep is not None else None
    if wish.plot is not None and wanted is None:
        raise UserError("--plot draws a sweep: give one, such as --sweep replicas=1..64")
    if wish.plot is not None:
        check_file(wish.plot, "--plot")
    machine = described(wish)
    size = dataset_size(config)
    if wanted is None:
        plan, machine = plan_on(config, machine, size, wish.devices)
        lines = describe(plan)
        if machine is None:
            lines.append(
                ("predicted", f"nothing, for nothing is known of this GPU; --machine {'|'.join(built_in_machines())}")
            )
        else:
            lines += forecast_lines(*_forecast(plan, machine), assumed=size is None)
        print_plan(lines)
        return 0

    def predict(more: list[str]) -> Forecast:
        plan, found = plan_on(load(config_path, [*settings, *more]), machine, size, wish.devices)
        if found is None:
            raise UserError(f"nothing is known of this GPU; give --machine {'|'.join(built_in_machines())}")
        return _forecast(plan, found)[1]

    found = curves(wanted, config.train.batch_size, predict)
    print("\n\n".join(table(wanted, curve) for curve in found))
    name = next((row.machine.name for curve in found for _, row in curve.rows if isinstance(row, Forecast)), None)
    if name is None:
        raise UserError("nothing could be predicted; the reason stands above")
    print(f"\n{config.name} on {name}; what these figures leave out: docs/scaling.md")
    if wish.plot is not None:
        draw(wanted, found, f"{config.name} on {name}", wish.plot)
        print(f"drawn in {wish.plot}")
    return 0


def described(wish: Wish) -> Machine | None:
    """The machine that was asked for, calibrated first if that was; None if none was."""
    if wish.calibrate is not None:
        if wish.machine is not None:
            raise UserError("--calibrate describes this machine and --machine another one: give one of them")
        from cluster.forecast.calibrate import calibrate

        return calibrate(wish.calibrate)
    return load_machine(wish.machine) if wish.machine is not None else None


def plan_on(
    config: Config, machine: Machine | None, dataset: DatasetSize | None, devices: int | None = None
) -> tuple[Plan, Machine | None]:
    """The plan on this many devices of the machine, as many as it needs by default; on this computer if `machine` is None.

    The machine comes back as the forecast needs it; None if nothing is known of the GPUs here.
    """
    if machine is None:
        if devices is not None:
            raise UserError("--devices counts a described machine's devices: give --machine NAME too, or leave it out")
        plan = make_plan(config, local_gpus(), dataset)
        return plan, (_these_cpus() if plan.mesh.device == "cpu" else _this_gpu())
    if devices is not None:
        nodes = -(-devices // machine.devices_per_node)
        machine = replace(machine, nodes=nodes, devices_per_node=min(devices, machine.devices_per_node))
    if machine.device == "cpu":
        return make_plan(replace(config, cluster=replace(config.cluster, device="cpu")), 0, dataset), machine
    replicas = config.cluster.replicas if config.cluster.replicas != "auto" else 1
    there = machine.nodes or max(
        1, -(-replicas * config.network.columns // (machine.devices_per_node * config.cluster.columns_per_gpu))
    )
    gpus = devices or there * machine.devices_per_node
    counts = [min(machine.devices_per_node, gpus - node * machine.devices_per_node) for node in range(there)]
    described = [NodeDevices(gpus=count, cpus=machine.cpus_per_node) for count in counts]
    plan = make_plan(config, gpus, dataset, nodes=described)
    if plan.mesh.device == "cpu":
        raise UserError(
            f"{gpus} GPU(s) of {machine.name} are too few for {plan.mesh.replicas} replica(s), or cluster.device is cpu; "
            "give more --devices, fewer replicas, or --machine cpu"
        )
    return plan, machine


def _forecast(plan: Plan, machine: Machine) -> tuple[Plan, Forecast]:
    precision = plan.config.compute.precision
    if precision not in machine.gflops and not (machine.device == "cpu" and precision == "tf32"):
        raise UserError(
            f"{machine.name} is described without gflops for {precision}; set compute.precision to "
            f"{' or '.join(machine.gflops)}, or add it to the file"
        )
    if plan.dataset is None and plan.config.network.classes == IMAGENET.classes:
        plan = replace(plan, dataset=IMAGENET)
    return plan, forecast(plan, machine)


def _these_cpus() -> Machine:
    """As the built-in description, with this computer's number of cores: a guess until it is measured."""
    there = usable_cpus()
    source = "measured on another machine; --calibrate FILE.yaml measures this one"
    machine = load_machine("cpu")
    return replace(machine, measured=False, source=source, devices_per_node=there, cpus_per_node=there)


def _this_gpu() -> Machine | None:
    import torch

    here = torch.cuda.get_device_name().lower()
    known = next((name for name in built_in_machines() if name in here.replace(" ", "")), None)
    if known is None:
        return None
    return replace(load_machine(known), devices_per_node=local_gpus(), cpus_per_node=usable_cpus())
