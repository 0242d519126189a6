"""A small config as a file, and what is said of one that is refused."""

from pathlib import Path

import pytest

from configs.errors import UserError
from configs.loader import load

SMALL = """
name: small
network:
  classes: 4
  input_size: 12
  convs:
    conv1: {maps: 8, kernel: 3}
    conv2: {maps: 8, kernel: 3}
data: {path: data/small}
schedule: {kind: stages, stages: [{from_epoch: 0, weights: 1e-2, biases: 2e-2}]}
train: {epochs: 2}
"""


def written(folder: Path, name: str, text: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(file: Path | str | None, *overrides: str) -> list[str]:
    """The lines of the message, without indentation."""
    with pytest.raises(UserError) as caught:
        load(file, overrides)
    return [line.strip() for line in str(caught.value).splitlines()]
