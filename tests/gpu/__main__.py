"""All that wants a GPU, one after the other, each with a time limit: `python -m tests.gpu OUT [NAMES...]` (README.md)."""

import argparse
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRECISIONS, BATCHES = ("fp32", "tf32", "bf16"), (128, 1024)


@dataclass(frozen=True)
class Job:
    arguments: list[str]
    """Of Python."""
    limit_seconds: float
    needs: tuple[str, ...] = ()
    """Packages that a machine with torch alone lacks."""


def jobs(out: Path) -> dict[str, Job]:
    bench, pytest = ["-m", "cluster.bench"], ["-m", "pytest", "tests/gpu", "-rs", "-o", "addopts="]
    train = ["-m", "cluster.train", f"runs_folder={out / 'runs'}", "cluster.device=cuda", "cluster.dashboard=false"]
    train.append(f"data.path={out / 'pictures'}")
    found = {
        "tier": Job([*pytest, "-p", "no:cacheprovider"], 480),
        "lrn": Job([*bench, "lrn"], 120),
        "layers": Job([*bench, "layers"], 120),
    }
    for batch, precision in itertools.product(BATCHES, PRECISIONS):
        step = ["step", "--batch", str(batch), "--precision", precision]
        found[f"step-{precision}-{batch}"] = Job([*bench, *step], 120)
    for name, settings in {
        "one-process": ["cluster.columns_per_gpu=1"],
        "nccl": ["cluster.columns_per_gpu=2"],
        "gloo": ["cluster.columns_per_gpu=2", "cluster.gpu_backend=gloo"],
    }.items():
        found[f"train-{name}"] = Job([*train, f"name={name}", *settings], 300, needs=("ray", "simplejpeg"))
    return found


def run(job: Job, file: Path) -> str:
    """Returns what came of it, in a word or two; the output is in `file`."""
    missing = [name for name in job.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"skipped: no {', '.join(missing)}"
    # Of several GPUs the first; columns that share it have no other network between them than this one.
    own = {"NCCL_NET": "Socket", "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    with file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *job.arguments],
            cwd=ROOT,
            env={**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(job.limit_seconds)
            return "ok" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            return f"not done after {job.limit_seconds:g} s"
        finally:
            # With whatever it has started and not ended.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("out", type=Path, help="a folder for the outputs")
    known = jobs(Path("OUT"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of {', '.join(known)}")
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, job in jobs(out).items():
        if args.names and name not in args.names:
            continue
        began = time.monotonic()
        results[name] = result = run(job, out / f"{name}.txt")
        line = f"{name:<20}{time.monotonic() - began:7.1f} s  {result}"
        print(line, flush=True)
        with (out / "summary.txt").open("a") as summary:  # after each, lest the machine be taken away meanwhile
            summary.write(line + "\n")
    return int(any(not result.startswith(("ok", "skipped")) for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
