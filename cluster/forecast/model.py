"""How long a step, and a run, will take on a described cluster. Plain arithmetic; docs/scaling.md says what it leaves out.

A part takes max(operations / ceiling, bytes / bandwidth) / efficiency. A step, in this order:

1. forward, layer by layer; what the columns exchange travels while the own part computes;
2. backward, from the last layer to the first; the same, hidden behind the gradients of the weights;
3. each layer's gradients are averaged over the replicas as soon as they are there, one layer after the other, while the backward
   pass goes on; what is not done when it ends is waited for;
4. the update.

A GPU's host must give it every operation, so a step takes no less than operations x time of one. Busy CPUs hide nothing.
"""

import math
from dataclasses import dataclass

from cluster.forecast.work import Part, of_process, update
from cluster.plan import FLOAT_BYTES, Plan
from configs.machine import PIXELS, Link, Machine
from workers.program import Program

UNCOMPILED = {"norm": 6.0, "spatial_norm": 6.0, "update": 2.2}
"""How much longer these take without `compute.fused` (docs/measurements.md: 5.7 to 7.6 times, 130 ms instead of 60)."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Seconds are of one step. `exchange` and `averaging` are what computing does not hide."""

    machine: Machine
    devices: int
    nodes: int
    batch_size: int
    step_seconds: float
    compute_seconds: float
    exchange_seconds: float
    averaging_seconds: float
    """Of gradients over the replicas."""
    data_wait_seconds: float
    data_cpus: float
    """That decode as many images as would be trained if nothing waited for data."""
    host_bound: bool
    """Whether giving a GPU its operations takes longer than they do."""
    run_seconds: float | None
    """With evaluations; None while the data set's size is not known."""

    @property
    def images_per_second(self) -> float:
        return self.batch_size / self.step_seconds

    @property
    def kilowatt_hours(self) -> float | None:
        if self.run_seconds is None:
            return None
        watts = self.devices * self.machine.watts_per_device + self.nodes * self.machine.watts_per_node
        return watts * self.run_seconds / 3.6e6

    @property
    def cost(self) -> float | None:
        """In the machine's currency; None if it has no price."""
        price = self.machine.price_per_device_hour
        return None if price is None or self.run_seconds is None else price * self.devices * self.run_seconds / 3600


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Of one process of the plan, where it shares its node with the others."""

    machine: Machine
    devices: float
    """GPUs, 1 or its part of a shared one; or cores that it has to itself."""
    flop_per_second: float
    bytes_per_second: float
    hides: bool
    """Whether links work while the process computes."""
    columns_link: tuple[float, float]
    """(bytes/s, seconds until the first) between the columns of a replica, which are on one node."""
    replicas_link: tuple[float, float]
    fused: bool = True

    def part(self, part: Part) -> tuple[float, float]:
        """Seconds of the forward and the backward pass."""
        efficiency = getattr(self.machine.efficiency, part.kind)
        if not self.fused:
            efficiency /= UNCOMPILED.get(part.kind, 1.0)

        def seconds(flop: float, moved: float) -> float:
            return float(max(flop / self.flop_per_second, moved / self.bytes_per_second) / efficiency)

        return seconds(part.forward_flop, part.forward_bytes), seconds(part.backward_flop, part.backward_bytes)


def forecast(plan: Plan, machine: Machine) -> Forecast:
    """machine: of the kind of device that the plan is for, with gflops for its precision."""
    speeds = _speeds(plan, machine)
    replicas, parts_of_batch = plan.mesh.replicas, plan.config.cluster.replica_count // plan.mesh.replicas
    parts = of_process(plan, plan.images_per_replica)
    host = _host_seconds(machine, [*parts, update(plan)])
    device = sum(sum(speeds.part(part)) for part in (*parts, update(plan)))
    slower = max(1.0, host / device)
    forward, hidden_from = _forward(speeds, parts, slower)
    backward, exchanged, behind = _backward(speeds, parts, slower, replicas)
    exchange = (hidden_from + exchanged) * parts_of_batch
    updated = sum(speeds.part(update(plan))) * slower
    compute = (forward + backward) * parts_of_batch + updated
    step = compute + exchange + behind
    batch = plan.config.train.batch_size
    wait, data_cpus = _data(plan, machine, speeds, step, batch)
    step += wait
    return Forecast(
        machine=machine,
        devices=plan.gpus if machine.device == "cuda" else _cores(plan, machine),
        nodes=nodes_for(plan, machine),
        batch_size=batch,
        step_seconds=step,
        compute_seconds=compute,
        exchange_seconds=exchange,
        averaging_seconds=behind,
        data_wait_seconds=wait,
        data_cpus=data_cpus,
        host_bound=slower > 1,
        run_seconds=_run_seconds(plan, speeds, step) if plan.dataset is not None else None,
    )


def nodes_for(plan: Plan, machine: Machine) -> int:
    """As many as are described, or as the processes need."""
    if machine.nodes is not None:
        return machine.nodes
    on_cpus = plan.mesh.processes_per_replica * plan.config.cluster.cpus_per_column
    per_node = max(1, machine.devices_per_node // (on_cpus if machine.device == "cpu" else plan.mesh.gpus_per_replica))
    return math.ceil(plan.mesh.replicas / per_node)


def _cores(plan: Plan, machine: Machine) -> int:
    return min(nodes_for(plan, machine) * machine.devices_per_node, math.ceil(plan.mesh.size * _threads(plan)))


def _threads(plan: Plan) -> int:
    return plan.config.cluster.cpus_per_column


def _speeds(plan: Plan, machine: Machine) -> Speeds:
    nodes, mesh = nodes_for(plan, machine), plan.mesh
    there = nodes * machine.devices_per_node
    if machine.device == "cuda":
        devices, hides, shared = 1.0 / mesh.processes_per_gpu, True, 1.0
    else:
        devices = min(float(_threads(plan)), there / mesh.size)
        hides, shared = mesh.size * _threads(plan) < there, min(1.0, there / mesh.size)
    precision = plan.config.compute.precision
    if machine.device == "cpu" and precision == "tf32":
        precision = "fp32"
    reached = machine.efficiency.link * shared
    within = _link(machine.within_node, reached)
    between = machine.between_nodes
    if nodes == 1 or between is None:
        replicas_link = within
    else:
        # Every column's ring over the replicas enters and leaves the node once.
        speed, latency = _link(between, reached / mesh.processes_per_replica)
        replicas_link = (min(speed, within[0]), latency)
    return Speeds(
        machine=machine,
        devices=devices,
        flop_per_second=machine.gflops[precision] * 1e9 * devices,
        bytes_per_second=machine.gigabytes_per_second * 1e9 * devices,
        hides=hides,
        columns_link=within,
        replicas_link=replicas_link,
        fused=plan.config.compute.fused,
    )


def _link(link: Link, reached: float) -> tuple[float, float]:
    return link.gigabytes_per_second * 1e9 * reached, link.microseconds / 1e6


def _host_seconds(machine: Machine, parts: list[Part]) -> float:
    return sum(part.operations for part in parts) * machine.operation_microseconds / 1e6


def _forward(speeds: Speeds, parts: list[Part], slower: float) -> tuple[float, float]:
    """(computing, exchange that is not hidden)."""
    computing = exposed = 0.0
    for part in parts:
        seconds = speeds.part(part)[0] * slower
        computing += seconds
        exposed += _exposed(speeds, part, part.own * seconds)
    return computing, exposed


def _exposed(speeds: Speeds, part: Part, meanwhile: float) -> float:
    if not part.sent_bytes:
        return 0.0
    speed, latency = speeds.columns_link
    return max(0.0, part.sent_bytes / speed + latency - (meanwhile if speeds.hides else 0.0))


def _backward(speeds: Speeds, parts: list[Part], slower: float, replicas: int) -> tuple[float, float, float]:
    """(computing, exchange that is not hidden, averaging that is not hidden)."""
    computing = exposed = 0.0
    link_free = 0.0
    for part in reversed(parts):
        seconds = speeds.part(part)[1] * slower
        computing += seconds
        # The gradients of the weights, half of a layer's backward pass, need nothing from the others.
        exposed += _exposed(speeds, part, seconds / 2)
        if part.parameters and replicas > 1:
            took = averaging_seconds(speeds, part.parameters * FLOAT_BYTES, replicas)
            link_free = max(link_free, computing + exposed if speeds.hides else 0.0) + took
    return computing, exposed, max(0.0, link_free - (computing + exposed if speeds.hides else 0.0))


def averaging_seconds(speeds: Speeds, count: float, replicas: int) -> float:
    """Of an all-reduce of this many bytes: around a ring, or for few bytes and many replicas along a tree (NCCL has both)."""
    speed, latency = speeds.replicas_link
    ring = 2 * (replicas - 1) / replicas * count / speed + 2 * (replicas - 1) * latency
    tree = 2 * count / speed + 2 * math.ceil(math.log2(replicas)) * latency
    return min(ring, tree) if speeds.machine.device == "cuda" else ring


def _data(plan: Plan, machine: Machine, speeds: Speeds, step: float, batch: int) -> tuple[float, float]:
    """(seconds that data workers add to a step, CPUs that they need to keep up)."""
    # Of 256 the paper cuts 224.
    side = plan.dataset.image_size if plan.dataset else plan.config.network.input_size * 8 / 7
    rate = machine.data_images_per_second * PIXELS / side**2
    cluster = plan.config.cluster
    own = plan.mesh.replicas * cluster.data_worker_count * cluster.cpus_per_data_worker
    if machine.device == "cpu" and not speeds.hides:
        # All cores are busy, so decoding takes its time from the columns.
        took = batch / rate / (nodes_for(plan, machine) * machine.devices_per_node)
        return took, batch / (step + took) / rate
    return max(0.0, batch / (rate * own) - step), batch / step / rate


def _run_seconds(plan: Plan, speeds: Speeds, step: float) -> float:
    assert plan.dataset is not None
    program, train = plan.program(), plan.config.train
    tested = of_process(plan, train.evaluate_batch_size)
    forward, exposed = _forward(speeds, tested, 1.0)
    host = _host_seconds(speeds.machine, tested) / 2
    passes = math.ceil(plan.dataset.validation_rows / (train.evaluate_batch_size * plan.mesh.replicas))
    computed = max(forward + exposed, host)
    wait, _ = _data(plan, speeds.machine, speeds, computed, train.evaluate_batch_size * plan.mesh.replicas)
    return program.total_steps * step + _evaluations(program) * passes * (computed + wait)


def _evaluations(program: Program) -> int:
    """In the course of training, and at the end."""
    steps, every = program.total_steps, program.evaluation_every
    number = math.floor(steps / every + 1e-9) if every else 0
    return number if every and number and math.ceil(number * every - 1e-9) == steps else number + 1
