"""`python -m cluster.bench`: our speed against stock PyTorch's and other loaders', interleaved in one run on this machine."""

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.entry import run_entry
from cluster.options import command_parser
from cluster.paths import check_file
from configs.errors import UserError

EXAMPLES = """\
what is measured:
  lrn       response norm against nn.LocalResponseNorm
  step      a training step of the whole network in one process against stock PyTorch's
  layers    each part of a step against what arithmetic and memory allow
  columns   two column processes over gloo against one process
  data      images/s of a data worker against DataLoader with Pillow, and Ray Data
  feed      a real run of original.yaml's columns: who waits for whom, what feed and driver cost, memory
  seeing    a real run with all that is to be seen of it (reports, files, metrics, live line, dashboard), and without
  saves     a checkpoint of original.yaml by two columns on CPUs: copy, commit, and what it takes from training
  plan      steps as `cluster.train --plan` predicts them, after a calibration, beside real ones: meshes, batches, widths
  peers     loaders side by side: images/s, first batch, edges of epochs, resume, death of a worker
  all       everything but plan and peers

examples:
  python -m cluster.bench lrn
  python -m cluster.bench step --batch 32 --precision bf16
  python -m cluster.bench columns --json out.json
  python -m cluster.bench data --data data/imagenet
  python -m cluster.bench plan --batch 128 --json plan.json
  python -m cluster.bench all --rounds 7

Each round runs every contender once; medians over the rounds are compared. Machines are noisy: look at the spread.
lrn, step, layers and columns need torch and numpy alone, and run on a GPU where there is one (columns: on CPUs).
"""
TORCH_ALONE = ("lrn", "step", "layers", "columns")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("bench", __doc__, EXAMPLES)
    parser.add_argument("what", choices=[*TORCH_ALONE, "data", "feed", "seeing", "saves", "plan", "peers", "all"])
    parser.add_argument("--batch", type=int, default=128, help="images per step (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after two to warm up (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a contender in one process (default 2)")
    parser.add_argument(
        "--precision", choices=["fp32", "tf32", "bf16"], default="fp32", help="of all contenders in step and columns"
    )
    parser.add_argument(
        "--compile", action="store_true", help="step: also both networks under torch.compile, slow to start"
    )
    parser.add_argument(
        "--width", type=float, default=1.0, metavar="SHARE", help="plan: of original.yaml's maps and units (default 1)"
    )
    parser.add_argument("--data", metavar="DIR", type=Path, help="data, peers: a prepared data set of 256x256 JPEGs")
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file too")
    args = parser.parse_args(argv)
    if not 0 < args.width <= 1:
        parser.error("--width must be above 0, and at most 1")
    if min(args.batch, args.rounds, args.threads) < 1:
        parser.error("--batch, --rounds and --threads must be at least 1")
    machine = _machine(argv if argv is not None else sys.argv[1:])
    if args.precision == "tf32" and (machine["device"] == "cpu" or args.what == "columns"):
        parser.error("--precision tf32 is for GPUs; steps are on CPUs here, and columns always are")
    for key, value in machine.items():
        print(f"{key:<10}{value}", flush=True)
    kinds = _kinds(args, "cpu" if machine["device"] == "cpu" else "cuda")
    wanted = [what for what in kinds if what not in ("plan", "peers")] if args.what == "all" else [args.what]
    return run_entry(lambda: _run(wanted, kinds, machine, args.json))


def _run(
    wanted: list[str], kinds: dict[str, Callable[[], dict[str, Any]]], machine: dict[str, str], file: str | None
) -> int:
    figures: dict[str, Any] = {}
    if file:
        check_file(file, "--json")
    for what in wanted:
        figures[what] = kinds[what]()
        if file:  # after each, lest a later one that fails take the others along
            try:
                Path(file).write_text(json.dumps({**machine, **figures}, indent=1), encoding="utf-8")
            except OSError as error:
                raise UserError(f"--json {file} cannot be written: {error}") from None
    return 0


def _kinds(args: argparse.Namespace, device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    from cluster.benchmarks import layers, norms, steps

    def data() -> dict[str, Any]:
        from cluster.benchmarks.data import data

        return data(args.rounds, folder=args.data)

    def feed() -> dict[str, Any]:
        from cluster.benchmarks.feed import feed

        return feed(args.batch)

    def seeing() -> dict[str, Any]:
        from cluster.benchmarks.seeing import seeing

        return seeing(args.batch, args.rounds)

    def saves() -> dict[str, Any]:
        from cluster.benchmarks.saves import saves

        return saves(args.rounds)

    def peers() -> dict[str, Any]:
        from cluster.benchmarks.loaders.compare import peers

        return peers(args.rounds, folder=args.data)

    def plan() -> dict[str, Any]:
        from cluster.benchmarks.plan import plan_benchmark

        return plan_benchmark(args.batch, args.rounds, args.threads, args.width)

    return {
        "lrn": lambda: norms.response_norm(args.batch, args.rounds, args.threads, device),
        "step": lambda: steps.steps(
            args.batch, args.rounds, args.threads, device, args.precision, args.compile
        ),
        "layers": lambda: layers.layers(args.batch, args.rounds, args.threads, device),
        "columns": lambda: steps.columns(args.batch, args.rounds, args.threads, args.precision),
        "data": data,
        "feed": feed,
        "seeing": seeing,
        "saves": saves,
        "plan": plan,
        "peers": peers,
    }  # fmt: skip


def _machine(arguments: list[str]) -> dict[str, str]:
    import torch

    from cluster.benchmarks.rounds import processor

    return {
        "machine": f"{platform.machine()}, {processor()}, {torch.get_num_threads()} cores seen by torch",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "command": f"python -m cluster.bench {shlex.join(arguments)}",
    }


if __name__ == "__main__":
    sys.exit(main())
