"""A forecast in words, for the lines of a plan."""

import math

from cluster.console import clock
from cluster.forecast.model import Forecast
from cluster.plan import Plan
from configs.machine import Machine

DAY = 86_400


def forecast_lines(plan: Plan, found: Forecast, *, assumed: bool = False) -> list[tuple[str, str]]:
    """assumed: whether the data set is not there, and its size that of ILSVRC-2012."""
    machine = found.machine
    lines = [
        (
            "predicted",
            f"{number(found.images_per_second)} images/s on {devices(found)}: step {seconds(found.step_seconds)}, of it "
            f"exchange {share(found.exchange_seconds, found)}"
            + (f", averaging gradients {share(found.averaging_seconds, found)}" if plan.mesh.replicas > 1 else "")
            + f", data {share(found.data_wait_seconds, found)}; "
            + (
                f"{long(found.run_seconds)} for the whole run" + (" on ILSVRC-2012" if assumed else "")
                if found.run_seconds is not None
                else "the length of the run is not known yet"
            ),
        )
    ]
    lines += [("", line) for line in _remarks(plan, found)]
    if found.kilowatt_hours:
        cost = f", {found.cost:,.0f} {machine.currency}" if found.cost is not None else ""
        lines.append(("", f"{number(found.kilowatt_hours)} kWh{cost}"))
    lines.append(("", _basis(machine)))
    return lines


def _remarks(plan: Plan, found: Forecast) -> list[str]:
    remarks, machine, cluster = [], found.machine, plan.config.cluster
    if found.data_wait_seconds > 0.01 * found.step_seconds and machine.device == "cuda":
        unhindered = found.batch_size / (found.step_seconds - found.data_wait_seconds)
        wanted = math.ceil(found.data_cpus / plan.mesh.replicas / cluster.cpus_per_data_worker)
        remarks.append(
            f"data workers are the bottleneck: {number(unhindered)} images/s with cluster.data_workers={wanted}"
        )
    else:
        remarks.append(f"decoding takes {found.data_cpus:.2g} CPU(s) of data workers")
    there = found.nodes * machine.cpus_per_node
    if machine.device == "cuda" and plan.cpus > there:
        remarks.append(f"the actors ask for {plan.cpus:g} CPUs and the node(s) have {there}")
    if plan.mesh.processes_per_gpu > 1:
        remarks.append("columns that share a GPU talk over sockets, which takes longer than is predicted here")
    if found.host_bound:
        remarks.append(
            "giving the GPU its operations takes longer than they do: larger batches per replica cost little"
        )
    return remarks


def _basis(machine: Machine) -> str:
    what = f"{machine.name}, {machine.source}, {machine.date}"
    return f"from measured constants ({what})" if machine.measured else f"a guess, not measured here ({what})"


def devices(found: Forecast) -> str:
    kind = "GPU" if found.machine.device == "cuda" else "CPU"
    several = f"{found.devices:,} {kind}{'s' if found.devices > 1 else ''}"
    return several + (f" in {found.nodes:,} nodes" if found.nodes > 1 else "")


def share(part: float, found: Forecast) -> str:
    percent = part / found.step_seconds * 100
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else "under 1 %"


def number(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def long(value: float) -> str:
    return (
        f"{value / DAY:,.1f} days"
        if value >= 2 * DAY
        else f"{value / 3600:.1f} hours"
        if value > 7200
        else clock(value)
    )
