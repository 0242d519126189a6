"""Every fault against an undisturbed run, on pretend hosts: the same weights, and how long it took. A table at the end.

    python -m tests.hosts.faults --folder /tmp/faults [--only raylet hang ...]

Needs what tests/hosts/README.md says. Four hosts: the head, with the driver, two workers with room for two columns each, and one
for data workers alone. Each fault hits a run of its own. `noticed` and `again` are seconds from the fault to the line that names
it, and to the first report of a step of the next attempt; `repeated` are the updates that were made twice.
"""

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.cluster.runs import flip
from tests.hosts.hosts import Hosts, missing
from tests.hosts.runs import DATA_HOST, WORKERS, Cluster, Run

AGAIN = ", same command again"


@dataclass(frozen=True)
class Case:
    says: str
    fault: Callable[[Run], object]
    settings: tuple[str, ...] = ()
    code: int = 0
    """With which the fault ends the run; the same command then goes on."""
    ready: Callable[[Run], bool] = lambda run: run.last_step() >= 90
    """When the fault may come."""
    repair: bool = False
    """The columns' host is to be started again after it."""
    elastic: bool = False
    """Replicas go and come; other sums of the same numbers then make the last bits of weights differ."""


def pull_cable_for_5_seconds(run: Run) -> None:
    host = run.host()
    run.cluster.hosts.cut(host)
    time.sleep(5)
    run.cluster.hosts.join(host)


def kill_raylet(run: Run) -> None:
    processes = run.cluster.hosts.processes(run.host())
    [pid] = [pid for pid, line in processes.items() if line.split()[0].endswith("/raylet")]
    os.kill(pid, signal.SIGKILL)


def is_saving(run: Run) -> bool:
    return run.last_step() >= 79 and any(
        "step-00000080" in path.name for path in (run.folder / "checkpoints").iterdir()
    )


def damage_checkpoint(run: Run) -> None:
    run.signal(signal.SIGTERM)
    run.process.wait(60)
    flip(next(run.checkpoints()[-1].glob("*.safetensors")))


def fill_disk(run: Run) -> None:
    small = run.cluster.folder / "small"
    (small / "filler").write_bytes(b"x" * (shutil.disk_usage(small).free - 50_000))
    assert run.process.wait(120) == 1, run.text
    (small / "filler").unlink()


def lose_replica(run: Run) -> None:
    """Of 2 x 2, one of the two hosts with columns is gone for good, then 1 x 2; later another one is there instead of it."""
    host = run.place("column r1 c1")[1]
    run.cluster.hosts.power_off(host)
    run.wait_for(lambda: len(run.reports("attempt")) == 2)
    run.wait_for_step(run.reports("attempt")[1]["step"] + 30)
    run.cluster.repair(host)


TERMINATE = partial(Run.signal, number=signal.SIGTERM)
CASES = {
    "column": Case("`kill -9` of a column", lambda run: run.kill("column r0 c1")),
    "data_worker": Case("`kill -9` of a data worker", lambda run: run.kill("data worker r0 #0")),
    "hang": Case("SIGSTOP of a column (limit 15 s)", lambda run: run.kill("column r0 c1", signal.SIGSTOP)),
    "raylet": Case("`kill -9` of the columns' raylet", kill_raylet, repair=True),
    "power": Case(
        "power off of the columns' host", lambda run: run.cluster.hosts.power_off(run.host()), repair=True
    ),
    "cable_5_s": Case("cable out for 5 s", pull_cable_for_5_seconds),
    "cable": Case(
        "cable of the columns' host out for good", lambda run: run.cluster.hosts.cut(run.host()), repair=True
    ),
    "driver": Case(f"`kill -9` of the driver{AGAIN}", partial(Run.signal, number=signal.SIGKILL), code=-9),
    "sigterm": Case(f"SIGTERM in training{AGAIN}", TERMINATE, code=143),
    "sigterm_in_evaluation": Case(
        f"SIGTERM in an evaluation{AGAIN}", TERMINATE, ("train.evaluate_batch_size=1",), 143,
        ready=lambda run: run.last_step() >= 60,
    ),
    "sigterm_in_checkpoint": Case(f"SIGTERM in a checkpoint{AGAIN}", TERMINATE, code=143, ready=is_saving),
    "damaged": Case(f"last checkpoint damaged{AGAIN}", damage_checkpoint, code=143),
    "full_disk": Case(
        f"disk full at a checkpoint; room made{AGAIN}", fill_disk, ("checkpoint.folder={folder}/small",), 1
    ),
    "elastic": Case(
        "power off of one of two hosts with columns for good, `fault.elastic`; back later", lose_replica,
        ("cluster.replicas=2", "fault.elastic=true", "cluster.cpus_per_data_worker=0.1"), elastic=True,
    ),
}  # fmt: skip


