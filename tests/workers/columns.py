"""What the ranks of the checkpoint tests do; importable by name, because ranks are spawned."""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet.exchange import ColumnExchange, Exchange, NoExchange
from alexnet.network import AlexNet, Column
from alexnet.optimizer import PaperSGD
from configs.loader import load as load_config
from configs.schema import Checkpoint as CheckpointSettings
from configs.schema import Network, Optimizer
from tests.parity.cases import CASES
from workers import saving
from workers.checkpoint import Checkpoint, load
from workers.checkpoint_list import committed
from workers.column_worker import ColumnWorker
from workers.mesh import Mesh
from workers.meters import Cpu, Exchanged, Meter
from workers.reports import CheckpointReport
from workers.saving import Saver

NETWORK: Network = CASES["complete"].network
"""Convolutions, hidden layers that see all columns or their own, and 7 classes: 4 for one column, 3 for the other."""
SETTINGS = Optimizer()
STATE: dict[str, Any] = {"schedule": {}, "errors": {}}
FILE = "columns-00-to-01.safetensors"
"""What `save_whole` writes beside the state."""


def network(**changes: Any) -> Network:
    return replace(NETWORK, **changes)


def state(step: int, *, evaluated: bool = True) -> dict[str, Any]:
    return {**STATE, "step": step, "evaluated": evaluated}


def saver(
    root: Path | str,
    model: AlexNet,
    optimizer: PaperSGD,
    group: dist.ProcessGroup,
    *,
    writes: bool = True,
    attempt: int = 1,
    **settings: Any,
) -> Saver:
    chosen = CheckpointSettings(**settings)
    return Saver(str(root), model, optimizer, chosen, group=group, writes=writes, attempt=attempt)


def make(column: int | None = None, exchange: Exchange | None = None) -> tuple[AlexNet, PaperSGD]:
    """One column, or the whole network."""
    if column is None:
        model = AlexNet(NETWORK, seed=1)
    else:
        model = AlexNet(NETWORK, first_column=column, columns=1, exchange=exchange or NoExchange(), seed=1)
    return model, PaperSGD(model, SETTINGS)


def values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Of the whole network: any bit pattern, among them NaNs, infinities, denormals and -0."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(generator.integers(-(2**31), 2**31, shape, dtype=np.int32)).view(torch.float32)


@cache
def expected(seed: int) -> dict[str, Tensor]:
    """By the names that the file format promises."""
    out = {}
    for layer, kind, parameter in make()[0].parameter_layers():
        for name in (f"{layer}.{kind}", f"momentum/{layer}.{kind}"):
            out[name] = values(name, tuple(parameter.shape), seed)
    return out


def tensors(model: AlexNet, optimizer: PaperSGD) -> dict[str, tuple[Tensor, slice]]:
    """Every tensor of a process, with the rows of the whole network that it is."""
    out = {}
    for layer, kind, parameter in model.parameter_layers():
        part = model.parts[layer]
        assert isinstance(part, Column)
        out[f"{layer}.{kind}"] = (parameter.data, part.owned)
        out[f"momentum/{layer}.{kind}"] = (optimizer.steps[f"{layer}.{kind}"], part.owned)
    return out


def fill(model: AlexNet, optimizer: PaperSGD, seed: int) -> None:
    whole = expected(seed)
    for name, (tensor, owned) in tensors(model, optimizer).items():
        tensor.copy_(whole[name][owned])


def differences(model: AlexNet, optimizer: PaperSGD, seed: int) -> list[str]:
    """Names of the tensors that are not, bit for bit, their rows of the whole network's."""
    whole = expected(seed)
    return [
        name
        for name, (tensor, owned) in tensors(model, optimizer).items()
        if not torch.equal(tensor.contiguous().view(torch.int32), whole[name][owned].contiguous().view(torch.int32))
    ]


