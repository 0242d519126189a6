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
from shlex import quote
from typing import Any

from cluster import own_ray, ray_files
from cluster.output import tell_at_once
from cluster.ray_token import MODE, use_token
from cluster.signals import stop_signals
from configs.errors import UserError

ENVIRONMENT = "RAY_ADDRESS"


def cluster_address(given: str | None) -> str | None:
    """The cluster to join: what --address says, or RAY_ADDRESS, which is set in a Ray job; None to start a private Ray.

    Raises UserError for an address that no run can be at.
    """
    address = given or os.environ.get(ENVIRONMENT)
    if not address or address == "local":
        return None
    scheme, mark, _ = address.partition("://")
    if scheme in ("http", "https") and not given:
        return None  # the commands of `ray job` take their address, the dashboard's, from the same variable
    if mark:
        kind = (
            "of Ray Client" if scheme == "ray" else "of the dashboard" if scheme.startswith("http") else "of no cluster"
        )
        raise UserError(
            f"{_named(address)} is an address {kind}, which a run cannot join: it needs the cluster itself, as auto on one of "
            f"its machines, or host:port (6379, as a rule; see `ray status`). {_way_out(address)}"
        )
    return address


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
        ray, session = _connect(address, num_cpus, object_store_bytes, dashboard, metadata or {}, quiet)
    wanted = None if address else session
    try:
        yield ray
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException:  # whatever ends it, Ray may have noted why; it is raised on
        if wanted is not None:
            print(f"note: what Ray itself wrote down of this is in {wanted / 'logs'}", file=sys.stderr, flush=True)
            wanted = None
        raise
    finally:
        with _signals_delayed(then_raise=False):
            if address is None:
                own_ray.end()
            else:
                ray.shutdown()
            if wanted is not None:
                ray_files.remove(wanted)


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
) -> tuple[Any, Path]:
    # These count only if they are set before ray is imported. No usage report leaves the machine:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # An actor's death is told in our own words, once; Ray's paragraph about it would stand beside that.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")
    # The same goes for calls of other ranks that failed along with the first one, which nobody asks for any more.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
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
    use_token(make=address is None)
    if address is not None:
        address = _resolve(address)
    import ray
    from ray.job_config import JobConfig

    # Other nodes may have another version of this project, or none; they get this one.
    code = [str(Path(__file__).parents[1] / package) for package in ("configs", "alexnet", "workers", "cluster")]
    settings: dict[str, Any] = {"address": address, "runtime_env": {"py_modules": code, "excludes": ["__pycache__"]}}
    if address is None:
        ray_files.sweep()
        settings = {
            # A cluster that happens to run on this machine is joined by --address only, never by accident.
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": object_store_bytes,
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
            "runtime_env": {},
        }
    if quote(sys.executable) != sys.executable:
        # Ray gives it to a shell as it is: with a blank in it no worker would ever come up.
        settings["runtime_env"]["py_executable"] = quote(sys.executable)

    def start() -> Any:
        job = JobConfig(metadata=metadata)
        context: Any = ray.init(job_config=job, logging_level=logging.WARNING, log_to_driver=False, **settings)
        if address is None:
            ray_files.mark(Path(context.address_info["session_dir"]))
        return context

    try:
        context = own_ray.begin(start, num_cpus or os.cpu_count() or 1) if address is None else start()
    except ConnectionError as error:
        raise _no_cluster(address, error) from None
    except Exception as error:  # Ray's errors here are of many kinds, bare Exception among them
        own_ray.end() if address is None else ray.shutdown()
        if address is not None or isinstance(error, AssertionError | UserError):
            raise
        raise _not_started(error) from None
    if address is None and dashboard and not quiet:
        asks = " (it asks once for a token, that of `ray get-auth-token`)" if os.environ.get(MODE) == "token" else ""
        print(f"Ray dashboard: http://{context.dashboard_url}{asks}", flush=True)
    return ray, Path(context.address_info["session_dir"])


def _resolve(address: str) -> str:
    """host:port, as Ray itself finds it. Raises UserError if nobody listens there; Ray would try for minutes."""
    from ray._private.services import canonicalize_bootstrap_address, extract_ip_port
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of Cython, without stubs
    from ray.exceptions import AuthenticationError

    try:
        found = canonicalize_bootstrap_address(address)
        if found is None:  # `auto`, and RAY_ADDRESS says local
            raise LookupError("none was started on this machine")
        place = extract_ip_port(found)
    except (OSError, ValueError, LookupError) as error:
        raise _no_cluster(address, error) from None
    try:
        socket.create_connection(place, timeout=5.0).close()
    except OSError as error:
        # What is found for `auto` may be the place of one that was killed.
        raise _no_cluster(address, OSError(f"{found}: {error.strerror or error}")) from None
    try:
        GcsClient(address=found)
    except AuthenticationError:
        raise UserError(
            f"the Ray cluster at {_named(address)} wants its token, which is not the one of this machine, if it has any: copy "
            f"~/.ray/auth_token from the cluster's head to the same place here. {_way_out(address)}"
        ) from None
    except Exception as error:  # of Ray, whatever it is: nobody there could be asked
        raise _no_cluster(address, error) from None
    return str(found)


def _no_cluster(address: str | None, error: Exception) -> UserError:
    told = " ".join(str(error).split())
    return UserError(
        f"no Ray cluster answers at {_named(address)} ({told}). Start one with `ray start --head`. {_way_out(address)}"
    )


def _not_started(error: Exception) -> UserError:
    told = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__).strip()
    folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "ray")
    return UserError(
        f"Ray could not be started on this machine: {told}. It needs a folder ({folder}) with room in it, that you may write to, "
        "and whose path is short, for sockets lie in it: RAY_TMPDIR=/tmp/mine names another one. Without its dashboard "
        "(cluster.dashboard=false) it needs less"
    )


def _named(address: str | None) -> str:
    """By where it was given."""
    return f"{ENVIRONMENT}={address}" if os.environ.get(ENVIRONMENT) == address else f"--address {address}"


def _way_out(address: str | None) -> str:
    by_environment = os.environ.get(ENVIRONMENT) == address
    return f"{f'Unset {ENVIRONMENT}' if by_environment else 'Leave --address out'} to run on this machine alone."


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
            tell_at_once("\nstopping, as soon as Ray lets go")
        pressed.append(number)

    before = {number: signal.signal(number, remember) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pressed and then_raise:
        signal.raise_signal(pressed[0])
