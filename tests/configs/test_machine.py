"""Descriptions of machines: read, refused with the field named, and kept."""

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.machine import FOLDER, built_in_machines, load_machine


def test_built_in_ones_are_whole_and_say_where_they_are_from() -> None:
    assert {"a100", "cpu", "gtx580", "h100", "h200"} <= set(built_in_machines())
    for name in built_in_machines():
        machine = load_machine(name)
        assert machine.source and machine.date
        text = (FOLDER / f"{name}.yaml").read_text()
        assert text.startswith("#")
        assert machine.measured or "NOT MEASURED HERE" in text


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("watts_per_node:", "watts_per_nodes:", "watts_per_nodes: no such field; did you mean `watts_per_node`?"),
        ("microseconds: 10}", "microsecond: 10}", "did you mean `microseconds`?"),
        ("conv: 0.3", "conv: -1", "efficiency.conv: input should be greater than 0, not -1"),
        ("devices_per_node: 8", "devices_per_node: eight", "devices_per_node: "),
        ("date: 2024-12", "", "date: is missing; set it"),
        ("gflops: {fp32", "gflops: {fp16", "gflops.fp16"),
        ("name:", "name", "not valid YAML"),
    ],
)
def test_mistakes_are_told_with_their_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = (FOLDER / "h100.yaml").read_text()
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new, 1) if old != "name:" else text.replace("\nname:", "\nname", 1))
    with pytest.raises(UserError) as error:
        load_machine(file)
    assert told in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"did you mean h200\? The built-in ones are a100, cpu"):
        load_machine("h20")
