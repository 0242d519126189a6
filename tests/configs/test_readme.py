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


def test_no_exchange_and_the_split_classifier() -> None:
    quiet = {layer.name for layer in make_plan(load("no_exchange"), 0, None).table if layer.exchanged_floats}
    assert quiet == {"classifier"}
    fall = make_plan(load("fall2011"), 0, None)
    # 21,843 classes over two columns, each seeing 2,048 linear units (layers-146-2011.cfg).
    shares = [fall.column_parameters(column) for column in (0, 1)]
    assert shares[0] - shares[1] == 2048 + 1
