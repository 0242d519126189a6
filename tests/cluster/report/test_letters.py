"""Class names in pictures: no boxes, and no warnings."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from cluster.class_errors import draw_confusion
from cluster.report.letters import drawable

NO_LETTER = "\U0010fffd"


def test_a_name_without_a_font_is_its_number_with_a_legend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["cat", "собака", f"a {NO_LETTER}"]
    assert drawable(names) == ["cat", "собака", "class 2"]
    with warnings.catch_warnings(action="error"):
        draw_confusion(names, np.eye(3, dtype=np.int64), tmp_path / "c.png")
    assert f"note: class 2 in {tmp_path / 'c.png'} is a {NO_LETTER}" in capsys.readouterr().err
