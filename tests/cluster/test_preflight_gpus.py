"""Checks that cannot be made to fail here for want of GPUs, large clusters and slow networks: on what nodes would have answered.

The text is in the form that `nvidia-smi --help-query-gpu` and `--help-query-compute-apps` describe.
"""

from pathlib import Path
from typing import Any

import pytest

from cluster.auto import NodeDevices
from cluster.plan import Plan, make_plan
from cluster.preflight import judged, links
from cluster.preflight.found import Found
from cluster.preflight.gpus import GpuReport, look_at_gpus, parse, visible
from cluster.preflight.link_probe import Link
from cluster.preflight.nodes import Node
from cluster.preflight.probe import Answer
from configs.loader import load

GPUS = """\
0, GPU-5a1c0000-1111-2222-3333-444444444444, NVIDIA A100-SXM4-40GB, 40960, 4
1, GPU-6b2d0000-1111-2222-3333-444444444444, NVIDIA A100-SXM4-40GB, 40960, 31007
"""
PROCESSES = """\
GPU-6b2d0000-1111-2222-3333-444444444444, 4242, /usr/bin/python3, 31000
GPU-6b2d0000-1111-2222-3333-444444444444, 4243, [Not Found], [N/A]
"""
FREE = GPUS.replace("31007", "4")


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A program called nvidia-smi, first of all that are found."""
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_answers_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu").write_text(GPUS)
    (tmp_path / "apps").write_text(PROCESSES)
    cases = f'case "$1" in --query-gpu=*) cat {tmp_path}/gpu;; --query-compute-apps=*) cat {tmp_path}/apps;; esac'
    smi(tmp_path, monkeypatch, cases)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    report = look_at_gpus()
    assert not report.problem
    first, second = report.gpus
    told = (first.index, first.model, first.total_mib, first.used_mib, first.busy)
    assert told == (0, "NVIDIA A100-SXM4-40GB", 40960, 4, "")
    assert second.busy == "/usr/bin/python3 (pid 4242) with 31,000 MiB, [Not Found] (pid 4243)"


def test_numbers_that_a_driver_does_not_tell() -> None:
    [gpu] = parse("0, GPU-1, NVIDIA GeForce, old, [N/A], [Not Supported]", "No running processes found\n")
    assert (gpu.model, gpu.total_mib, gpu.used_mib, gpu.busy) == ("NVIDIA GeForce, old", None, None, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "echo Failed to initialize NVML: Driver mismatch; exit 18",
            "nvidia-smi: Failed to initialize NVML: Driver mi",
        ),
        ("echo something else", "'something else' has 1 fields instead of 4"),
        (None, "there is no nvidia-smi"),
    ],
)
def test_a_driver_that_fails(text: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if text:
        smi(tmp_path, monkeypatch, text)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    report = look_at_gpus()
    assert problem in report.problem and report.gpus == ()


@pytest.mark.parametrize(
    ("setting", "indices"),
    [(None, [0, 1]), ("", [0, 1]), ("1", [1]), ("0, 1", [0, 1]), ("GPU-6b2d", [1]), ("7", []), ("MIG-1", [0, 1])],
)
def test_gpus_that_ray_may_give_away(setting: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in visible(parse(GPUS, ""), setting)] == indices


def plan(*settings: str) -> Plan:
    nodes = [NodeDevices(gpus=2, cpus=8)] * 2
    return make_plan(load("original.yaml", ["cluster.replicas=2", *settings]), 4, None, nodes=nodes)


def answer(report: GpuReport | None = None, *, torch: str = "2.13.0+cu130", shared: int = 10**11) -> Answer:
    sizes = {"shared_total_bytes": shared, "shared_free_bytes": shared}
    return Answer(
        versions={"torch": torch}, interface="eth0", addresses={}, **sizes, gpus=report, data=None, storage=None
    )


def found(*answers: Answer, in_use: int = 0, settings: tuple[str, ...] = (), store: int = 10**11) -> Found:
    """From nodes 10.0.0.0 and so on."""
    devices, addresses = NodeDevices(gpus=2, cpus=8), [f"10.0.0.{number}" for number in range(len(answers))]
    return Found(
        plan=plan(*settings),
        nodes=tuple(Node(id=one, address=one, name=one, devices=devices, store_bytes=store) for one in addresses),
        answers=dict(zip(addresses, answers, strict=True)),
        own={},
        fingerprint=None,
        gpus_in_use=in_use,
    )


def free(letter: str) -> GpuReport:
    return GpuReport(gpus=parse(FREE.replace("GPU-", f"GPU-{letter}"), ""))


GPU = "GPU 1 (NVIDIA A100-SXM4-40GB, GPU-6b2d0000-1111-2222-3333-444444444444) is in use: "
TAKEN = GpuReport(gpus=parse(GPUS, PROCESSES))
"""By processes; DRAWN: by what is not shown, as a desktop is, which computes nothing."""
DRAWN = GpuReport(gpus=parse(GPUS, ""))
ONE = GpuReport(gpus=free("b").gpus[:1])


@pytest.mark.parametrize(
    ("first", "second", "more", "state", "line"),
    [
        (free("a"), free("b"), {}, "ok", "4 distinct GPU(s), 0 of them in use"),
        (free("a"), free("a"), {}, "failed failed", "10.0.0.0 and 10.0.0.1: both offer the same GPU GPU-a5a1c"),
        (TAKEN, free("b"), {}, "failed", f"10.0.0.0: {GPU}/usr/bin/python3 (pid 4242) with "),
        (TAKEN, free("b"), {"in_use": 1}, "ok", "4 distinct GPU(s), 1 of them in use"),  # perhaps by an actor of Ray's
        (DRAWN, free("b"), {}, "warning", f"10.0.0.0: {GPU}31,007 of 40,960 MiB, by a process that is not shown here"),
        (free("a"), ONE, {}, "failed", "10.0.0.1: Ray was told of 2 GPU(s), and nvidia-smi shows 1. Start Ray there"),
        (GpuReport(problem="no driver"), free("b"), {}, "warning", "10.0.0.0: the GPUs are not known: no driver"),
        (None, None, {"settings": ("cluster.device=cpu",)}, "skipped", ""),
        (free("a"), answer(free("b"), torch="2.13.0+cpu"), {}, "failed", "10.0.0.1: torch 2.13.0+cpu knows no CUDA"),
    ],
)
def test_gpus_of_two_nodes(
    first: GpuReport | None, second: GpuReport | Answer | None, more: dict[str, Any], state: str, line: str
) -> None:
    answers = (one if isinstance(one, Answer) else answer(one) for one in (first, second))
    results = judged.check_gpus(found(*answers, **more))
    assert " ".join(result.state for result in results) == state
    assert line in results[0].line
    assert results[0].ok == ("failed" not in state)


def test_a_node_has_room_for_replicas_whose_columns_share_a_gpu() -> None:
    [node] = found(answer()).nodes
    assert [node.replicas(plan(*more)) for more in ((), ("cluster.columns_per_gpu=2",))] == [1, 2]


def test_shared_memory_smaller_than_the_windows() -> None:
    """As in a container with Docker's 64 MB, where Ray was told of a larger store."""
    [result] = judged.check_store(found(answer(shared=64 * 2**20)))
    assert "/dev/shm has 67.1 MB in all: Ray keeps them on disk. Enlarge it (docker run --shm-size" in result.line
    assert result.state == "warning"
    just = plan().window_bytes
    states = [judged.check_store(one)[0].state for one in (found(answer(shared=just)), found(answer(), store=just))]
    assert states == ["ok", "warning"]


def test_slow_network_is_a_warning_with_the_time_of_a_step() -> None:
    pair = links.Pair(first=0, second=1, name="10.0.0.0 and 10.0.0.1")
    gigabit = Link(latency_seconds=2e-4, bytes_per_second=117e6)
    # 60,965,224 parameters of 4 bytes: in a ring of two each sends half of them, and half of the sums.
    assert links.step_bytes(plan(), inside=False) == 60_965_224 * 4
    [result] = links._slow(plan(), {pair: gigabit}, 2)
    assert result.state == "warning"
    assert result.line.startswith(
        "10.0.0.0 and 10.0.0.1: 117 MB/s, 0.20 ms; the 244 MB of one step would take 2.1 s. Use a faster"
    )
    assert not links._slow(plan(), {pair: Link(latency_seconds=1e-5, bytes_per_second=12e9)}, 2)
