"""The whole system, run as people run it: the same weights whatever happens on the way, or a clear end."""

import json
import os
import signal
from pathlib import Path

import pytest

from cluster.prepare import main as prepare
from tests.cluster.runs import SMALL, Run, alive, running_cluster

TRAINING_IMAGES = 30 * 200
# 1,200 training images, so an evaluation every 12 steps, and one at the end.
EVALUATIONS, VALIDATION_IMAGES = 3, 210


def losses(run: Run) -> dict[int, float]:
    reports = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return {report["step"]: report["loss"] for report in reports if report["kind"] == "train"}


def test_run_ends_with_errors_paths_and_the_planned_data(undisturbed: Run, folder: Path) -> None:
    result = undisturbed.result()
    assert result["step"] == 30
    assert result["validation"]["images"] == VALIDATION_IMAGES
    assert 0.0 < result["validation"]["top5_error"] < result["validation"]["top1_error"] <= 1.0
    for words in ("top-1 error", "checkpoint", str(Path("runs/undisturbed/log.jsonl")), "python -m cluster.evaluate"):
        assert words in undisturbed.text
    # One decode per image, though two columns read every batch.
    [feed] = result["feeds"]
    assert feed["decoded"] == TRAINING_IMAGES + EVALUATIONS * VALIDATION_IMAGES
    assert feed["batches"] == 30 + EVALUATIONS * 4
    assert feed["repeated"] == 0
    assert feed["batches_held"] <= 5  # cluster.window_batches with one data worker
    again = Run(folder, "undisturbed")
    assert again.finish(60) == 0
    assert "this run is complete" in again.text and "name=undisturbed-2" in again.text


@pytest.mark.ci
def test_demo_learns(folder: Path) -> None:
    run = Run(folder, "demo", arguments=("demo.yaml",))
    assert run.finish(400) == 0, run.text
    # Chance is 90 %.
    assert run.result()["validation"]["top1_error"] <= 0.15
    assert run.result()["validation"]["images"] == 1000


