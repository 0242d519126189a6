"""Checks that cannot be made to fail here for want of GPUs, large clusters and slow networks: on what nodes would have answered.

The text is in the form that `nvidia-smi --help-query-gpu` and `--help-query-compute-apps` describe.
"""

from pathlib import Path

import pytest

from cluster.auto import NodeDevices
from cluster.plan import Plan, make_plan
from cluster.preflight import judged, links
from cluster.preflight.found import Found
from cluster.preflight.gpus import GpuReport, look_at_gpus, parse, visible
from cluster.preflight.link_probe import Link
from cluster.preflight.nodes import Node
from cluster.preflight.probe import Answer
from cluster.preflight.results import Result
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


def script(folder: Path, text: str) -> Path:
    """A program called nvidia-smi."""
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return folder


def test_answers_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu").write_text(GPUS)
    (tmp_path / "apps").write_text(PROCESSES)
    cases = f'case "$1" in --query-gpu=*) cat {tmp_path}/gpu;; --query-compute-apps=*) cat {tmp_path}/apps;; esac'
    monkeypatch.setenv("PATH", str(script(tmp_path, cases)), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    report = look_at_gpus()
    assert not report.problem
    first, second = report.gpus
    assert (first.index, first.model, first.total_mib, first.used_mib, first.busy) == (
        0,
        "NVIDIA A100-SXM4-40GB",
        40960,
        4,
        "",
    )
    assert second.busy == "/usr/bin/python3 (pid 4242) with 31,000 MiB, [Not Found] (pid 4243)"


def test_memory_taken_by_nobody_who_is_shown() -> None:
    _, second = parse(GPUS, "")
    assert second.busy == "31,007 of 40,960 MiB, by a process that is not shown here"


def test_numbers_that_a_driver_does_not_tell() -> None:
    [gpu] = parse("0, GPU-1, NVIDIA GeForce, old, [N/A], [Not Supported]", "No running processes found\n")
    assert (gpu.model, gpu.total_mib, gpu.used_mib, gpu.busy) == ("NVIDIA GeForce, old", None, None, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo Failed to initialize NVML: Driver/library version mismatch; exit 18", "Driver/library version mismatch"),
        ("echo something else", "'something else' has 1 fields instead of 4"),
    ],
)
def test_a_driver_that_does_not_work(text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(script(tmp_path, text)), prepend=":")
    assert problem in look_at_gpus().problem


def test_no_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look_at_gpus() == GpuReport(problem="there is no nvidia-smi")


@pytest.mark.parametrize(
    ("setting", "indices"),
    [(None, [0, 1]), ("", [0, 1]), ("1", [1]), ("0, 1", [0, 1]), ("GPU-6b2d", [1]), ("7", []), ("MIG-1", [0, 1])],
)
def test_gpus_that_ray_may_give_away(setting: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in visible(parse(GPUS, ""), setting)] == indices


