"""`python -m cluster.train`: train the two-column network."""

import argparse
import sys

from cluster.options import command_parser, is_setting, location, number

EXAMPLES = """\
examples:
  python -m cluster.train                                    the built-in demo: draws its pictures, trains in minutes
  python -m cluster.train --plan original.yaml               what would run, how fast and how long, without running it
  python -m cluster.train --plan original.yaml --calibrate here.yaml         the same, after half a minute of measuring
  python -m cluster.train --plan original.yaml --machine h100 --devices 2    on two GPUs of a described kind
  python -m cluster.train --plan original.yaml --machine a100 --sweep replicas=1..1024 --plot scaling.png
  python -m cluster.train --check original.yaml --address auto   whether the cluster, storage and data are fit for it
  python -m cluster.train tiny_imagenet.yaml data.path=data/photos train.epochs=3
  python -m cluster.train my.yaml --address auto             on the Ray cluster that this machine belongs to
  python -m cluster.train tiny_imagenet.yaml name=wide network.convs.conv1.maps=96
  python -m cluster.train original.yaml --quiet --sink mlflow_sink:MLflow     reports to MLflow too (docs/monitoring.md)

A config is looked up as a path, then among the built-in ones. The same command continues a run that was stopped or died.
Ctrl-C stops at the next step with everything saved; a second Ctrl-C stops at once.
exit codes: 0 done, 1 the run failed, 2 wrong input, 128 + its number if stopped by a signal
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("train", __doc__, EXAMPLES)
    parser.add_argument("config", nargs="?", help="YAML file or name of a built-in config (default: demo.yaml)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that differ from the file's")
    parser.add_argument("--plan", action="store_true", help="print what would run, and stop; needs no Ray")
    add_plan_options(parser)
    parser.add_argument("--check", action="store_true", help="look at nodes, storage, data and links, and stop")
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join a running Ray cluster: auto, or host:port (default: RAY_ADDRESS, if set)",
    )
    parser.add_argument("--quiet", action="store_true", help="say only what is wrong, and the result")
    parser.add_argument(
        "--sink",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="give every report to this class too; may be given several times (docs/monitoring.md)",
    )
    args = parser.parse_intermixed_args(argv)
    config, settings = args.config, args.settings
    if config is not None and is_setting(config):
        config, settings = None, [config, *settings]

    from cluster.entry import run_entry

    if args.plan:
        from cluster.forecast.command import Wish, run_plan

        others = {"--check": args.check, "--address": args.address, "--quiet": args.quiet, "--sink": args.sink}
        if given := [option for option, value in others.items() if value]:
            parser.error(f"{' and '.join(given)}: not with --plan, which needs no Ray and starts nothing")
        wish = Wish(
            machine=args.machine, devices=args.devices, calibrate=args.calibrate, sweep=args.sweep, plot=args.plot
        )
        return run_entry(lambda: run_plan(config, settings, wish))
    if any(value is not None for value in (args.machine, args.devices, args.calibrate, args.sweep, args.plot)):
        parser.error("--machine, --devices, --calibrate, --sweep and --plot belong to --plan")
    from cluster.training import run_training

    return run_entry(
        lambda: run_training(
            config,
            settings,
            check_only=args.check,
            address=args.address,
            quiet=args.quiet,
            sinks=args.sink,
        ),
        leaves_files=not args.check,
    )


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--machine",
        metavar="NAME|FILE.yaml",
        help="--plan: on this kind of machine (a100, cpu, gtx580, h100, h200, or a description of your own; docs/scaling.md)",
    )
    parser.add_argument(
        "--devices",
        type=number(int, 1, 2**20),
        metavar="N",
        help="--plan: how many GPUs or cores there are (default: as many as the run needs)",
    )
    parser.add_argument(
        "--calibrate",
        type=location,
        metavar="FILE.yaml",
        help="--plan: measure this machine's CPUs first, into this file",
    )
    parser.add_argument(
        "--sweep",
        metavar="KEY=VALUES",
        help="--plan: a table over replicas=1..1024, batch=32,64,128 or any other setting",
    )
    parser.add_argument("--plot", type=location, metavar="FILE.png", help="--plan: draw the sweep")


if __name__ == "__main__":
    sys.exit(main())
