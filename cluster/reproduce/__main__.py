"""`python -m cluster.reproduce`: experiments of the paper at the size of one machine, each one resumable command."""

import argparse
import sys

from cluster.entry import run_entry
from cluster.options import command_parser, is_setting, location, number

EXAMPLES = """\
examples:
  python -m cluster.reproduce stock tiny_imagenet.yaml                         the same recipe in plain PyTorch
  python -m cluster.reproduce figure1 data.path=data/cifar10                   rectifiers against tanh, on CIFAR-10
  python -m cluster.reproduce ablations data.path=data/tiny40                  what each part of the network is worth

Each command goes on when it is given again; what is complete is not done again. Ctrl-C leaves nothing half done.
exit codes: 0 done, 1 a run failed, 2 wrong input, 128 + its number if stopped by a signal
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    args = COMMANDS[words[0]]().parse_intermixed_args(words[1:])
    goes_on = "the same command goes on from what is there"
    return run_entry(lambda: int(args.run(args)), if_interrupted=goes_on, leaves_files=not args.plan)


def _overview(words: list[str]) -> int:
    """--help, or what is wrong with the command line."""
    parser = command_parser("reproduce", __doc__, EXAMPLES)
    parser.add_argument("what", choices=[*COMMANDS], help="`WHAT --help` says more")
    parser.parse_args(words)
    return 0


def _command(name: str, text: str, examples: str) -> argparse.ArgumentParser:
    parser = command_parser(f"reproduce {name}", text, f"examples:\n{examples}")
    parser.add_argument("--plan", action="store_true", help="say what would run, and stop")
    return parser


def _stock_parser() -> argparse.ArgumentParser:
    parser = _command(
        "stock",
        "Train a config's layers, initial weights, batch, epochs and rates with nn.Conv2d(groups=), nn.LocalResponseNorm,\n"
        "nn.Dropout, torch.optim.SGD and a DataLoader, as one would without this project. The run is runs/NAME_stock.",
        "  python -m cluster.reproduce stock\n"
        "  python -m cluster.reproduce stock tiny_imagenet.yaml data.path=data/photos --threads 2 --workers 1\n"
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
    if is_setting(config):
        config, settings = "tiny_imagenet.yaml", [config, *settings]
    return run_stock(
        config, settings, threads=args.threads, workers=args.workers, layout=args.layout, plan_only=args.plan
    )


def _figure1_parser() -> argparse.ArgumentParser:
    parser = _command(
        "figure1",
        "Epochs to 25 % training error with rectifiers and with tanh [figure 1]: a search of the learning rate for each, then\n"
        "the best run goes on until the error is reached. Results: figure1.json and figure1.png in --out, beside the runs.",
        "  python -m cluster.prepare cifar10 --out data/cifar10 --encoding raw\n"
        "  python -m cluster.reproduce figure1\n"
        "  python -m cluster.reproduce figure1 data.path=data/other --rates 0.005,0.02 --most-epochs 20\n"
        "  python -m cluster.reproduce figure1 --config figure1_relu.yaml --out runs/figure1_large     hours, not minutes\n",
    )
    _add_config(parser, "figure1_small.yaml", "runs/figure1")
    add = parser.add_argument
    add("--rates", type=_rates, default=RATES, metavar="R,R,...", help=f"to try (default {','.join(map(str, RATES))})")
    add("--search-epochs", type=number(float, 0.5, 1000), default=2.0, help="with each rate (default 2)")
    add("--most-epochs", type=number(float, 0.5, 10000), default=40.0, help="with the best rate (default 40)")
    add("--target", type=number(float, 0.001, 0.999), default=0.25, help="training error (default 0.25)")
    parser.set_defaults(run=_figure1)
    return parser


def _figure1(args: argparse.Namespace) -> int:
    from cluster.reproduce.figure1 import Figure1, run_figure1

    wanted = Figure1(
        config=args.config,
        settings=args.settings,
        out=args.out,
        rates=args.rates,
        search_epochs=args.search_epochs,
        most_epochs=args.most_epochs,
        target=args.target,
    )
    return run_figure1(wanted, plan_only=args.plan)


def _ablations_parser() -> argparse.ArgumentParser:
    parser = _command(
        "ablations",
        "Train small networks that lack one part each, with several seeds, and compare them with the full one.\n"
        "Results: ablations.json and ablations.png in --out, beside the runs.",
        "  python -m cluster.prepare tiny-imagenet --classes 40 --out data/tiny40\n"
        "  python -m cluster.reproduce ablations --plan\n"
        "  python -m cluster.reproduce ablations\n"
        "  python -m cluster.reproduce ablations --only all,no_dropout --seeds 4\n"
        "  python -m cluster.reproduce ablations --table          of what is complete, training nothing\n",
    )
    _add_config(parser, "ablation.yaml", "runs/ablations")
    add = parser.add_argument
    add("--only", type=_names, default=[], metavar="NAME,...", help="these networks (default: all); --plan names them")
    add("--seeds", type=number(int, 1, 100), default=2, help="of each network; the full one has one more (default 2)")
    add("--table", action="store_true", help="make the table of what is complete, and train nothing")
    parser.set_defaults(run=_ablations)
    return parser


def _ablations(args: argparse.Namespace) -> int:
    from cluster.reproduce.ablations import Ablations, run_ablations

    wanted = Ablations(config=args.config, settings=args.settings, out=args.out, seeds=args.seeds, only=args.only)
    return run_ablations(wanted, plan_only=args.plan, table_only=args.table)


def _add_config(parser: argparse.ArgumentParser, config: str, out: str) -> None:
    add = parser.add_argument
    add("settings", nargs="*", metavar="key=value", help="settings that differ from the config's, for all runs")
    add("--config", default=config, metavar="FILE", help=f"of all runs (default {config})")
    add("--out", type=location, default=location(out), metavar="DIR", help=f"for runs and results (default {out})")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _rates(text: str) -> list[float]:
    one = number(float, 1e-12, 1e6)
    return [float(one(part)) for part in text.split(",")]


RATES = [0.002, 0.005, 0.0125, 0.03]
COMMANDS = {"stock": _stock_parser, "figure1": _figure1_parser, "ablations": _ablations_parser}

if __name__ == "__main__":
    sys.exit(main())