@pytest.mark.ci
def test_without_a_compiler_it_trains_and_says_so_and_in_bf16_too(
    undisturbed: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # lest it find what was compiled before
    run = Run(folder, "bf16", "compute.fused=true", "compute.precision=bf16", "train.steps=3")
    assert run.finish() == 0, run.text
    [told] = [line for line in run.text.splitlines() if line.startswith("note: response norm runs unfused, which is")]
    assert "compute.fused=false" in told
    ours, whole = losses(run), losses(undisturbed)
    assert ours.keys() == {1, 2, 3}
    assert all(loss == pytest.approx(whole[step], rel=0.02) and loss != whole[step] for step, loss in ours.items())


def test_three_data_workers_and_a_data_set_at_a_url_give_the_same_weights(
    undisturbed: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Uploaded by the command line; each data worker takes half a CPU, and the only replica is `auto`'s."""
    url = f"file://{tmp_path / 'bucket'}"
    assert prepare(["upload", str(folder / "data" / "small"), url]) == 0
    assert f"data.path={url}" in capsys.readouterr().out
    workers = ("cluster.data_workers=3", "cluster.cpus_per_data_worker=0.5", "cluster.replicas=auto")
    run = Run(folder, "by-url", *workers, f"data.path={url}", f"data.cache_folder={tmp_path / 'cache'}")
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    assert list((tmp_path / "cache").rglob("*.arrow")), "trained without the cache"


def test_killed_tree_and_same_command_give_the_same_weights(undisturbed: Run, folder: Path) -> None:
    """Before, a data worker dies, which is said in one line."""
    run = Run(folder, "killed", "cluster.data_workers=auto")
    run.wait_for_step(3)
    os.kill(run.pid_of("data worker r0 #0"), signal.SIGKILL)
    run.wait_for_step(13)
    processes = run.descendants()
    run.kill_tree()
    assert run.last_step() < 30, "it was killed too late to show anything"
    assert not alive(processes)
    [died] = [line for line in run.text.splitlines() if "died" in line]
    assert died.startswith("data worker r0 #0 died")
    again = Run(folder, "killed")
    assert again.finish() == 0, again.text
    assert "continuing from" in again.text
    assert again.weights() == undisturbed.weights()


@pytest.mark.parametrize("when", ["in training", "while starting"])
def test_ctrl_c_saves_leaves_nothing_running_and_the_same_command_goes_on(
    undisturbed: Run, folder: Path, when: str
) -> None:
    run = Run(folder, f"ctrl-c {when}")
    if when == "in training":
        run.wait_for_step(9)
    else:
        run.wait_for(lambda: any("raylet" in process.name() for process in run.descendants()))
    processes = run.descendants()
    run.interrupt()
    assert run.finish(60) == 130, run.text
    assert not alive(processes)
    assert "Traceback" not in run.text
    if when == "in training":
        assert "stopped after step" in run.text
        again = Run(folder, f"ctrl-c {when}")
        assert again.finish() == 0, again.text
        assert again.weights() == undisturbed.weights()


def test_two_replicas_of_two_columns_learn_the_same(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "two-by-two", "cluster.replicas=2", "train.steps=12")
    assert run.finish() == 0, run.text
    ours, theirs = losses(run), losses(undisturbed)
    # The same images and masks at every step, in float32 sums of another order.
    assert max(abs(ours[step] - theirs[step]) for step in range(1, 13)) < 1e-4
    assert run.result()["validation"]["images"] == VALIDATION_IMAGES
    # Its checkpoint is the same network in one replica, and in one process without Ray.
    for name, arguments in (("as-1x2", ("cluster.replicas=1",)), ("alone", ("--by-class",))):
        report = folder / f"{name}.json"
        again = Run(folder, name, module="evaluate", arguments=(str(run.folder), "--json", str(report), *arguments))
        assert again.finish(90) == 0, again.text
        errors, expected = json.loads(report.read_text()), run.result()["validation"]
        assert errors["images"] == expected["images"] and errors["top1_error"] == expected["top1_error"]
        assert errors["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_finds_the_errors_that_training_reported(undisturbed: Run, folder: Path, views: int) -> None:
    report, centre = folder / f"errors-{views}.json", undisturbed.result()["validation"]
    arguments = (str(undisturbed.folder), "--json", str(report), "--views", str(views))
    run = Run(folder, "evaluate", module="evaluate", arguments=arguments)
    assert run.finish(90) == 0, run.text
    errors = json.loads(report.read_text())
    assert (errors["views"], errors["images"]) == (views, centre["images"])
    assert "top-5 error" in run.text and ("ten views" in run.text) == (views == 10)
    if views == 1:
        assert {key: errors[key] for key in centre} == centre
    else:  # other pixels, the same network: near, and not the same
        assert errors["loss"] != centre["loss"] and errors["loss"] == pytest.approx(centre["loss"], rel=0.2)


def test_joins_a_running_cluster_and_leaves_it_running(undisturbed: Run, folder: Path) -> None:
    with running_cluster(folder, cpus=4) as (address, cluster):
        run = Run(folder, "joined", arguments=(str(SMALL), "name=joined", "--address", address))
        assert run.finish() == 0, run.text
        assert run.weights() == undisturbed.weights()
        assert cluster.poll() is None
        # The actors are gone, so the cluster has room for another run; this one asks for more than there is.
        more = ("cluster.replicas=4", "cluster.start_timeout_seconds=5")
        crowded = Run(folder, "crowded", arguments=(str(SMALL), "name=crowded", "--address", address, *more))
        assert crowded.finish(90) == 2
        assert "error: 1 thing(s) are wrong with the cluster; nothing was started:" in crowded.text
        [told] = [line for line in crowded.text.splitlines() if line.startswith("  room: ")]
        assert "4 replica(s) of 2 CPU(s) each, on one node, do not fit: 127.0.0.1 has 4 CPU(s)" in told
        assert "use fewer cluster.replicas" in told.lower()
