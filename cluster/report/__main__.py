"""`python -m cluster.report`: the paper's figures and tables from one run or several, beside the paper's own numbers.

Writes report.html, one page that needs no network, with its pictures as PNG files beside it. In one process, without Ray.
"""

import argparse
import sys

from cluster.entry import run_entry
from cluster.options import command_parser, location, number

EXAMPLES = """\
examples:
  python -m cluster.report runs/demo --out report                       then open report/report.html
  python -m cluster.report runs/demo --out report --views 10            figure 4's predictions by ten views
  python -m cluster.report runs/figure1_relu runs/figure1_tanh --out figure1     training errors side by side
  python -m cluster.report runs/original-* runs/no_normalisation-* --out ablations   the first is what others are compared with
  python -m cluster.report runs/original --out report --no-neighbours   without the pass over the training set
  python -m cluster.report runs/original --out report --among 50000     nearest neighbours among so many training images
  python -m cluster.report copied/demo --out report --data /mnt/data    where the data set was moved to

The network's own pictures (figures 3 and 4) are of the first run, by its newest checkpoint; a run may still be going. A folder
of a checkpoint may be named in place of a run's. Errors by ten views are shown if `python -m cluster.evaluate RUN --views 10`
has been run before. What each number means stands on the page, and in docs/report.md.

exit codes: 0 done, 2 wrong input, 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("report", __doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "runs", nargs="+", type=location, metavar="RUN", help="folders of runs; the first is drawn, the others compared"
    )
    add("--out", type=location, required=True, metavar="DIR", help="folder for report.html and the pictures")
    add("--views", type=int, choices=[1, 10], default=1, help="of each image in figure 4's predictions (default 1)")
    add("--no-neighbours", action="store_true", help="leave out figure 4's nearest training images, which take longest")
    add(
        "--among",
        type=number(int, 6, 10**9),
        metavar="N",
        help="look for nearest neighbours among N training images, evenly spread (default: all)",
    )
    add("--seed", type=number(int, 0, 2**31), default=0, help="of the choice of figure 4's images (default 0)")
    add("--data", metavar="DIR", help="the data set, if it is not where the first run's config says")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one (default)")
    add("--batch", type=number(int, 1, 10**5), default=128, metavar="N", help="images computed at once (default 128)")
    args = parser.parse_args(argv)
    return run_entry(lambda: _report(args), if_interrupted="report.html was not written", leaves_files=True)


def _report(args: argparse.Namespace) -> int:
    from cluster.report.making import Wanted, run_report

    wanted = Wanted(
        out=args.out,
        views=args.views,
        neighbours=not args.no_neighbours,
        among=args.among,
        seed=args.seed,
        data=args.data,
        device=args.device,
        batch=args.batch,
    )
    return run_report(args.runs, wanted)


if __name__ == "__main__":
    sys.exit(main())
