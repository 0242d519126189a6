"""`python -m cluster.runs`: what has become of the runs in a folder; needs no Ray."""

import sys

from cluster.options import command_parser

EXAMPLES = """\
examples:
  python -m cluster.runs                       the runs in runs/: state, step, errors, speed, where
  python -m cluster.runs /scratch/runs         those in another folder
  python -m cluster.runs show demo             all that is known of one run; a name in runs/, or a folder
  python -m cluster.runs show /scratch/runs/wide --json
  python -m cluster.runs --json                one JSON object per run

states: running; complete (it came to the end of its program); stopped (by a signal: the same command goes on); failed (it
ended with an error, or its process is gone without a word). A run on another machine is taken to be running as long as its
log grows.
exit codes: 0 done, 2 wrong input
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser(
        "runs",
        __doc__,
        EXAMPLES,
        usage="python -m cluster.runs [--json] [FOLDER]\n       python -m cluster.runs show [--json] RUN",
    )
    parser.add_argument("what", nargs="*", metavar="FOLDER", help="whose runs are listed (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_intermixed_args(argv)
    what = args.what or ["runs"]
    if len(what) != (2 if what[0] == "show" else 1):
        parser.error("give one folder, or `show` and one run")

    from cluster.entry import run_entry
    from cluster.run_tables import list_runs, show_run

    if what[0] == "show":
        return run_entry(lambda: show_run(what[1], as_json=args.json))
    return run_entry(lambda: list_runs(what[0], as_json=args.json))


if __name__ == "__main__":
    sys.exit(main())
