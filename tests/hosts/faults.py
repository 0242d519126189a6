"""Every fault against an undisturbed run, on pretend hosts: the same weights, and how long it took. A table at the end.

    python -m tests.hosts.faults --folder /tmp/faults [--only raylet hang ...] [--json FILE]

Needs what tests/hosts/README.md says. Four hosts: the head, with the driver, two workers with room for two columns each, and one
for data workers alone. Each fault hits a run of its own. `noticed` and `again` are seconds from the fault to the line that names
it, and to the first report of a step of the next attempt; `repeated` are the updates that were made twice.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.hosts import Hosts, missing
from tests.hosts.runs import DATA_HOST, WORKERS, Cluster, Run


@dataclass
class Row:
    fault: str
    noticed: float | None = None
    again: float | None = None
    repeated: int = 0
    told: str = ""
    weights: list[str] = field(default_factory=list)
    loss_apart: float | None = None
    """Greatest difference of a step's loss, where other sums of the same numbers make the last bits differ."""

    def equal(self, expected: list[str]) -> bool:
        return self.weights == expected if self.loss_apart is None else self.loss_apart < 1e-3

    def equality(self, expected: list[str]) -> str:
        if self.loss_apart is None:
            return "yes" if self.equal(expected) else "NO"
        return f"losses within {self.loss_apart:.1g}"


def measured(run: Run, fault: Callable[[], None], name: str, *, code: int = 0) -> Row:
    """Cause the fault, and see the run through. code: of a run that should end by the fault and be started again."""
    before, at = run.step(), time.time()
    fault()
    row = Row(fault=name)
    ended = run.finish()
    assert ended == code, f"{name}: ended with {ended}:\n{run.text}"
    if code:
        row.told = run.text.strip().splitlines()[-1]
        started = time.time()
        run = Run(run.cluster, run.name, *run.settings)
        assert run.finish() == 0, run.text
        at = started
    row.weights = run.weights()
    failures = [entry for entry in run.entries("failure") if entry["time"] > at]
    if failures:
        row.noticed, row.told = failures[0]["time"] - at, failures[0]["what"]
    attempts = [entry for entry in run.entries("attempt") if entry["time"] > at]
    if attempts:
        first = min(entry["time"] for entry in run.entries("train") if entry["time"] > attempts[0]["time"])
        row.again = first - at
        row.repeated = max(0, before - attempts[0]["step"])
    if not row.told:
        said = [line for line in run.text.splitlines() if "died" in line or "damaged" in line]
        row.told = said[-1] if said else ""
    return row


