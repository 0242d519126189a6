"""What a column's process does beside the mathematics: batches fetched ahead, the copy that is saved, process groups."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from alexnet.exchange import ColumnExchange
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from configs.schema import Optimizer
from tests.parity.cases import CASES
from tests.ranks import run_ranks
from workers.batches import Batches
from workers.groups import Groups, flight_records
from workers.mesh import Mesh
from workers.meters import Gpu, Meter

BUSY_CYCLES = 200_000_000
"""Of a GPU's clock: a tenth of a second, which is longer than what the host does meanwhile."""


def keep_busy(device: str) -> None:
    """Give the GPU something to do, and come back at once."""
    if device == "cuda":
        torch.cuda._sleep(BUSY_CYCLES)


def made(number: int) -> dict[str, Any]:
    images = np.full((64, 32, 32, 3), number, np.uint8)
    return {"images": images, "labels": np.arange(64) + number, "offsets": np.zeros((64, 2), np.int64)}


@pytest.fixture
def batches(any_device: str) -> Any:
    opened = Batches(made, torch.device(any_device))
    yield opened
    opened.close()


def test_a_batch_is_whole_when_it_is_used_and_stays_so_until_then(batches: Batches, any_device: str) -> None:
    """The stream that computes is behind: by then later batches have been copied, into memory that was free."""
    found = []
    for _ in range(6):
        batch = next(batches)
        keep_busy(any_device)
        found.append((batch.images_BHWC.long().sum(), batch.labels_B.sum()))
        del batch
    assert [(int(images), int(labels)) for images, labels in found] == [
        (64 * 32 * 32 * 3 * number, 64 * 63 // 2 + 64 * number) for number in range(6)
    ]


def test_batches_are_copied_from_pinned_memory_beside_what_is_computed(device: str, tmp_path: Path) -> None:
    if device == "cpu":
        pytest.skip("no CUDA device")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as traced:
        opened = Batches(made, torch.device(device))
        for _ in range(3):
            next(opened).images_BHWC.float().mul_(2)
        opened.close()
        torch.cuda.synchronize()
    traced.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    copies = [event for event in events if event.get("cat") == "gpu_memcpy" and "HtoD" in event["name"]]
    assert len(copies) >= 3 * 3 and {event["name"] for event in copies} == {"Memcpy HtoD (Pinned -> Device)"}
    computing = {event["args"]["stream"] for event in events if event.get("cat") == "kernel"}
    assert computing and computing.isdisjoint(event["args"]["stream"] for event in copies)


def test_the_copy_that_is_saved_is_of_one_moment(any_device: str) -> None:
    """After what was given to the device before it, and before what comes after. Bit for bit, and not from pageable memory."""
    saving = pytest.importorskip("workers.saving", reason="needs safetensors")
    model = fresh().to(any_device)
    optimizer = PaperSGD(model, Optimizer())
    copy = saving.HostCopy(model, optimizer)

    def change(factor: float) -> None:
        keep_busy(any_device)
        with torch.no_grad():
            for _, _, parameter in model.parameter_layers():
                parameter.mul_(factor)
            for step in optimizer.steps.values():
                step.add_(factor)

    change(3.0)
    wanted = {f"{layer}.{kind}": 3.0 * parameter.cpu() for layer, kind, parameter in fresh().parameter_layers()}
    copy.take()
    change(-1.0)
    assert all(torch.equal(copy.tensors[name], tensor) for name, tensor in wanted.items())
    assert all((copy.tensors[f"momentum/{name}"] == 3.0).all() for name in wanted)
    assert all(tensor.is_pinned() == (any_device == "cuda") for tensor in copy.tensors.values())


def fresh() -> AlexNet:
    return AlexNet(CASES["complete"].network, seed=1)


def test_the_clock_counts_what_the_device_waits_for(device: str) -> None:
    """And not what its host waits for while the device is at work."""
    if device == "cpu":
        pytest.skip("no CUDA device")
    meter = Meter(Gpu())

    def waited(seconds: float) -> float:
        before = meter._waited["data"]
        with meter.waiting("data"):
            time.sleep(seconds)
        with meter.step():
            keep_busy(device)
        meter.stop()
        return meter._waited["data"] - before

    meter.run()
    with meter.step():
        keep_busy(device)
    assert waited(0.01) < 0.005
    meter.run()
    assert waited(0.05) > 0.045


def groups_of(rank: int, device: Any, backend: Any, file: Path) -> dict[str, Any]:
    dist.destroy_process_group()
    mesh = Mesh(replicas=1, processes_per_replica=2, columns_per_process=1, device=device, gpu_backend=backend)
    limit = timedelta(seconds=77)
    groups = Groups.join(mesh, rank, dist.FileStore(str(file), 2), limit, limit)
    values = torch.full((3,), rank + 1.0, device=device)
    for group in (groups.replica, groups.column):
        dist.all_reduce(values, group=group)
    exchange = ColumnExchange(groups.column)
    gathered = exchange.begin_gather(values[None] + rank).end()
    sent = exchange.begin_send({1 - rank: values[None] + rank}, values[None]).end()
    groups.be_less_patient(timedelta(seconds=55))
    own: Any = groups.column._get_backend(torch.device(device))
    return {
        "sum": values.tolist(),
        "gathered": torch.cat(gathered).mean(dim=1).tolist(),
        "sent": sent[1 - rank].mean().item(),
        "backend": own.name(),
        "seconds": own.options._timeout.total_seconds(),
        "records": json.loads(flight_records(device)),
    }


@pytest.mark.parametrize(
    ("any_device", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), ("cuda", "gloo")], indirect=["any_device"]
)
def test_groups_of_columns(any_device: str, backend: str, tmp_path: Path) -> None:
    """NCCL's and gloo's: they work, wait as long as was said, and their flight recorders tell what they did."""
    ranks = run_ranks(groups_of, 2, any_device, backend, tmp_path / "store", device=any_device)
    for rank, found in enumerate(ranks):
        assert (found["sum"], found["backend"], found["seconds"]) == ([3.0] * 3, backend, 55)
        assert (found["gathered"], found["sent"]) == ([3.0, 4.0], 3.0 + 1 - rank)
        entries = found["records"][backend]["entries"]
        assert any("all_reduce" in entry["profiling_name"] for entry in entries), entries
