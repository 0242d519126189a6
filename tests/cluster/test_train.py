"""The whole system, run as people run it: the same weights whatever happens on the way, or a clear end."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from cluster.dataset import dataset_size
from cluster.evaluations import ERRORS
from cluster.group import WorkerGroup
from cluster.plan import make_plan
from cluster.prepare import main as prepare
from cluster.ray_session import ray_session
from cluster.run_state import that_count
from configs.loader import load
from tests.cluster.runs import SMALL, Run, alive, finished, losses, running_cluster
from tests.cluster.test_metrics import scalars
from tests.whole.paper import Paper
from tests.whole.playing import pictures, stored
from workers.reports import from_json

TRAINING_IMAGES = 30 * 200
# 1,200 training images, so an evaluation every 12 steps, and one at the end.
EVALUATIONS, VALIDATION_IMAGES = 3, 210


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


@pytest.fixture(scope="module")
def by_hand(undisturbed: Run, folder: Path) -> Paper:
    """The same run, of 30 updates and three evaluations, in float64."""
    config = load(undisturbed.folder / "config.yaml")
    return Paper(config, pictures(folder / config.data.path)).go()


def near(errors: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """As float32 allows. An image of which two classes are all but equally probable may fall to either side."""
    rounded = {name: (1e-6, 0.011 * name.endswith("_error")) for name, value in expected.items() if name != "kind"}
    return all(errors[name] == pytest.approx(expected[name], rel=r, abs=a) for name, (r, a) in rounded.items())


def test_run_over_ray_is_the_one_by_hand(undisturbed: Run, by_hand: Paper) -> None:
    found = [report for report in undisturbed.reports() if report["kind"] in ("train", "evaluation")]
    for report, expected in zip(found, by_hand.reports, strict=True):
        assert report["kind"] == expected["kind"] and near(report, expected), (report, expected)
    tensors = by_hand.tensors()
    for name, tensor in stored(undisturbed.folder / "checkpoints")[1].items():
        np.testing.assert_allclose(tensor, tensors[name], rtol=0, atol=1e-5 * abs(tensor).max(), err_msg=name)


@pytest.mark.ci
def test_demo_learns(folder: Path) -> None:
    run = finished(folder, "demo", arguments=("demo.yaml",))
    # Chance is 90 %.
    assert run.result()["validation"]["top1_error"] <= 0.15
    assert run.result()["validation"]["images"] == 1000


@pytest.mark.ci
def test_without_a_compiler_it_trains_and_says_so_and_in_bf16_too(
    undisturbed: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # lest it find what was compiled before
    run = finished(folder, "bf16", "compute.fused=true", "compute.precision=bf16", "train.steps=3")
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
    run = finished(folder, "by-url", *workers, f"data.path={url}", f"data.cache_folder={tmp_path / 'cache'}")
    assert run.weights() == undisturbed.weights()
    assert list((tmp_path / "cache").rglob("*.arrow")), "trained without the cache"


def test_killed_tree_and_same_command_give_the_same_weights(undisturbed: Run, folder: Path) -> None:
    """Before, a data worker dies, which is said in one line. Then steps are saved whose reports the driver never takes."""
    run = Run(folder, "killed", "cluster.data_workers=auto")
    run.wait_for_step(3)
    os.kill(run.pid_of("data worker r0 #0"), signal.SIGKILL)
    run.wait_for(lambda: "died" in run.text)
    run.wait_for_step(max(13, run.last_step() + 1))
    processes = run.descendants()
    os.kill(run.process.pid, signal.SIGSTOP)
    saved = run.folder / "checkpoints"
    run.wait_for(
        lambda: any(any(saved.glob(f"step-{step:08d}-*/state.json")) for step in range(run.last_step() + 1, 31))
    )
    run.kill_tree()
    assert run.last_step() < 30, "it was killed too late to show anything"
    assert not alive(processes)
    assert run.reports("train")[-1]["feeds"][0]["repeated"] >= 1
    [died] = [line for line in run.text.splitlines() if "died" in line]
    assert died.startswith("data worker r0 #0 died")
    again = finished(folder, "killed")
    assert "continuing from" in again.text
    assert again.weights() == undisturbed.weights()
    logged = again.reports("attempt", "train", "evaluation")
    second = logged.index(again.reports("attempt")[1])
    told = [(report["kind"], report["step"]) for report in logged[1:second]]
    whole = [(report["kind"], report["step"]) for report in undisturbed.reports("train", "evaluation")]
    assert told == whole[: len(told)] and told[-1][1] >= logged[second]["step"] > 13
    trained, tested = that_count(from_json(logged))
    assert ([report.step for report in trained], [report.step for report in tested]) == ([*range(1, 31)], [12, 24, 30])
    drawn = [scalars(file) for file in sorted((again.folder / "events").iterdir())]
    assert {step for file in drawn for tag, step in file if tag == "loss/train"} == set(range(1, 31))
    assert {step for file in drawn for tag, step in file if tag == "loss/validation"} == {12, 24, 30}


@pytest.mark.parametrize("when", ["in-training", "while-starting"])
def test_ctrl_c_saves_leaves_nothing_running_and_the_same_command_goes_on(
    undisturbed: Run, folder: Path, when: str
) -> None:
    run = Run(folder, f"ctrl-c-{when}")
    if when == "in-training":
        run.wait_for_step(9)
    else:
        run.wait_for(lambda: any("raylet" in process.name() for process in run.descendants()))
    processes = run.descendants()
    run.interrupt()
    assert run.finish(60) == 130, run.text
    assert not alive(processes)
    assert "Traceback" not in run.text
    if when == "in-training":
        assert "stopped after step" in run.text
        again = finished(folder, f"ctrl-c-{when}")
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


@pytest.mark.ci
def test_two_replicas_of_two_columns_learn_the_same(undisturbed: Run, folder: Path) -> None:
    run = finished(folder, "two-by-two", "cluster.replicas=2", "train.steps=12")
    ours, theirs = losses(run), losses(undisturbed)
    # The same images and masks at every step, in float32 sums of another order.
    assert max(abs(ours[step] - theirs[step]) for step in range(1, 13)) < 1e-4
    assert run.result()["validation"]["images"] == VALIDATION_IMAGES
    # Its checkpoint is the same network in one replica, and in one process without Ray.
    for name, arguments in (("as-1x2", ("cluster.replicas=1",)), ("alone", ("--by-class",))):
        report = folder / f"{name}.json"
        words = (str(run.folder), "--json", str(report), *arguments)
        finished(folder, name, module="evaluate", arguments=words)
        errors, expected = json.loads(report.read_text()), run.result()["validation"]
        assert errors["images"] == expected["images"] and errors["top1_error"] == expected["top1_error"]
        assert errors["loss"] == pytest.approx(expected["loss"], rel=1e-6)


@pytest.mark.parametrize("views", [1, pytest.param(10, marks=pytest.mark.ci)])
def test_evaluate_finds_the_errors_that_training_reported(
    undisturbed: Run, folder: Path, by_hand: Paper, views: int
) -> None:
    report, centre = folder / f"errors-{views}.json", undisturbed.result()["validation"]
    arguments = (str(undisturbed.folder), "--json", str(report), "--views", str(views))
    run = finished(folder, "evaluate", module="evaluate", arguments=arguments)
    errors = json.loads(report.read_text())
    assert (errors["views"], errors["images"]) == (views, centre["images"])
    assert "top-5 error" in run.text and ("ten views" in run.text) == (views == 10)
    [member] = errors["members"]
    assert member["updates"] == 30 and all(errors[key] == member[key] for key in ERRORS)
    if views == 1:
        assert all(errors[key] == centre[key] for key in ERRORS)
    else:
        assert near(errors, by_hand.evaluate(10)) and not near(errors, by_hand.evaluate())


def test_joins_a_running_cluster_and_leaves_it_running(
    undisturbed: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_cluster(folder, cpus=4) as (address, cluster):
        for token in ("0" * 64, None):
            with monkeypatch.context() as stranger:
                stranger.setenv("HOME", str(folder))
                stranger.delenv("RAY_AUTH_TOKEN")
                stranger.delenv("RAY_AUTH_MODE")
                if token:
                    stranger.setenv("RAY_AUTH_TOKEN", token)
                refused = Run(folder, "stranger", arguments=(str(SMALL), "name=stranger", "--address", address))
            assert refused.finish(60) == 2
            assert f"error: the Ray cluster at --address {address} wants its token" in refused.text
        run = finished(folder, "joined", arguments=(str(SMALL), "name=joined", "--address", address))
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


def test_one_copy_of_each_batch_inside_the_planned_window(undisturbed: Run, folder: Path, tmp_path: Path) -> None:
    config = load(SMALL, [f"data.path={folder / 'data' / 'small'}", "cluster.window_batches=3"])
    plan = make_plan(config, 0, dataset_size(config))
    objects, mib = 0, 0
    with ray_session(None, num_cpus=4, object_store_bytes=plan.object_store_bytes) as ray, WorkerGroup(plan) as group:
        from ray._private.internal_api import memory_summary

        running = group.train(str(tmp_path), None)
        address = ray.get_runtime_context().gcs_address
        while ray.wait(running, num_returns=len(running), timeout=0.02)[1]:
            told = memory_summary(address, stats_only=True)
            found = re.search(r"Plasma memory usage (\d+) MiB, (\d+) objects", told)
            assert found, told
            mib, objects = max(mib, int(found[1])), max(objects, int(found[2]))
        assert all(result["ended"] == "finished" for result in ray.get(running))
        counts = ray.get(group.columns[0].status.remote(0, 0)).feed_counts
    # Two columns read every batch; with a copy for each of them there would be twice as many objects.
    assert 2 <= objects <= 3
    assert mib <= plan.window_bytes / 2**20 + 1  # Ray rounds to whole MiB
    assert counts["batches_held"] == 3


TUNED = ("train.init_from=runs/undisturbed", "network.denses.fc5.units=32", "train.evaluate_every_epochs=null")


@pytest.mark.ci
def test_fine_tuning(undisturbed: Run, folder: Path) -> None:
    """Weights are taken before the first step; a run that goes on keeps its own, and remembers where they came from."""
    still = "schedule.stages=[{from_epoch: 0, weights: 0, biases: 0}]"
    run = finished(folder, "tuned", *TUNED, still, "train.steps=1")
    source = sorted((folder / "runs" / "undisturbed" / "checkpoints").glob("step-*"))[-1]
    line = f"starting from {source}: conv1, conv2, conv3, conv4 taken, new: fc5, classifier"
    assert line in run.text.splitlines(), run.text

    def newest(name: str) -> Path:
        return sorted((folder / "runs" / name / "checkpoints").glob("step-*"))[-1]

    for file in newest("tuned").glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(newest("undisturbed") / file.name)
        for name in ("conv1.weights", "conv2.biases", "conv3.weights", "conv4.weights"):
            assert ours[name].equal(theirs[name]), name
        assert not any(tensor.any() for name, tensor in ours.items() if name.startswith("momentum/")), "taken too"
    record = json.loads((newest("tuned") / "state.json").read_text())["init_from"]
    assert record["taken"] == ["conv1", "conv2", "conv3", "conv4"] and record["step"] == 30

    again = finished(folder, "tuned", *TUNED, still, "train.steps=2")
    assert "starting from" not in again.text and "continuing from" in again.text
    state = json.loads((newest("tuned") / "state.json").read_text())
    assert state["step"] == 2 and state["init_from"] == record

    nowhere = Run(folder, "from-nowhere", "train.init_from=runs/nowhere")
    assert nowhere.finish(90) == 2
    assert f"error: train.init_from: there is no checkpoint at {folder}/runs/nowhere" in nowhere.text
    assert "Traceback" not in nowhere.text
