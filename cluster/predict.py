"""`python -m cluster.predict`: what a trained network takes pictures for. In one process, without Ray."""

import argparse
import sys

from cluster.entry import run_entry
from cluster.options import command_parser, location, number

EXAMPLES = """\
examples:
  python -m cluster.predict runs/demo photo.jpg                 by the newest checkpoint of a run
  python -m cluster.predict runs/demo holiday/ cat.png --top 3  folders are searched, with all folders in them
  python -m cluster.predict runs/demo photo.jpg --views 10      mean over four corners, the centre, and their mirror images
  python -m cluster.predict model.safetensors photo.jpg         by a file that `python -m cluster.export` wrote
  python -m cluster.predict runs/demo holiday/ --json           one JSON object; --json out.json writes it to a file

Pictures are decoded and scaled as `python -m cluster.prepare` does it, so the network sees what it saw in training.

exit codes: 0 done, 1 some pictures could not be read (the others are printed), 2 wrong input, 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("predict", __doc__, EXAMPLES)
    add = parser.add_argument
    add("network", metavar="NETWORK", help="folder of a run or a checkpoint, or an exported .safetensors")
    add("pictures", nargs="+", type=location, metavar="PICTURE", help="picture files, and folders of them")
    add("--views", type=int, choices=[1, 10], default=1, help="of each picture; probabilities are averaged (default 1)")
    add(
        "--top",
        type=number(int, 1, 10**6),
        default=5,
        metavar="K",
        help="classes to name, most probable first (default 5)",
    )
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="JSON in place of the table, or into FILE (must end in .json)",
    )
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one (default)")
    add("--batch", type=number(int, 1, 10**5), default=64, metavar="N", help="pictures computed at once (default 64)")
    add("--exif-orientation", action="store_true", help="turn photos as their EXIF data says (default: as stored)")
    add("--data", metavar="DIR", help="the data set, if the run's folder does not keep its class names")
    args = parser.parse_args(argv)
    return run_entry(lambda: _predict(args))


def _predict(args: argparse.Namespace) -> int:
    from cluster.prediction import run_prediction

    return run_prediction(
        args.network,
        args.pictures,
        views=args.views,
        top=args.top,
        json_file=args.json,
        device=args.device,
        batch=args.batch,
        apply_orientation=args.exif_orientation,
        data=args.data,
    )


if __name__ == "__main__":
    sys.exit(main())