def shown(rows: list[Row], expected: list[str]) -> str:
    """expected: weights of the undisturbed run."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}"

    lines = [
        "| fault | noticed s | training again s | steps repeated | weights equal | what was said |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (
            *(row.fault, number(row.noticed), number(row.again), str(row.repeated)),
            *(row.equality(expected), row.told[:160]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _started(cluster: Cluster, name: str, *settings: str) -> Run:
    run = Run(cluster, name, *settings)
    run.wait_for_step(90)
    return run


def column(cluster: Cluster) -> Row:
    run = _started(cluster, "column")
    return measured(run, lambda: run.kill("column r0 c1"), "`kill -9` of a column")


def data_worker(cluster: Cluster) -> Row:
    run = _started(cluster, "data-worker")
    return measured(run, lambda: run.kill("data worker r0 #0"), "`kill -9` of a data worker")


def hang(cluster: Cluster) -> Row:
    run = _started(cluster, "hang")
    return measured(run, lambda: run.kill("column r0 c1", signal.SIGSTOP), "SIGSTOP of a column (limit 15 s)")


def raylet(cluster: Cluster) -> Row:
    run = _started(cluster, "raylet")
    host = run.columns_host()
    row = measured(run, lambda: _kill_raylet(cluster, host), "`kill -9` of the columns' raylet")
    _repair(cluster, host)
    return row


def power(cluster: Cluster) -> Row:
    run = _started(cluster, "power")
    host = run.columns_host()
    row = measured(run, lambda: cluster.hosts.power_off(host), "power off of the columns' host")
    cluster.hosts.boot(host)
    _repair(cluster, host)
    return row


def cable(cluster: Cluster) -> Row:
    run = _started(cluster, "cable")
    host = run.columns_host()
    row = measured(run, lambda: cluster.hosts.cut(host), "cable of the columns' host out for good")
    cluster.hosts.power_off(host)
    cluster.hosts.boot(host)
    _repair(cluster, host)
    return row


def cable_5_s(cluster: Cluster) -> Row:
    run = _started(cluster, "cable-5-s")
    host = run.columns_host()

    def pause() -> None:
        cluster.hosts.cut(host)
        time.sleep(5)
        cluster.hosts.join(host)

    return measured(run, pause, "cable out for 5 s")


def driver(cluster: Cluster) -> Row:
    run = _started(cluster, "driver")
    return measured(run, lambda: run.signal(signal.SIGKILL), "`kill -9` of the driver, same command again", code=-9)


def sigterm(cluster: Cluster) -> Row:
    run = _started(cluster, "sigterm")
    return measured(run, lambda: run.signal(signal.SIGTERM), "SIGTERM in training, same command again", code=143)


def sigterm_in_evaluation(cluster: Cluster) -> Row:
    run = Run(cluster, "sigterm-evaluation", "train.evaluate_batch_size=1")
    run.wait_for(lambda: run.step() >= 60, "the first evaluation")
    return measured(run, lambda: run.signal(signal.SIGTERM), "SIGTERM in an evaluation, same command again", code=143)


def sigterm_in_checkpoint(cluster: Cluster) -> Row:
    run = Run(cluster, "sigterm-checkpoint")
    run.wait_for_step(79)
    run.wait_for(lambda: any("step-00000080" in path.name for path in (run.path / "checkpoints").iterdir()), "a save")
    return measured(run, lambda: run.signal(signal.SIGTERM), "SIGTERM in a checkpoint, same command again", code=143)


def damaged(cluster: Cluster) -> Row:
    run = _started(cluster, "damaged")

    def damage() -> None:
        run.signal(signal.SIGTERM)
        run.process.wait(60)
        file = next(run.checkpoints()[-1].glob("*.safetensors"))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return measured(run, damage, "last checkpoint damaged, same command again", code=143)


def full_disk(cluster: Cluster) -> Row:
    """Checkpoints on a small file system of their own."""
    small = cluster.folder / "small"
    filler = small / "filler"
    run = _started(cluster, "full-disk", f"checkpoint.folder={small}")

    def fill() -> None:
        free = shutil.disk_usage(small).free
        filler.write_bytes(b"x" * (free - 50_000))

    def filled() -> None:
        fill()
        assert run.process.wait(120) == 1, run.text
        filler.unlink()

    return measured(run, filled, "disk full at a checkpoint; room made, same command again", code=1)


def elastic(cluster: Cluster) -> Row:
    """2 x 2; one of the two hosts with columns gone for good, then 1 x 2; another one instead of it, then 2 x 2 again."""
    run = Run(cluster, "elastic", "cluster.replicas=2", "fault.elastic=true", "cluster.cpus_per_data_worker=0.1")
    run.wait_for_step(90)
    host = run.place("column r1 c1")[1]

    def gone_and_back() -> None:
        cluster.hosts.power_off(host)
        run.wait_for(lambda: len(run.entries("attempt")) == 2, "an attempt with one replica")
        run.wait_for_step(run.entries("attempt")[1]["step"] + 30)
        cluster.hosts.boot(host)
        _repair(cluster, host)

    row = measured(
        run, gone_and_back, "power off of one of two hosts with columns for good, `fault.elastic`; back later"
    )
    replicas = [attempt["replicas"] for attempt in run.entries("attempt")]
    assert replicas == [2, 1, 2], run.text
    assert cluster.undisturbed is not None
    ours, theirs = (
        {report["step"]: report["loss"] for report in each.entries("train")} for each in (run, cluster.undisturbed)
    )
    assert ours.keys() == theirs.keys()
    row.loss_apart = max(abs(ours[step] - theirs[step]) for step in theirs)
    return row


def _kill_raylet(cluster: Cluster, host: str) -> None:
    [pid] = [pid for pid, line in cluster.hosts.processes(host).items() if line.split()[0].endswith("/raylet")]
    os.kill(pid, signal.SIGKILL)


def _repair(cluster: Cluster, host: str) -> None:
    cluster.join(host)
    cluster.wait_for_nodes(4)


CASES: dict[str, Callable[[Cluster], Row]] = {
    case.__name__: case
    for case in (
        column, data_worker, hang, raylet, power, cable_5_s, cable, driver, sigterm, sigterm_in_evaluation,
        sigterm_in_checkpoint, damaged, full_disk, elastic,
    )
}  # fmt: skip


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
    rows: list[Row] = []
    try:
        with Hosts(["head", *WORKERS, DATA_HOST], visible=[args.folder, small]) as hosts:
            cluster = Cluster(hosts, args.folder)
            cluster.start()
            quiet = cluster.undisturbed = Run(cluster, "undisturbed")
            assert quiet.finish() == 0, quiet.text
            expected = quiet.weights()
            for name in args.only:
                print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
                rows.append(CASES[name](cluster))
                print(shown(rows[-1:], expected).splitlines()[-1], flush=True)
    finally:
        subprocess.run(["umount", str(small)], check=False)
        if rows:
            print(shown(rows, expected))
    return 0 if all(row.equal(expected) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
