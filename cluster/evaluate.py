"""`python -m cluster.evaluate`: top-1 and top-5 error of a run's network on the validation set, by the centre or ten views."""

import argparse
import sys

EXAMPLES = """\
examples:
  python -m cluster.evaluate runs/demo                        the newest checkpoint of a run
  python -m cluster.evaluate runs/demo --views 10             four corners, the centre, and their mirror images
  python -m cluster.evaluate runs/demo --json errors.json     the errors as JSON too
  python -m cluster.evaluate runs/demo --checkpoint runs/demo/checkpoints/step-00000500-a1
  python -m cluster.evaluate runs/demo data.path=data/other cluster.device=cpu

exit codes: 0 done, 1 failed, 2 wrong input, 130 or 143 stopped by a signal
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m cluster.evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that differ from the run's")
    parser.add_argument(
        "--views", type=int, choices=[1, 10], default=1, help="of each image; probabilities are averaged (default 1)"
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

    from cluster.entry import run_entry
    from cluster.evaluation import run_evaluation

    return run_entry(
        lambda: run_evaluation(
            args.run,
            args.settings,
            views=args.views,
            checkpoint=args.checkpoint,
            json_file=args.json,
            address=args.address,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
