"""Real processes with a process group among them, for one test: gloo, and on a GPU that they share NCCL too."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIME_LIMIT_SECONDS = 600.0


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    device: str = "cpu",
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
) -> list[Any]:
    """[function(rank, *args) for each rank], each in a process of its own with the default process group set up.

    device: "cpu", or "cuda" for tensors there too; all ranks share the GPU.
    function: importable by name. Its result travels through torch.save. Raises RuntimeError with the
    traceback of the rank that failed first, and TimeoutError if the ranks are not done in time; no process is left behind.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # imported once for all ranks of all tests
    # This process keeps the store, on a port that the system chooses: nobody can take the port in between.
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=_rank, args=(function, rank, world_size, device, store.port, folder, time_limit_seconds, args)
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            _wait(processes, Path(folder), time_limit_seconds)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _wait(processes: list[Any], folder: Path, time_limit_seconds: float) -> None:
    deadline = time.monotonic() + time_limit_seconds
    running = {process.sentinel: rank for rank, process in enumerate(processes)}
    while running:
        done = wait(list(running), timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise TimeoutError(
                f"ranks {sorted(running.values())} of {len(processes)} were not done after {time_limit_seconds} s; a "
                "collective that not every rank takes part in hangs like this, and so does a very busy machine"
            )
        for sentinel in done:
            assert isinstance(sentinel, int)
            rank = running.pop(sentinel)
            processes[rank].join()
            if processes[rank].exitcode != 0:
                report = folder / f"{rank}.txt"
                text = report.read_text() if report.exists() else f"exit code {processes[rank].exitcode}"
                raise RuntimeError(f"rank {rank} of {len(processes)} failed:\n{text}")


def _rank(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    device: str,
    port: int,
    folder: str,
    time_limit_seconds: float,
    args: tuple[Any, ...],
) -> None:
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo", "TORCH_FR_BUFFER_SIZE": "256"}
    torch.set_num_threads(1)
    backend = "gloo"
    if device == "cuda":
        # NCCL refuses ranks that share a GPU, unless it takes them for different hosts; it goes over sockets then.
        os.environ |= {"NCCL_HOSTID": f"rank {rank}", "NCCL_NET": "Socket"}
        torch.cuda.set_device(0)
        backend = "cpu:gloo,cuda:nccl"
    limit = timedelta(seconds=time_limit_seconds)
    try:
        store = dist.TCPStore("127.0.0.1", port, None, False, timeout=limit)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
        torch.save(function(rank, *args), Path(folder) / f"{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:  # whatever it is, the test must hear of it
        (Path(folder) / f"{rank}.txt").write_text(traceback.format_exc())
        # At once: the others may be waiting for this rank, and a clean exit would wait for them.
        os._exit(1)
