"""`python -m cluster.export`: a trained network as one file, for other programs: .safetensors, .onnx or .pt2."""

import sys
from pathlib import Path

from cluster.entry import run_entry
from cluster.options import command_parser, location
from cluster.paths import check_file
from configs.errors import UserError

EXAMPLES = """\
examples:
  python -m cluster.export runs/demo --to demo.safetensors      python -m cluster.predict demo.safetensors photo.jpg reads it
  python -m cluster.export runs/demo --to demo.onnx             for onnxruntime and others; needs pip install -e '.[export]'
  python -m cluster.export runs/demo --to demo.pt2              torch.export.load("demo.pt2").module(), where there is only torch
  python -m cluster.export runs/demo/checkpoints/step-00000500-a1 --to half.onnx
  python -m cluster.export demo.safetensors --to demo.onnx

All hold the testing form: in go float32 images [N, 3, S, S], preprocessed as the file itself says (`input` in its metadata), out
come logits [N, classes]. N may be any number. Each file is read again and its logits are compared before it gets its name.

In Python, weights go into torch's own modules without a file:
alexnet.export.plain_module(cluster.network.load_network("runs/demo").model).

exit codes: 0 done, 1 the exported network differs from ours, 2 wrong input
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_parser("export", __doc__, EXAMPLES)
    parser.add_argument(
        "network", metavar="NETWORK", help="folder of a run or a checkpoint, or an exported .safetensors"
    )
    parser.add_argument(
        "--to", type=location, required=True, metavar="FILE", help="ends in .safetensors, .onnx or .pt2"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--data", metavar="DIR", help="the data set, if the run's folder does not keep its class names")
    args = parser.parse_args(argv)
    return run_entry(
        lambda: _export(args.network, args.to, overwrite=args.overwrite, data=args.data), leaves_files=True
    )


def _export(source: str, to: Path, *, overwrite: bool, data: str | None) -> int:
    from cluster import exported
    from cluster.network import load_network

    writers = {".safetensors": "write_safetensors", ".onnx": "write_onnx", ".pt2": "write_pt2"}
    if to.suffix not in writers:
        raise UserError(f"--to {to} must end in one of {', '.join(writers)}")
    if to.exists() and not overwrite:
        raise UserError(f"{to} is there already; give another name, or --overwrite")
    check_file(to, "--to")
    loaded = load_network(source, [] if data is None else [f"data.path={data}"], device="cpu")
    difference = getattr(exported, writers[to.suffix])(loaded, to)
    print(f"network      {loaded.source}, after step {loaded.updates:,}")
    print(f"written      {to}, {to.stat().st_size / 1e6:,.1f} MB")
    print(f"input        {exported.input_in_words(loaded)}")
    print(f"output       {exported.describe(loaded)['output']}")
    print(
        f"checked      read again: logits differ by {difference:.2g} at most; {exported.TOLERANCE:g} of the largest logit is "
        "allowed, for float32 sums taken in another order"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
