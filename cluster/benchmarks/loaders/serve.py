"""A contender's own process: `python -m cluster.benchmarks.loaders.serve JOB`, JOB being JSON. It answers lines of JSON.

A process of its own so that each contender has the memory, threads and children that its users would have, and dies alone.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.benchmarks.loaders import trials
from cluster.benchmarks.loaders.material import Material
from cluster.benchmarks.loaders.peer import peer_class

HANGS_SECONDS = 60.0
"""Without a batch after the death of a worker."""


def serve() -> None:
    job = json.loads(sys.argv[1])
    # Libraries print to stdout; the answers go where stdout was.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    if job["core"] is not None:
        os.sched_setaffinity(0, {job["core"]})  # children too: loader workers and all of Ray
    kind, material = peer_class(job["module"], job["name"]), Material(Path(job["folder"]))
    if job.get("write"):
        kind.write(material)
        answer({"ready": True})
        return
    import torch

    torch.set_num_threads(1)
    # Variants of one loader share a process, and with it Ray.
    peers = [kind(material, batch=job["batch"], workers=job["workers"], **options) for options in job["variants"]]
    with peers[0].session():
        answer({"ready": True})
        for line in sys.stdin:
            command = json.loads(line)
            peer = peers[command.get("variant", 0)]
            if command["do"] == "kill":
                answer(trials.kill(peer, command, _watch(answer)))
            else:
                answer(getattr(trials, command["do"])(peer, command))


def _watch(answer: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
    """A function to call with each batch; when it has not been called for long, this process says so and ends."""
    last = time.monotonic()

    def alive() -> None:
        nonlocal last
        last = time.monotonic()

    def watch() -> None:
        while time.monotonic() - last < HANGS_SECONDS:
            time.sleep(0.5)
        answer({"ended": f"hangs: no batch within {HANGS_SECONDS:.0f} s", "ended_seconds": HANGS_SECONDS})
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return alive


if __name__ == "__main__":
    serve()
