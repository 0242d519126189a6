import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs import Run, finished

# Clusters that tests make in this process stay on loopback, which counts only before ray is imported for the first time.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
# Every Ray of the tests has this token, and none is written into the home folder.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture(autouse=True)
def no_run_goes_on() -> Iterator[None]:
    """A test that fails leaves no training behind that would slow down all others."""
    yield
    for run in Run.started:
        if run.process.poll() is None:
            run.kill_tree()
    Run.started.clear()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs of the tests stand, beside one data set that the first of them draws."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> Run:
    """A run from beginning to end, with which disturbed ones are compared."""
    return finished(folder, "undisturbed")


@pytest.fixture(scope="session")
def bold(undisturbed: Run, folder: Path) -> Run:
    """A run of one small step, whose network is sure of itself, mostly wrongly: its answers differ from picture to picture."""
    network = {"activation": "tanh", "convs.conv2.init_bias": 0, "classifier.init_std": 1.0, "denses.fc5.init_std": 0.3}
    network |= {"convs.conv1.init_std": 0.5, "convs.conv3.init_std": 0.3, "convs.conv4.init_std": 0.3}
    settings = [f"network.{name}={value}" for name, value in network.items()]
    rates = ["schedule.stages.0.weights=1e-6", "schedule.stages.0.biases=1e-6"]
    return finished(folder, "bold", "train.steps=1", "train.seed=5", *settings, *rates)
