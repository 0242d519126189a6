"""The whole system, run as people run it: the same weights whatever happens on the way, or a clear end."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster.evaluations import ERRORS
from tests.cluster.runs import SMALL, Run, alive, running_cluster

TRAINING_IMAGES = 30 * 200
# 1,200 training images, so an evaluation every 12 steps, and one at the end.
EVALUATIONS, VALIDATION_IMAGES = 3, 210


def test_run_ends_with_errors_paths_and_the_planned_data(undisturbed: Run) -> None:
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


@pytest.mark.slow
def test_demo_learns(folder: Path) -> None:
    run = Run(folder, "demo", arguments=("demo.yaml",))
    assert run.finish(400) == 0, run.text
    # Chance is 90 %.
    assert run.result()["validation"]["top1_error"] <= 0.15
    assert run.result()["validation"]["images"] == 1000


def test_without_a_compiler_it_trains_and_says_so_and_in_bf16_too(
    undisturbed: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # lest it find what was compiled before
    run = Run(folder, "bf16", "compute.fused=true", "compute.precision=bf16", "train.steps=3")
    assert run.finish() == 0, run.text
    told = [
        line for line in run.text.splitlines() if line.startswith("note: response norm runs unfused, which is slower")
    ]
    assert len(told) == 1 and "compute.fused=false" in told[0], run.text
    losses, whole = _losses(run), _losses(undisturbed)
    assert losses.keys() == {1, 2, 3}
    assert all(loss == pytest.approx(whole[step], rel=0.02) and loss != whole[step] for step, loss in losses.items())


def test_second_command_says_that_the_run_is_complete(undisturbed: Run, folder: Path) -> None:
    again = Run(folder, "undisturbed")
    assert again.finish(30) == 0
    assert "this run is complete" in again.text
    assert "name=undisturbed-2" in again.text


def test_same_seed_gives_the_same_weights_also_with_more_data_workers(undisturbed: Run, folder: Path) -> None:
    run = Run(
        folder,
        "three-data-workers",
        "cluster.data_workers=3",
        "cluster.cpus_per_data_worker=0.5",
        "cluster.replicas=auto",
    )
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()


def test_killed_tree_and_same_command_give_the_same_weights(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "killed", "cluster.data_workers=auto")
    run.wait_for_step(13)
    processes = run.descendants()
    run.kill_tree()
    assert run.last_step() < 30, "it was killed too late to show anything"
    assert not alive(processes)
    again = Run(folder, "killed")
    assert again.finish() == 0, again.text
    assert "continuing from" in again.text
    assert again.weights() == undisturbed.weights()


def test_dead_data_worker_changes_nothing_and_is_said_in_one_line(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "dead-data-worker")
    run.wait_for_step(5)
    _kill(run.pid_of("data worker r0 #0"))
    assert run.finish() == 0, run.text
    assert run.weights() == undisturbed.weights()
    told = [line for line in run.text.splitlines() if "died" in line]
    assert len(told) == 1
    assert told[0].startswith("data worker r0 #0 died")
    assert run.result()["feeds"][0]["repeated"] >= 1


@pytest.mark.parametrize("when", [9, None], ids=["in training", "while starting"])
def test_ctrl_c_saves_leaves_nothing_running_and_the_same_command_goes_on(
    undisturbed: Run, folder: Path, when: int | None
) -> None:
    name = f"ctrl-c-{when}"
    run = Run(folder, name)
    if when is None:
        while not run.descendants():
            time.sleep(0.05)
        time.sleep(3)
    else:
        run.wait_for_step(when)
    processes = run.descendants()
    run.interrupt()
    assert run.finish(30) == 130, run.text
    assert not alive(processes)
    assert "Traceback" not in run.text
    if when is None:
        return
    assert "stopped after step" in run.text
    again = Run(folder, name)
    assert again.finish() == 0, again.text
    assert again.weights() == undisturbed.weights()


def test_a_closed_terminal_is_a_stop_and_nothing_that_is_said_on_the_way_ends_a_run(
    undisturbed: Run, folder: Path
) -> None:
    with open("/dev/full", "w") as full:
        run = Run(folder, "terminal", stdout=subprocess.PIPE, stderr=full)
    assert run.process.stdout is not None
    run.process.stdout.readline()
    run.process.stdout.close()  # as `| head -1`, or Ctrl-C that ends `| tee` as well
    run.wait_for_step(3)
    processes = run.descendants()
    run.interrupt(signal.SIGHUP)  # to the driver, Ray and all actors
    os.kill(run.process.pid, signal.SIGHUP)  # and once more by the shell
    assert run.finish(60) == 128 + signal.SIGHUP
    assert not alive(processes)
    end = json.loads((run.folder / "log.jsonl").read_text().splitlines()[-1])
    assert (end["kind"], end["ended"]) == ("end", "stopped") and 3 <= end["step"] < 30
    again = Run(folder, "terminal")
    assert again.finish() == 0, again.text
    assert again.weights() == undisturbed.weights()


def test_two_replicas_of_two_columns_learn_the_same(undisturbed: Run, folder: Path) -> None:
    run = Run(folder, "two-by-two", "cluster.replicas=2", "train.steps=12")
    assert run.finish() == 0, run.text
    ours, theirs = _losses(run), _losses(undisturbed)
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


def test_evaluate_finds_the_errors_that_training_reported(undisturbed: Run, folder: Path) -> None:
    report = folder / "errors.json"
    run = Run(folder, "evaluate", module="evaluate", arguments=(str(undisturbed.folder), "--json", str(report)))
    assert run.finish(60) == 0, run.text
    errors = json.loads(report.read_text())
    expected = {key: undisturbed.result()["validation"][key] for key in ERRORS}
    [member] = errors["members"]
    assert {key: errors[key] for key in ERRORS} == {key: member[key] for key in ERRORS} == expected
    assert member["updates"] == 30
    assert "top-5 error" in run.text


def test_evaluate_by_ten_views(undisturbed: Run, folder: Path) -> None:
    report = folder / "ten.json"
    arguments = (str(undisturbed.folder), "--views", "10", "--json", str(report))
    run = Run(folder, "ten", module="evaluate", arguments=arguments)
    assert run.finish(60) == 0, run.text
    errors, centre = json.loads(report.read_text()), undisturbed.result()["validation"]
    assert (errors["views"], errors["images"]) == (10, centre["images"])
    assert "ten views" in run.text
    # Other pixels, the same network: near, and not the same.
    assert errors["loss"] != centre["loss"] and errors["loss"] == pytest.approx(centre["loss"], rel=0.2)


def _losses(run: Run) -> dict[int, float]:
    reports = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return {report["step"]: report["loss"] for report in reports if report["kind"] == "train"}


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_joins_a_running_cluster_and_leaves_it_running(undisturbed: Run, folder: Path) -> None:
    with running_cluster(folder, cpus=4) as (address, cluster):
        run = Run(folder, "joined", arguments=(str(SMALL), "name=joined", "--address", address))
        assert run.finish() == 0, run.text
        assert run.weights() == undisturbed.weights()
        assert cluster.poll() is None
        # The actors are gone, so the cluster has room for another run; this one asks for more than there is.
        arguments = (
            str(SMALL),
            "name=crowded",
            "--address",
            address,
            "cluster.replicas=4",
            "cluster.start_timeout_seconds=5",
        )
        crowded = Run(folder, "crowded", arguments=arguments)
        assert crowded.finish(60) == 2
        assert "error: 1 thing(s) are wrong with the cluster; nothing was started:" in crowded.text
        [told] = [line for line in crowded.text.splitlines() if line.startswith("  room: ")]
        assert "4 replica(s) of 2 CPU(s) each, on one node, do not fit: 127.0.0.1 has 4 CPU(s)" in told
        assert "use fewer cluster.replicas" in told.lower()
