"""A data set goes to a URL by the command line, and training from there learns the same."""

from pathlib import Path

import pytest

from cluster.prepare import main
from tests.cluster.runs import Run


def test_training_from_a_url_gives_the_same_weights(
    undisturbed: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path / 'bucket'}"
    assert main(["upload", str(folder / "data" / "small"), url]) == 0
    assert f"data.path={url}" in capsys.readouterr().out
    run = Run(folder, "by-url", f"data.path={url}", f"data.cache_folder={tmp_path / 'cache'}")
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    assert list((tmp_path / "cache").rglob("*.arrow")), "trained without the cache"


def test_nothing_to_upload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upload", str(tmp_path / "nowhere"), f"file://{tmp_path / 'bucket'}"]) == 2
    assert "no data set at" in capsys.readouterr().err
    assert not (tmp_path / "bucket").exists()
