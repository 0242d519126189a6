"""Joining a running Ray cluster, or starting a private one on this machine, and leaving it clean."""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster import own_ray
from configs.errors import UserError


def cluster_address(given: str | None) -> str | None:
    """The cluster to join: what --address says, or RAY_ADDRESS, which is set in a Ray job; None to start a private Ray."""
    from_environment = os.environ.get("RAY_ADDRESS", "")
    # The commands of `ray job` take their address, with http://, from the same variable.
    return given or (from_environment if from_environment and "://" not in from_environment else None)


@contextlib.contextmanager
def ray_session(
    address: str | None,
    *,
    num_cpus: int | None = None,
    object_store_bytes: int | None = None,
    dashboard: bool = False,
    metadata: dict[str, str] | None = None,
    quiet: bool = False,
) -> Iterator[Any]:
    """Yield the connected `ray` module; on the way out disconnect, or stop what was started here.

    address: None starts a private one-node Ray on loopback; "auto" or "host:port" joins a running cluster.
    num_cpus, object_store_bytes, dashboard: for the private Ray only; a running cluster has its own.
    metadata: what Ray's dashboard shows of this job. quiet: do not print the dashboard's address.

    Raises UserError if no cluster answers at `address`.
    """
    with _signals_delayed():
        ray = _connect(address, num_cpus, object_store_bytes, dashboard, metadata or {}, quiet)
    try:
        yield ray
    finally:
        with _signals_delayed(then_raise=False):
            if address is None:
                own_ray.end()
            else:
                ray.shutdown()


def start_own_ray_again() -> None:
    """Raises what ray.init raises, and UserError."""
    with _signals_delayed():
        own_ray.again()


def _connect(
    address: str | None,
    num_cpus: int | None,
    object_store_bytes: int | None,
    dashboard: bool,
    metadata: dict[str, str],
    quiet: bool,
) -> Any:
    # These count only if they are set before ray is imported. No usage report leaves the machine:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # An actor's death is told in our own words, once; Ray's paragraph about it would stand beside that.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")
    # The same goes for calls of other ranks that failed along with the first one, which nobody asks for any more.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # Ray 2.58 warns that actors without GPUs will see them all; ours import no CUDA.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Batches that every column has copied leave the object store at once, not with the next second's sweep.
    os.environ.setdefault("RAY_free_objects_period_milliseconds", "0")
    # A call to an actor whose connection broke fails when the cluster says why, but after half a second at most; Ray waits for a
    # second, and looks once a second whether that is over. Enough for a killed process, whose end Ray tells at once.
    os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "500")
    os.environ.setdefault("RAY_core_worker_internal_heartbeat_ms", "200")
    # For the private Ray; ray_cluster.yaml says why.
    os.environ.setdefault("RAY_raylet_death_check_interval_milliseconds", "200")
    if address is None:
        # Stay on loopback: nobody else has business with a private Ray, and laptops change address under way. The switch
        # is named after the systems where this is the default.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is not None:
        _check_answers(address)
    import ray
    from ray.job_config import JobConfig

    # Other nodes may have another version of this project, or none; they get this one.
    code = [str(Path(__file__).parents[1] / package) for package in ("configs", "alexnet", "workers", "cluster")]
    settings: dict[str, Any] = {"address": address, "runtime_env": {"py_modules": code, "excludes": ["__pycache__"]}}
    if address is None:
        settings = {
            # A cluster that happens to run on this machine is joined by --address only, never by accident.
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": object_store_bytes,
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
        }

    def start() -> Any:
        job = JobConfig(metadata=metadata)
        return ray.init(job_config=job, logging_level=logging.WARNING, log_to_driver=False, **settings)

    try:
        context = own_ray.begin(start, num_cpus or os.cpu_count() or 1) if address is None else start()
    except ConnectionError as error:
        raise _no_cluster(address, error) from None
    if address is None and dashboard and not quiet:
        print(f"Ray dashboard: http://{context.dashboard_url}", flush=True)
    return ray


def _check_answers(address: str) -> None:
    """Raise UserError if nobody listens there; Ray itself would try for minutes."""
    if address == "auto":
        # Where Ray itself looks for "auto"; the file outlives a cluster that was killed.
        current = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
        there = os.environ.get("RAY_ADDRESS") or (current.read_text().strip() if current.is_file() else "")
        if not there:
            raise _no_cluster(address, LookupError("none was started on this machine"))
        address = there
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str | None, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster answers at --address {address} ({' '.join(str(error).split())}). Start one with "
        "`ray start --head`, or leave --address out to run on this machine alone."
    )


@contextlib.contextmanager
def _signals_delayed(then_raise: bool = True) -> Iterator[None]:
    """Keep stop signals waiting: a start or an end of Ray that is cut short leaves processes behind.

    then_raise: whether what came in the meantime is delivered afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []

    def remember(number: int, _: object) -> None:
        if not pressed:
            print("\nstopping, as soon as Ray lets go", file=sys.stderr, flush=True)
        pressed.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pressed and then_raise:
        signal.raise_signal(pressed[0])
