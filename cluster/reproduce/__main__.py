"""`python -m cluster.reproduce`: experiments of the paper at the size of one machine, each one resumable command."""

import argparse
import sys

from cluster.entry import run_entry
from cluster.options import number

EXAMPLES = """\
examples:
  python -m cluster.reproduce stock tiny_imagenet.yaml data.path=data/tiny     the same recipe in plain PyTorch

Each command goes on when it is given again; what is complete is not done again. Ctrl-C leaves nothing half done.
exit codes: 0 done, 1 a run failed, 2 wrong input, 130 or 143 stopped by a signal
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    args = COMMANDS[words[0]]().parse_intermixed_args(words[1:])
    return run_entry(lambda: int(args.run(args)), if_interrupted="the same command goes on from what is there")


def _overview(words: list[str]) -> int:
    """--help, or what is wrong with the command line."""
    parser = argparse.ArgumentParser(
        "python -m cluster.reproduce",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*COMMANDS], help="`WHAT --help` says more")
    parser.parse_args(words)
    return 0


def _command(name: str, text: str, examples: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"python -m cluster.reproduce {name}",
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", action="store_true", help="say what would run, and stop")
    return parser


def _stock_parser() -> argparse.ArgumentParser:
    parser = _command(
        "stock",
        "Train a config's layers, initial weights, batch, epochs and rates with nn.Conv2d(groups=), nn.LocalResponseNorm,\n"
        "nn.Dropout, torch.optim.SGD and a DataLoader, as one would without this project. The run is runs/NAME_stock.",
        "  python -m cluster.reproduce stock\n"
        "  python -m cluster.reproduce stock tiny_imagenet.yaml data.path=data/tiny --threads 2 --workers 1\n"
        "  python -m cluster.reproduce stock tiny_imagenet.yaml train.epochs=3 name=short --layout contiguous\n",
    )
    parser.add_argument("config", nargs="?", default="tiny_imagenet.yaml", help="default: tiny_imagenet.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that differ from the file's")
    parser.add_argument("--threads", type=number(int, 1, 1024), default=2, help="of the computation (default 2)")
    parser.add_argument("--workers", type=number(int, 0, 1024), default=0, help="of the DataLoader (default 0: none)")
    parser.add_argument(
        "--layout", choices=("channels_last", "contiguous"), default="channels_last", help="of maps in memory"
    )
    parser.set_defaults(run=_stock)
    return parser


def _stock(args: argparse.Namespace) -> int:
    from cluster.reproduce.stock.run import run_stock

    config, settings = args.config, args.settings
    if "=" in config:
        config, settings = "tiny_imagenet.yaml", [config, *settings]
    return run_stock(
        config, settings, threads=args.threads, workers=args.workers, layout=args.layout, plan_only=args.plan
    )


COMMANDS = {"stock": _stock_parser}

if __name__ == "__main__":
    sys.exit(main())
