from pathlib import Path

import pytest

from tests.cluster.runs import Run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs of the tests stand, beside one data set that the first of them draws."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> Run:
    """A run from beginning to end, with which disturbed ones are compared."""
    run = Run(folder, "undisturbed")
    assert run.finish() == 0, run.text
    return run
