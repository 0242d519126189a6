"""`python -m cluster.timeline`: a picture of one profiled training step, all columns on one clock."""

import sys

from cluster.options import command_parser

EXAMPLES = """\
examples:
  python -m cluster.train original.yaml train.profile_steps=[100,105]     writes the trace on the way
  python -m cluster.timeline runs/original --out step.png
  python -m cluster.timeline runs/original --out step.svg --step 103

The whole trace is RUN/profile/trace.json.gz; open it at https://ui.perfetto.dev or chrome://tracing.
exit codes: 0 done, 2 wrong input
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("timeline", __doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", help="folder of a run that was profiled (train.profile_steps)")
    parser.add_argument("--out", metavar="FILE", required=True, help="picture to write: .png, .svg or .pdf")
    parser.add_argument("--step", type=int, metavar="N", help="which of the profiled steps (default: the middle one)")
    args = parser.parse_args(argv)

    from cluster.entry import run_entry
    from cluster.timeline_picture import draw_timeline

    return run_entry(lambda: draw_timeline(args.run, args.out, args.step), leaves_files=True)


if __name__ == "__main__":
    sys.exit(main())
