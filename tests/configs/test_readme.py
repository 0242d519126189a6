"""configs/README.md and the headers of the files against what the configs are."""

import re
from pathlib import Path

import pytest

from cluster.plan import make_plan
from configs.loader import BUILT_IN, built_in, load

README = (BUILT_IN / "README.md").read_text(encoding="utf-8")
ROWS = {
    cells[0]: cells
    for line in README.splitlines()
    if line.startswith("| ") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 7
    if cells[0] not in ("config", "---")
}


def header(file: Path) -> str:
    """The comment at the top, as one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    top = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").strip() for line in top)


def test_every_config_has_its_row_and_every_row_its_config() -> None:
    assert sorted(ROWS) == sorted(file.stem for file in built_in())
    assert README.count("\n| ") == len(ROWS) + 2 * README.count("| config |"), (
        "a row is there twice, or has lost a cell"
    )


@pytest.mark.parametrize("file", built_in(), ids=lambda file: file.stem)
def test_row_and_header(file: Path) -> None:
    """What to expect, how long it takes, and a command that names this file; and the run has the file's name."""
    _, what, source, error, parameters, macs, command = ROWS[file.stem]
    config, top = load(file), header(file)
    made = make_plan(config, 0, None)
    assert (parameters, macs) == (f"{made.parameters:,}", f"{made.macs:,}")
    assert command == f"`python -m cluster.train {file.name}`"
    assert what and source and error
    assert "Expected" in top and "Hardware and time" in top
    command = "python -m cluster.train" + ("" if file.stem == "demo" else f" {file.name}")
    assert re.search(rf"Run: +{re.escape(command)}(?![\w.])", top)
    assert config.name == file.stem
    # Each number of the table's errors stands in the header too, rounded or not.
    for number in re.findall(r"\d+\.\d+", error):
        assert number in top, number


def test_numbers_that_the_sources_give() -> None:
    """The one-GPU net's by hand from layers-145-half.cfg; the two-column net's in test_geometry.py."""
    conv = {
        "conv1": (48, 3 * 11**2, 55**2),
        "conv2": (128, 48 * 5**2, 27**2),
        "conv3": (192, 128 * 3**2, 13**2),
        "conv4": (192, 192 * 3**2, 13**2),
        "conv5": (256, 192 * 3**2, 13**2),
    }
    dense = {"fc6": (4096, 256 * 6**2, 1), "fc7": (4096, 4096, 1), "fc8": (1000, 4096, 1)}
    layers = [*conv.values(), *dense.values()]
    parameters = sum(maps * (inputs + 1) for maps, inputs, _ in layers)
    macs = sum(maps * inputs * positions for maps, inputs, positions in layers)
    assert (parameters, macs) == (59_798_312, 391_514_384)
    made = make_plan(load("one_gpu"), 0, None)
    assert (made.parameters, made.macs) == (parameters, macs)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        # After each layer and each pooling; the authors' layers-147.cfg has 28, 26, 13, 11, 6 after conv1's 55.
        ("non_overlapping_pooling", "55/28/26/13/13/13/11/6"),
        ("six_convs", "55/27/27/13/13/13/13/6/6"),
        ("no_conv5", "55/27/27/13/13/13/6"),
        ("caffe", "55/27/27/13/13/13/13/6"),
        ("cifar10_13pct", "24/12/12/6/6/6"),
    ],
)
def test_sides_of_maps(name: str, sides: str) -> None:
    found = []
    for layer in make_plan(load(name), 0, None).table:
        if layer.kind == "conv":
            found += [layer.side] if layer.side == layer.final_side else [layer.side, layer.final_side]
    assert "/".join(map(str, found)) == sides


def test_local_layers_count_every_position() -> None:
    """layers-conv-local-13pct.cfg: 32 maps of 6x6, each position of each with 3x3 weights over 64 or 32 maps, and a bias."""
    table = {layer.name: layer for layer in make_plan(load("cifar10_13pct"), 0, None).table}
    assert table["local3"].parameters == 36 * 32 * (64 * 9 + 1)
    assert table["local4"].parameters == 36 * 32 * (32 * 9 + 1)
    assert table["local3"].macs == 36 * 32 * 64 * 9
    assert table["classifier"].parameters == 10 * (32 * 36 + 1)


def test_no_exchange_and_the_split_classifier() -> None:
    quiet = {layer.name for layer in make_plan(load("no_exchange"), 0, None).table if layer.exchanged_floats}
    assert quiet == {"classifier"}
    fall = make_plan(load("fall2011"), 0, None)
    # 21,843 classes over two columns, each seeing 2,048 linear units (layers-146-2011.cfg).
    shares = [fall.column_parameters(column) for column in (0, 1)]
    assert shares[0] - shares[1] == 2048 + 1
