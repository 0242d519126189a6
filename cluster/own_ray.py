"""The Ray that a command starts for itself: deaf to signals that are the driver's, watched, started anew if it dies, ended.

A stop may reach all processes at once: a terminal that closes, systemd, scancel. The driver must have the columns save then, and
end Ray after that; so whatever is started here has those signals blocked, and is ended with SIGKILL.
"""

import resource
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from configs.errors import UserError

BLOCKED = (signal.SIGTERM, signal.SIGHUP)
"""Ray itself blocks SIGINT."""
PARTS = ("raylet", "gcs_server")
"""Processes without which Ray is dead."""
END_SECONDS = 5.0
FILES = 256
"""That a process may have to hold open. Ray's had 60 in a run of three workers; there is a worker for each CPU."""
FILES_PER_CPU = 8

_start: Callable[[], Any] | None = None


def begin(start: Callable[[], Any], cpus: int) -> Any:
    """Call `start`, which calls `ray.init`; returns what it does. Raises UserError if processes may open too few files."""
    global _start
    _need_files(FILES + FILES_PER_CPU * cpus)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)  # inherited by all processes that are started
    try:
        found = start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _start = partial(begin, start, cpus)
    return found


def again() -> None:
    """End what is left of it, and start it once more."""
    start = _start
    assert start is not None
    end()
    start()


def death() -> str | None:
    """Which of its processes died, and how; None if it lives, or none was started here."""
    node = _node()
    for kind, process in node.dead_processes() if node and _start else ():
        if kind in PARTS:
            code = process.returncode
            how = f"killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            return f"{kind}: {how}"
    return None


def end() -> None:
    """Returns when no process of it is left."""
    global _start
    import psutil
    import ray

    node, _start = _node(), None
    started = [process.pid for _, process in node.live_processes()] if node else []
    if node:
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **_: kill(check_alive=False)  # they would not hear SIGTERM
    left: list[psutil.Process] = []
    for process in psutil.Process().children():
        if process.pid in started:
            left += [process, *process.children(recursive=True)]
    ray.shutdown()
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=END_SECONDS)


def _node() -> Any:
    import ray

    internals: Any = ray._private.worker
    return internals._global_node


def _need_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise UserError(
            f"Ray needs {count:,} open files per process here, and a process may open {hard:,}: raise the limit "
            f"(`ulimit -Hn {count}` as root, or LimitNOFILE= or nofile where this is set), or use fewer CPUs"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
