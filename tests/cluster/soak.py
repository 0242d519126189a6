"""A soak: a run on a cluster of three nodes on this machine, with a random kill now and then; it must end as if nothing had been.

    python -m tests.cluster.soak --minutes 30 --folder /tmp/soak

First an undisturbed run, then the same one, again and again until the time is over, while columns, data workers and nodes (their
raylets) are killed, each after 20 to 60 seconds. Prints counts of each fault and what was left over; exit code 1 if weights
differ or anything is left.
"""

import argparse
import contextlib
import logging
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from tests.cluster.runs import SMALL, Run, alive

NODE: dict[str, Any] = {"num_cpus": 3, "node_ip_address": "127.0.0.1", "object_store_memory": 200 * 2**20}
TITLES = {"column": "ray::ColumnWorker", "data worker": "ray::DataWorker"}


class Disturber:
    """Kills at random; a node that it killed comes back at once."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster, self.random = cluster, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.nodes = [self._new_node() for _ in range(2)]

    def disturb(self) -> str:
        what = self.random.choice([*TITLES, "raylet"])
        if what == "raylet":
            victim = self.nodes.pop(self.random.randrange(len(self.nodes)))
            self.cluster.remove_node(victim, allow_graceful=False)
            self.nodes.append(self._new_node())
        elif running := _actors(TITLES[what]):
            self.random.choice(running).kill()
        else:
            what = f"no {what}, for none is there now"
        self.counts[what] += 1
        return what

    def _new_node(self) -> Any:
        """Ray gives a raylet half a minute to start, which is not always enough on a machine with much else to do."""
        for _ in range(2):
            try:
                return self.cluster.add_node(**NODE)
            except Exception as error:  # Ray raises this type itself
                print(f"a new node did not start, another one is tried: {error}", flush=True)
        return self.cluster.add_node(**NODE)


def _actors(title: str) -> list[psutil.Process]:
    """Processes of the cluster's actors of a kind."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(title):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.cluster.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--folder", type=Path, required=True, help="for runs and data")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    segments = set(os.listdir("/dev/shm"))
    settings = [f"train.steps={args.steps}", "train.evaluate_every_epochs=50", "checkpoint.every_steps=50"]
    settings += ["train.report_every_steps=10", "fault.backoff_seconds=1", "fault.hang_timeout_seconds=60"]
    quiet = Run(args.folder, "quiet", *settings)
    if quiet.finish(7200):
        print(quiet.text)
        return 1
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    try:
        disturber, runs = Disturber(cluster, args.seed), list[Run]()
        end = time.monotonic() + args.minutes * 60
        while time.monotonic() < end:
            runs.append(_disturbed(args.folder, f"disturbed-{len(runs) + 1}", settings, disturber, end))
        left = _left(cluster)
    finally:
        cluster.shutdown()
    left += [f"/dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - segments]
    left += [str(path) for path in args.folder.rglob("*") if path.name.endswith((".tmp", ".part"))]
    same = all(run.weights() == quiet.weights() for run in runs)
    attempts = sum((run.folder / "log.jsonl").read_text().count('"kind": "attempt"') for run in runs)
    told = f"{len(runs)} runs; faults: {dict(disturber.counts)}; attempts: {attempts}"
    print(f"{told}; left over: {left or 'nothing'}; weights equal: {same}")
    return 0 if same and not left else 1


def _disturbed(folder: Path, name: str, settings: list[str], disturber: Disturber, end: float) -> Run:
    """A run that is disturbed until the time is over; it may end in peace then."""
    run = Run(folder, name, arguments=(str(SMALL), f"name={name}", "--address", disturber.cluster.address, *settings))
    due = 0.0
    while time.monotonic() < end and run.process.poll() is None:
        if due and time.monotonic() > due:
            print(f"{time.strftime('%H:%M:%S')} step {run.last_step()}: killed {disturber.disturb()}", flush=True)
        if not due or time.monotonic() > due:
            due = time.monotonic() + disturber.random.uniform(20, 60)
        time.sleep(0.2)
    processes = run.descendants() if run.process.poll() is None else []
    code = run.finish(3600)
    print(run.text[-2000:], flush=True)
    assert code == 0, f"{name} ended with {code}"
    assert not alive(processes)
    return run


def _left(cluster: Cluster) -> list[str]:
    """Placement groups and actors that are still there."""
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
        free, there = ray.available_resources().get("CPU"), ray.cluster_resources().get("CPU")
        return [f"placement group {group}" for group in groups] + ([] if free == there else [f"{free} of {there} CPUs"])
    finally:
        with contextlib.suppress(Exception):  # nodes of the cluster have been killed: its end is looked at elsewhere
            ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
