"""A Ray node in a process of its own, which may see other files than the rest of the machine. Run by tests.

`ray.cluster_utils.Cluster` starts nodes from the process that it runs in, so they all see the same.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

MAY_MOUNT = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
"""Whether this machine lets us give a process its own mounts."""


@contextlib.contextmanager
def other_node(
    gcs_address: str, output: Path, *, mounts: Mapping[Path, Path | None], environment: Mapping[str, str], **params: Any
) -> Iterator[psutil.Process]:
    """A node that joins the cluster; its process. Ended by its own pids.

    mounts: what it sees in the place of a file or folder; None: an empty folder. params: of Ray's RayParams.
    """
    commands = [
        f"mount --bind '{source}' '{target}'" if source else f"mount -t tmpfs none '{target}'"
        for target, source in mounts.items()
    ]
    arguments = {"gcs_address": gcs_address, "min_worker_port": 0, "max_worker_port": 0, **params}
    script = " && ".join([*commands, 'exec "$@"'])
    command = ["unshare", "-m", "sh", "-c", script, "node", sys.executable, __file__, json.dumps(arguments)]
    with output.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    process = psutil.Process(started.pid)
    try:
        yield process
    finally:
        if process.is_running():
            for one in [*process.children(recursive=True), process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        started.wait()


def main() -> None:
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    Node(RayParams(**json.loads(sys.argv[1])), head=False, shutdown_at_exit=True, spawn_reaper=False)
    signal.pause()


if __name__ == "__main__":
    main()
