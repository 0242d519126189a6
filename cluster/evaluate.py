"""`python -m cluster.evaluate`: top-1 and top-5 error of a run's network on the validation set, by the centre or ten views."""

import argparse
import sys

from cluster.options import command_parser, is_setting, location, number

EXAMPLES = """\
examples:
  python -m cluster.evaluate runs/demo                        the newest checkpoint of a run
  python -m cluster.evaluate runs/demo --views 10             four corners, the centre, and their mirror images
  python -m cluster.evaluate runs/demo --json errors.json     the errors as JSON too
  python -m cluster.evaluate runs/demo --checkpoint runs/demo/checkpoints/step-00000500-a1
  python -m cluster.evaluate runs/demo data.path=data/other cluster.device=cpu
  python -m cluster.evaluate runs/a runs/b runs/c --views 10 --weights 1,1,2        each, and their probabilities averaged
  python -m cluster.evaluate runs/demo --by-class --confusion confusion.png         which classes, and taken for which

One run is tested by its columns, as in training. Several, and by class, are tested in one process without Ray, on a GPU if
there is one; their runs must have the same classes and validation set.

exit codes: 0 done, 1 failed, 2 wrong input, 128 + its number if stopped by a signal
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folder of a run, or of one of its checkpoints")
    # For --help alone: what looks like a setting is taken out of the runs.
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that differ from the runs'")
    parser.add_argument(
        "--views", type=int, choices=[1, 10], default=1, help="of each image; probabilities are averaged (default 1)"
    )
    parser.add_argument(
        "--weights",
        type=_numbers,
        metavar="W,W,...",
        help="weight of each network in the mean of probabilities (default: equal)",
    )
    parser.add_argument(
        "--by-class", action="store_true", help="errors of the worst and best classes; of all in the JSON"
    )
    parser.add_argument(
        "--confusion", type=location, metavar="FILE.png", help="draw how often each class is taken for each other one"
    )
    parser.add_argument(
        "--checkpoint", metavar="FOLDER", help="one checkpoint, by folder or URL (default: the run's newest)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the errors to this file as well")
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join a running Ray cluster: auto, or host:port (default: RAY_ADDRESS, if set)",
    )
    args = parser.parse_intermixed_args(argv)
    given = [*args.runs, *args.settings]
    settings = [one for one in given if is_setting(one)]
    runs = [one for one in given if one not in settings]
    if not runs:
        parser.error("give the folder of a run")

    from cluster.entry import run_entry

    return run_entry(lambda: _evaluate(runs, settings, args))


def _evaluate(runs: list[str], settings: list[str], args: argparse.Namespace) -> int:
    from configs.errors import UserError

    if len(runs) == 1 and args.weights is None and not args.by_class and args.confusion is None:
        from cluster.evaluation import run_evaluation

        return run_evaluation(
            runs[0],
            settings,
            views=args.views,
            checkpoint=args.checkpoint,
            json_file=args.json,
            address=args.address,
        )
    from cluster.ensemble import Wanted, run_ensemble

    if args.address is not None:
        raise UserError("--address is for one run alone: several networks, and classes, are tested in one process")
    if args.checkpoint is not None:
        if len(runs) > 1:
            raise UserError(
                "--checkpoint is for one run; of several, name the checkpoints' folders in place of the runs'"
            )
        runs = [args.checkpoint]
    wanted = Wanted(
        views=args.views,
        weights=args.weights,
        by_class=args.by_class,
        confusion=args.confusion,
        json_file=args.json,
    )
    return run_ensemble(runs, settings, wanted)


def _numbers(text: str) -> list[float]:
    return [number(float, 0, 1e6)(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