def measured(cluster: Cluster, name: str, undisturbed: Run) -> tuple[str, bool]:
    """Cause the fault and see the run through: a row of the table, and whether all is as it should be."""
    case = CASES[name]
    run = Run(cluster, name, *(setting.format(folder=cluster.folder) for setting in case.settings))
    run.wait_for(lambda: case.ready(run), 600)
    before, host, at, told = run.last_step(), run.host(), time.time(), ""
    case.fault(run)
    ended = run.finish(300)
    assert ended == case.code, f"{name}: ended with {ended}:\n{run.text}"
    if case.code:
        told, at = run.text.strip().splitlines()[-1], time.time()
        run = Run(cluster, name, *run.settings)
        assert run.finish(300) == 0, run.text
    noticed = again = ""
    repeated = 0
    if failures := [entry for entry in run.reports("failure") if entry["time"] > at]:
        noticed, told = f"{failures[0]['time'] - at:.1f}", failures[0]["what"]
    if attempts := [entry for entry in run.reports("attempt") if entry["time"] > at]:
        trained = [entry["time"] for entry in run.reports("train") if entry["time"] > attempts[0]["time"]]
        again, repeated = f"{min(trained) - at:.1f}", max(0, before - attempts[0]["step"])
    said = [line for line in run.text.splitlines() if "died" in line or "damaged" in line]
    told = told or (said[-1] if said else "")
    if case.elastic:
        assert [attempt["replicas"] for attempt in run.reports("attempt")] == [2, 1, 2], run.text
        ours, theirs = run.losses(), undisturbed.losses()
        assert ours.keys() == theirs.keys()
        apart = max(abs(ours[step] - theirs[step]) for step in theirs)
        right, equality = apart < 1e-3, f"losses within {apart:.1g}"
    else:
        right = run.weights() == undisturbed.weights()
        equality = "yes" if right else "NO"
    if case.repair:
        cluster.repair(host)
    return f"| {' | '.join((case.says, noticed, again, str(repeated), equality, told[:160]))} |", right


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.hosts.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="new; runs, data and output stand there")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    args = parser.parse_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    small = args.folder / "small"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    rows: list[tuple[str, bool]] = []
    try:
        names, token = ["head", *WORKERS, DATA_HOST], {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        with Hosts(names, visible=[args.folder, small], profiles=dict.fromkeys(names, token)) as hosts:
            cluster = Cluster(hosts, args.folder)
            cluster.start()
            quiet = Run(cluster, "undisturbed")
            assert quiet.finish(300) == 0, quiet.text
            for name in args.only:
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                rows.append(measured(cluster, name, quiet))
                print(rows[-1][0], flush=True)
    finally:
        subprocess.run(["umount", str(small)], check=False)
        print("| fault | noticed s | training again s | steps repeated | weights equal | what was said |")
        print("\n".join(["| --- | --- | --- | --- | --- | --- |", *(row for row, _ in rows)]))
    return 0 if all(right for _, right in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