def save_whole(
    root: Path | str,
    group: dist.ProcessGroup,
    step: int = 1,
    *,
    evaluated: bool = True,
    attempt: int = 1,
    facts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> str:
    """By one process with both columns; the values are those of seed `step`. Returns the folder that is reported."""
    model, optimizer = make()
    fill(model, optimizer, step)
    own = saver(root, model, optimizer, group, attempt=attempt, **settings)
    own.save({**state(step, evaluated=evaluated), **(facts or {})})
    own.wait()
    [report] = own.reports()[:1]
    assert isinstance(report, CheckpointReport)
    return report.folder


def holds(checkpoint: Checkpoint, seed: int) -> bool:
    """Whether what one process loads is, bit for bit, what was filled in with this seed."""
    model, optimizer = make()
    load(checkpoint, model, optimizer)
    return differences(model, optimizer, seed) == []


def damage(file: Path, kind: str) -> None:
    """kind: "flipped" (a bit), "short" (by a byte), or "missing"."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    if kind == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if kind == "short" else data)


def two_columns(rank: int, whole: Path, split: Path) -> dict[str, Any]:
    """Load what one process saved; save; fail to save on either rank; save again. Returns what came of it."""
    group = dist.group.WORLD
    assert group is not None
    model, optimizer = make(rank, ColumnExchange(group))
    out: dict[str, Any] = {}
    load(committed(str(whole))[-1], model, optimizer)
    out["from one process"] = differences(model, optimizer, 1)

    def save(step: int, seed: int) -> None:
        fill(model, optimizer, seed)
        own = saver(split, model, optimizer, group)
        own.save(state(step))
        own.wait()

    save(10, 10)
    working = saving.save_file
    for full in range(2):

        def no_space(*args: Any, full: int = full) -> None:
            working(*args)
            if rank == full:
                raise OSError("No space left on device")

        with patch.object(saving, "save_file", no_space):
            try:
                save(20, 20)
            except OSError as error:
                out[f"full on {full}"] = str(error)
        out[f"left by {full}"] = [found.step for found in committed(str(split))]
        dist.barrier()
        out[f"remains of {full}"] = sorted(path.name for path in split.iterdir())
        dist.barrier()

    damaged = split / "step-00000005" / "state.json"
    if rank == 0:
        damaged.parent.mkdir()
        damaged.write_text("{")
    dist.barrier()
    save(25, 25)
    save(30, 30)
    return out


def limit_seconds(group: dist.ProcessGroup) -> float:
    """How long a rank waits for another in a collective of this group."""
    backend: Any = group._get_backend(torch.device("cpu"))
    seconds: float = backend.options._timeout.total_seconds()
    return seconds


def two_replicas(rank: int, saved: Path, own: Path) -> dict[str, Any]:
    """As a column worker among 2 x 2: join, load, save and measure."""
    mesh = Mesh(replicas=2, processes_per_replica=2, columns_per_process=1, device="cpu")
    worker = ColumnWorker(load_config(None, ["cluster.collective_timeout_seconds=170"]), mesh, rank)
    port = [worker.open_store("127.0.0.1") if rank == 0 else None]
    dist.broadcast_object_list(port, src=0)
    dist.destroy_process_group()
    assert port[0] is not None
    worker.join("127.0.0.1", "127.0.0.1", port[0])
    groups = worker.groups.column, worker.groups.replica, worker.groups.control, worker.groups.save
    model, optimizer = make(mesh.first_column(rank), ColumnExchange(groups[0]))
    load(committed(str(saved))[-1], model, optimizer)
    out: dict[str, Any] = {
        "differences": differences(model, optimizer, 30),
        "name": worker.name,
        "patience": [limit_seconds(group) for group in groups],
    }
    # Only replica 0's weights may be written: replica 1's are made to differ here, which in training they never do.
    fill(model, optimizer, 40 + mesh.replica(rank))
    mine = saver(own, model, optimizer, groups[-1], writes=mesh.replica(rank) == 0)
    mine.save(state(40))
    mine.wait()
    out["committed at return"] = [found.step for found in committed(str(own))]

    meter = Meter(Cpu())
    meter.leave_out_exchange(Exchanged(0.5 * rank, 100 * rank))
    meter._seconds, meter._waited["data"] = 10.0 + rank, 0.25 * rank
    exchanged = Exchanged(1.5 * rank, 2**40 + 100 * rank)
    out["times"] = meter.take_with_times(worker.groups.control, mesh.processes_per_replica, exchanged)
    return out
