"""Real runs whose private Ray is told to stop with everything else, or dies: nothing is lost, and no process is left."""

import resource
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster import own_ray
from configs.errors import UserError
from tests.cluster.runs import Run, alive


@pytest.mark.parametrize("killed", [False, True])
def test_a_stop_is_the_drivers(undisturbed: Run, folder: Path, killed: bool) -> None:
    """Sent to all, as systemd does, and scancel; or to it alone, when its Ray is killed."""
    run = Run(folder, f"stop-{killed}", "train.steps=2000", "checkpoint.every_steps=2")
    run.wait_for_step(5, 240)
    driver, processes = psutil.Process(run.process.pid), run.descendants()
    for process in [*processes, driver] if killed else [driver, *processes]:
        with suppress(psutil.NoSuchProcess):
            process.kill() if killed and process != driver else process.terminate()
    assert run.finish() == 128 + signal.SIGTERM, run.text
    assert not alive(processes)
    assert "the last checkpoint is" in run.text and "Traceback" not in run.text
    assert ("stopped after step" in run.text) != killed


@pytest.mark.parametrize(
    "part", [own_ray.PARTS[0], *(pytest.param(one, marks=pytest.mark.ci) for one in own_ray.PARTS[1:])]
)
def test_a_private_ray_that_dies_is_started_anew(undisturbed: Run, folder: Path, part: str) -> None:
    run = Run(folder, f"no-{part}")
    run.wait_for_step(3, 240)
    processes = run.descendants()
    [one] = [process for process in processes if process.name() == part]
    one.kill()
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    assert f"the Ray that this run started died ({part}: killed by signal 9 (SIGKILL))" in run.text
    assert run.result()["attempts"] == 2
    assert not alive(processes)


def test_too_few_open_files_are_an_error_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 200))
    with pytest.raises(UserError, match=r"Ray needs 272 open files per process here, and a process may open 200"):
        own_ray.begin(lambda: pytest.fail("Ray was started"), 2)
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    own_ray._need_files(272)
    assert raised == [(272, 4096)]
