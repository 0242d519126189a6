"""What a run will be, worked out before anything starts: mesh, resources, sizes, bytes and steps. Needs neither Ray nor torch."""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster import memory
from cluster.auto import NodeDevices, resolve_auto
from cluster.cpus import usable_cpus
from cluster.devices import choose_mesh, local_gpus
from configs.geometry import Layer, layers, share
from configs.schema import Config
from workers.data.storage import without_keys
from workers.mesh import Mesh
from workers.program import Program

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class DatasetSize:
    """As far as it is known before the run: from the manifest, or from the settings of pictures yet to be drawn."""

    train_rows: int
    validation_rows: int
    image_size: int
    classes: int
    drawn_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    config: Config
    mesh: Mesh
    why: str
    """Why the mesh is on these devices."""
    table: tuple[Layer, ...]
    dataset: DatasetSize | None
    auto: tuple[tuple[str, str], ...] = ()
    """In words, what became of the counts that the config gives as `auto`; `config` has numbers."""

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.table)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image and forward pass of the whole network."""
        return sum(layer.macs for layer in self.table)

    def column_parameters(self, column: int) -> int:
        return sum(rows * layer.parameters // layer.outputs for layer, rows in self._column_rows(column))

    def column_macs(self, column: int) -> int:
        return sum(rows * layer.macs // layer.outputs for layer, rows in self._column_rows(column))

    @property
    def images_per_replica(self) -> int:
        """In one forward pass; replicas that are missing leave more passes to the others, not larger ones."""
        return self.config.train.batch_size // self.config.cluster.replica_count

    @property
    def exchanged_floats(self) -> int:
        """Floats per image that one column sends to each other one in a forward pass; as many come back as gradients."""
        return sum(layer.exchanged_floats for layer in self.table)

    @property
    def exchanged_bytes(self) -> int:
        """Bytes that one column's process sends in a step, forward and backward; 0 if one process owns all columns."""
        others = self.mesh.processes_per_replica - 1
        return 2 * self.exchanged_floats * self.sent_float_bytes * self.images_per_replica * others

    @property
    def sent_float_bytes(self) -> int:
        """Of a float that columns exchange."""
        return 2 if self.config.compute.precision == "bf16" else FLOAT_BYTES

    @property
    def batch_bytes(self) -> int:
        """Of one batch of one replica in the object store: the larger of training and testing."""
        images = max(self.images_per_replica, self.config.train.evaluate_batch_size)
        # Labels, offsets, mirror, keys, colour and its flag: 8 + 16 + 1 + 8 + 12 + 1 bytes per image.
        return images * (self.config.network.input_size**2 * 3 + 46)

    @property
    def window_bytes(self) -> int:
        """The most that batches take of the object store of one replica's node."""
        return self.config.cluster.window * self.batch_bytes

    @property
    def object_store_bytes(self) -> int:
        """Of a Ray started here: three times what all windows need, for Ray spills to disk when it is nearly full."""
        return max(256 * 2**20, 3 * self.mesh.replicas * self.window_bytes)

    @property
    def actor_bytes(self) -> int:
        """The most memory of one column process, on CPUs; on a GPU, of what it keeps there."""
        whole = memory.of_column(
            self.config,
            self.table,
            self.images_per_replica,
            self.mesh.columns_per_process,
            self.mesh.processes_per_replica,
        )
        stays = 3 * FLOAT_BYTES * self._process_parameters
        on_cpu = self.checkpoint_copy_bytes + whole.on_cpu
        return stays + (on_cpu if self.mesh.device == "cpu" else whole.tensors)

    @property
    def checkpoint_copy_bytes(self) -> int:
        """Of the copy of weights and momentum that a column process of replica 0 saves from, in host memory."""
        return 2 * FLOAT_BYTES * self._process_parameters

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint: weights and momentum of the whole network."""
        return 2 * FLOAT_BYTES * self.parameters

    @property
    def most_checkpoints(self) -> int:
        """That may be there at a time: those that are kept, one that is being saved, and what a crash left of another."""
        return self.config.checkpoint.keep + self.config.checkpoint.keep_best + 2

    @property
    def _process_parameters(self) -> int:
        return sum(self.column_parameters(column) for column in range(self.mesh.columns_per_process))

    @property
    def cpus(self) -> float:
        """That the actors ask of Ray."""
        cluster = self.config.cluster
        return (
            self.mesh.size * cluster.cpus_per_column
            + self.mesh.replicas * cluster.data_worker_count * cluster.cpus_per_data_worker
        )

    @property
    def gpus(self) -> int:
        return self.mesh.replicas * self.mesh.gpus_per_replica

    def with_replicas(self, replicas: int) -> "Plan":
        """The same with fewer of the config's replicas, or all of them."""
        return replace(self, mesh=replace(self.mesh, replicas=replicas))

    def program(self, replica: int = 0) -> Program:
        assert self.dataset is not None, "a program needs the data set's sizes"
        return Program.of(
            self.config,
            train_rows=self.dataset.train_rows,
            validation_rows=self.dataset.validation_rows,
            replica=replica,
            replicas=self.mesh.replicas,
        )

    def _column_rows(self, column: int) -> list[tuple[Layer, int]]:
        found = []
        for layer in self.table:
            owned = share(layer.outputs, self.config.network.columns, column)
            found.append((layer, owned.stop - owned.start))
        return found