def plan(*settings: str, gpus: int = 4) -> Plan:
    nodes = [NodeDevices(gpus=gpus // 2, cpus=8)] * 2
    return make_plan(load("original.yaml", ["cluster.replicas=2", *settings]), gpus, None, nodes=nodes)


def answer(report: GpuReport | None = None, *, torch: str = "2.13.0+cu130", shared: int = 10**11) -> Answer:
    return Answer(
        versions={"torch": torch},
        interface="eth0",
        addresses={},
        shared_total_bytes=shared,
        shared_free_bytes=shared,
        gpus=report,
        data=None,
        storage=None,
    )


def found(*answers: Answer, in_use: int = 0, store: int = 10**11, **more: Plan) -> Found:
    nodes = tuple(
        Node(
            id=str(number),
            address=f"10.0.0.{number}",
            name=f"10.0.0.{number}",
            devices=NodeDevices(gpus=2, cpus=8),
            store_bytes=store,
        )
        for number in range(len(answers))
    )
    return Found(
        plan=more.get("plan", plan()),
        nodes=nodes,
        answers={str(number): one for number, one in enumerate(answers)},
        own={},
        fingerprint=None,
        gpus_in_use=in_use,
    )


def free(letter: str) -> GpuReport:
    return GpuReport(gpus=parse(FREE.replace("GPU-", f"GPU-{letter}"), ""))


def only(results: list[Result]) -> Result:
    [result] = results
    return result


def test_free_and_distinct_gpus() -> None:
    result = only(judged.check_gpus(found(answer(free("a")), answer(free("b")))))
    assert (result.state, result.what) == ("ok", "4 distinct GPU(s), 0 of them in use")


def test_one_gpu_on_two_nodes() -> None:
    results = judged.check_gpus(found(answer(free("a")), answer(free("a"))))
    assert [result.state for result in results] == ["failed", "failed"]
    assert results[0].line.startswith("10.0.0.0 and 10.0.0.1: both offer the same GPU GPU-a5a1c")


def test_gpu_in_use_by_somebody_else() -> None:
    taken = GpuReport(gpus=parse(GPUS, PROCESSES))
    result = only(judged.check_gpus(found(answer(taken), answer(free("b")))))
    assert not result.ok
    assert result.line.startswith(
        "10.0.0.0: GPU 1 (NVIDIA A100-SXM4-40GB, GPU-6b2d0000-1111-2222-3333-444444444444) is in use: "
    )
    # An actor of another run on this Ray may be who uses it.
    assert only(judged.check_gpus(found(answer(taken), answer(free("b")), in_use=1))).state == "ok"


def test_a_node_has_room_for_replicas_whose_columns_share_a_gpu() -> None:
    [node] = found(answer()).nodes
    assert [node.replicas(plan(*more)) for more in ((), ("cluster.columns_per_gpu=2",))] == [1, 2]


def test_memory_in_use_by_nothing_that_computes_is_a_warning() -> None:
    """A desktop is drawn by the same GPU."""
    taken = GpuReport(gpus=parse(GPUS, ""))
    result = only(judged.check_gpus(found(answer(taken), answer(free("b")))))
    assert (result.state, result.ok) == ("warning", True)
    assert "is in use: 31,007 of 40,960 MiB" in result.line


def test_fewer_gpus_than_ray_was_told_of() -> None:
    report = GpuReport(gpus=free("b").gpus[:1])
    result = only(judged.check_gpus(found(answer(free("a")), answer(report))))
    assert result.line.startswith("10.0.0.1: Ray was told of 2 GPU(s), and nvidia-smi shows 1. Start Ray there")


def test_torch_without_cuda() -> None:
    result = only(judged.check_gpus(found(answer(free("a")), answer(free("b"), torch="2.13.0+cpu"))))
    assert not result.ok and "10.0.0.1: torch 2.13.0+cpu knows no CUDA" in result.line


def test_gpus_that_cannot_be_asked_are_a_warning() -> None:
    result = only(judged.check_gpus(found(answer(GpuReport(problem="there is no nvidia-smi")), answer(free("b")))))
    assert (result.state, result.ok) == ("warning", True)


def test_a_run_on_cpus_asks_for_no_gpus() -> None:
    assert only(judged.check_gpus(found(answer(), plan=plan("cluster.device=cpu")))).state == "skipped"


def test_shared_memory_smaller_than_the_windows() -> None:
    """As in a container with Docker's 64 MB, where Ray was told of a larger store."""
    result = only(judged.check_store(found(answer(shared=64 * 2**20))))
    assert "/dev/shm has 67.1 MB in all: Ray keeps them on disk. Enlarge it (docker run --shm-size" in result.line
    assert result.state == "warning"


def test_slow_network_is_a_warning_with_the_time_of_a_step() -> None:
    pair = links.Pair(first=0, second=1, name="10.0.0.0 and 10.0.0.1")
    gigabit = Link(latency_seconds=2e-4, bytes_per_second=117e6)
    # 60,965,224 parameters of 4 bytes: in a ring of two each sends half of them, and half of the sums.
    assert links.step_bytes(plan(), inside=False) == 60_965_224 * 4
    result = only(links._slow(plan(), {pair: gigabit}, 2))
    assert result.state == "warning"
    assert result.line.startswith(
        "10.0.0.0 and 10.0.0.1: 117 MB/s, 0.20 ms; the 244 MB of one step would take 2.1 s. Use a faster"
    )
    assert not links._slow(plan(), {pair: Link(latency_seconds=1e-5, bytes_per_second=12e9)}, 2)
