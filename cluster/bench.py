"""`python -m cluster.bench`: our speed against stock PyTorch's, interleaved in one run on this machine."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  python -m cluster.bench lrn                       response norm against nn.LocalResponseNorm
  python -m cluster.bench step --batch 32           a training step of the whole network, one process
  python -m cluster.bench columns --json out.json   two column processes over gloo against one process
  python -m cluster.bench all --rounds 7

Each round runs every contender once; medians over the rounds are compared. Machines are noisy: look at the spread.
These three need torch and numpy alone, and run on a GPU where there is one (columns: on CPUs).
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m cluster.bench",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["lrn", "step", "columns", "all"])
    parser.add_argument("--batch", type=int, default=128, help="images per step (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after two to warm up (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a contender in one process (default 2)")
    parser.add_argument(
        "--precision", choices=["fp32", "tf32", "bf16"], default="fp32", help="of all contenders in step and columns"
    )
    parser.add_argument(
        "--compile", action="store_true", help="step: also with compute.compile, which takes minutes to start"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file too")
    args = parser.parse_args(argv)
    if min(args.batch, args.rounds, args.threads) < 1:
        parser.error("--batch, --rounds and --threads must be at least 1")

    import torch

    from cluster.benchmarks import norms, steps
    from cluster.benchmarks.rounds import processor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = {
        "machine": f"{platform.machine()}, {processor()}, {torch.get_num_threads()} cores seen by torch",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "command": f"python -m cluster.bench {' '.join(argv if argv is not None else sys.argv[1:])}",
    }
    for key, value in machine.items():
        print(f"{key:<10}{value}")
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "lrn": lambda: norms.response_norm(args.batch, args.rounds, args.threads, device),
        "step": lambda: steps.steps(args.batch, args.rounds, args.threads, device, args.precision, args.compile),
        "columns": lambda: steps.columns(args.batch, args.rounds, args.threads, args.precision),
    }
    figures = {what: kinds[what]() for what in (kinds if args.what == "all" else [args.what])}
    if args.json:
        try:
            Path(args.json).write_text(json.dumps({**machine, **figures}, indent=1), encoding="utf-8")
        except OSError as error:
            print(f"error: --json {args.json} cannot be written: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