def make_plan(
    config: Config, gpus: int, dataset: DatasetSize | None, *, nodes: Sequence[NodeDevices] | None = None
) -> Plan:
    """gpus: of this machine. nodes: what each node of a cluster has; None: this machine is the only one.

    Raises UserError if the config asks for more.
    """
    nodes = nodes or [NodeDevices(gpus=gpus, cpus=usable_cpus())]
    config, auto = resolve_auto(config, nodes)
    mesh, why = choose_mesh(config, [node.gpus for node in nodes])
    return Plan(config=config, mesh=mesh, why=why, table=tuple(layers(config.network)), dataset=dataset, auto=auto)


def plan_before_joining(config: Config, address: str | None, dataset: DatasetSize | None) -> Plan:
    """What can be known without Ray. With an address, devices are the cluster's, and not known yet; steps and sizes are.

    Raises UserError if the config asks for more than this machine has, and runs here.
    """
    if address is not None and config.cluster.device == "cuda":
        config = replace(config, cluster=replace(config.cluster, device="auto"))
    return make_plan(config, local_gpus(), dataset)


def local_cpus(plan: Plan) -> int:
    """CPUs that a Ray started here is told to have: all that may be used, or what the actors ask for if that is more."""
    there, built_in, wanted = usable_cpus(), os.cpu_count() or 1, math.ceil(plan.cpus)
    if wanted > there:
        may = f"may use {there} of this machine's {built_in}" if there < built_in else f"this machine has {there}"
        print(f"note: the run asks for {wanted} CPUs and {may}; they will be shared", file=sys.stderr)
    return max(there, wanted)


def describe(plan: Plan) -> list[tuple[str, str]]:
    """The plan in words: (what, how much) lines."""
    config, mesh, dataset = plan.config, plan.mesh, plan.dataset
    cluster, columns = config.cluster, config.network.columns
    per_column = [
        f"column {column}: {plan.column_parameters(column):,} parameters, {plan.column_macs(column):,} MACs"
        for column in range(columns)
    ]
    sides = "/".join(str(side) for layer in plan.table if layer.kind == "conv" for side in _sides(layer))
    lines = [
        ("run", f"{config.name} in {Path(config.runs_folder) / config.name}"),
        (
            "mesh",
            f"{mesh.replicas} replica(s) x {mesh.processes_per_replica} process(es) of {mesh.columns_per_process} column(s)",
        ),
        ("device", f"{mesh.device}; {plan.why}"),
        ("precision", _precision(plan)),
        ("network", f"{plan.parameters:,} parameters, {plan.macs:,} MACs per image; sides of maps {sides}"),
        *(("", line) for line in per_column),
        (
            "exchange",
            f"{plan.exchanged_floats:,} floats per image and column forward; {_mb(plan.exchanged_bytes)} sent per column and step"
            if plan.exchanged_bytes
            else f"{plan.exchanged_floats:,} floats per image and column forward, inside one process",
        ),
        (
            "actors",
            f"{mesh.size} column worker(s) with {cluster.cpus_per_column} CPU(s)"
            + _gpu_each(mesh)
            + f" each; {mesh.replicas * cluster.data_worker_count} data worker(s) with {cluster.cpus_per_data_worker:g} CPU(s) "
            + "each",
        ),
        *plan.auto,
        (
            "memory",
            f"about {_mb(plan.actor_bytes)} per column worker"
            + (
                f" on its GPU, beside CUDA itself, and {_mb(plan.checkpoint_copy_bytes)} of host memory for checkpoints"
                if mesh.device == "cuda"
                else ", libraries included"
            ),
        ),
        (
            "checkpoints",
            f"{_mb(plan.checkpoint_bytes)} each, at most {plan.most_checkpoints} at a time; {_often(config)}",
        ),
        (
            "object store",
            f"{_mb(plan.window_bytes)} per replica: {cluster.window} batches of {_mb(plan.batch_bytes)}; "
            f"{_mb(plan.object_store_bytes)} if Ray is started here",
        ),
    ]
    if dataset is None:
        return [
            *lines,
            ("data", f"{without_keys(config.data.path)} (not prepared yet, so the number of steps is not known)"),
        ]
    program = plan.program()
    where = without_keys(config.data.path) + (" (drawn first)" if dataset.drawn_first else "")
    return [
        *lines,
        (
            "data",
            f"{where}: {dataset.train_rows:,} training and {dataset.validation_rows:,} validation images",
        ),
        (
            "steps",
            f"{program.total_steps:,} of {config.train.batch_size} images, {program.epoch_at(program.total_steps):.2f} epochs; "
            + (
                f"evaluation every {config.train.evaluate_every_epochs:g} epoch(s) and at the end"
                if config.train.evaluate_every_epochs
                else "evaluation at the end"
            ),
        ),
    ]


def _gpu_each(mesh: Mesh) -> str:
    if mesh.device == "cpu":
        return ""
    return " and 1 GPU" if mesh.processes_per_gpu == 1 else f" and 1/{mesh.processes_per_gpu} of a GPU"


def _precision(plan: Plan) -> str:
    wanted = plan.config.compute.precision
    return "fp32 (tf32 is for GPUs)" if wanted == "tf32" and plan.mesh.device == "cpu" else wanted


def _often(config: Config) -> str:
    every = config.checkpoint.every_steps
    return (f"every {every:,} steps, " if every else "") + "after each evaluation, when stopped, and at the end"


def _sides(layer: Layer) -> list[int]:
    return [layer.side] if layer.final_side == layer.side else [layer.side, layer.final_side]


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
