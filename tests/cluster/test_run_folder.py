"""A run's folder: which settings may change, and what comes back from disk."""

import hashlib
import json
import os
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster import provenance
from cluster.failures import RunFailed
from cluster.provenance import read_starts
from cluster.run_folder import RunFolder
from configs.errors import UserError
from configs.loader import load, to_dict
from tests.disk import Disk, Killed
from tests.talkers import Talkers


def folder(root: Path, *settings: str) -> RunFolder:
    return RunFolder(load(None, [f"runs_folder={root / 'runs'}", *settings]))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    folder(tmp_path).open()
    return tmp_path


def test_a_new_run_has_nothing_and_may_begin_and_may_be_moved(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.check_same_experiment()
    assert run.result() is None and run.latest() is None
    assert not run.path.exists(), "asking makes no folder"
    run.open()
    run.check_same_experiment()
    assert load(run.path / "config.yaml") == run.config
    assert run.latest() is None
    (tmp_path / "runs").rename(tmp_path / "moved")
    run = RunFolder(load(None, [f"runs_folder={tmp_path / 'moved'}"]))
    assert (run.path / "config.yaml").is_file()
    run.check_same_experiment()
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match=r"the run's folder .* cannot be written"):
        folder(tmp_path).open()


CHANGES = {
    "augment.colour_noise=null": "augment.colour_noise: {'strength': 0.1",
    "data.drawn_pictures.seed=1": "data.drawn_pictures.seed: 0 then, 1 now",
    "network.convs.conv3.maps=32": "network.convs.conv3.maps: 64 then, 32 now",
    "network.convs.conv4=null": "network.convs.conv4: {'maps': 64",
    "optimizer.momentum=0.5": "optimizer.momentum: 0.9 then, 0.5 now",
    "schedule.stages.0.weights=0.02": "schedule.stages: ",
    "train.batch_size=32": "train.batch_size: 64 then, 32 now",
    "train.evaluate_every_epochs=2": "train.evaluate_every_epochs: 4.0 then, 2.0 now",
    "train.seed=1": "train.seed: 0 then, 1 now",
}


def test_settings_that_change_what_is_learned_are_named_all_at_once(begun: Path) -> None:
    with pytest.raises(UserError) as caught:
        folder(begun, *CHANGES, "cluster.replicas=2").check_same_experiment()
    _, *changed, todo = str(caught.value).splitlines()
    for named in CHANGES.values():
        assert any(line.startswith(f"  {named}") for line in changed), changed
    settings = tuple("  " + setting.split("=")[0].removesuffix(".0.weights") for setting in CHANGES)
    assert all(line.startswith(settings) for line in changed)
    assert "name=demo-2" in todo and "remove that folder" in todo


def test_how_long_where_and_how_fast_may_change_and_is_told(begun: Path) -> None:
    settings = ["train.epochs=null", "train.steps=7", "train.report_every_steps=1", "compute.precision=bf16"]
    settings += ["cluster.replicas=2", "cluster.device=cpu", "cluster.data_workers=3", "checkpoint.every_steps=5"]
    settings += ["checkpoint.keep=9", "data.path=elsewhere", "data.verify_checksums=false"]
    run = folder(begun, *settings)
    run.check_same_experiment()
    assert [line.split(":")[0] for line in run.changes()] == sorted(word.split("=")[0] for word in settings)
    run.open()
    assert run.changes() == []


def test_a_result_comes_back_and_a_damaged_one_counts_as_none(begun: Path) -> None:
    """The run then goes on from its last checkpoint, which has nothing left to do but to write it."""
    run = folder(begun)
    result = {"step": 625, "validation": {"loss": 0.1 + 0.2, "images": 1000}, "train": None, "feeds": [{}]}
    run.write_result({"step": 1})
    run.write_result(result)
    assert folder(begun).result() == result
    assert not list(run.path.glob("*.tmp"))
    (run.path / "result.tmp").mkdir()
    with pytest.raises(RunFailed, match=r"has come to its end and is saved, but \S+result.json could not be written"):
        run.write_result({"step": 1})
    for content in ("", "{", "[1]", "null"):
        (run.path / "result.json").write_text(content)
        assert run.result() is None


def test_the_next_attempt_is_later_than_every_one_known(begun: Path) -> None:
    """Of all commands; also of a log that was lost, or is on another machine."""
    run = folder(begun)
    assert (run.attempts(), run.next_attempt()) == (0, 1)
    entries = [{"kind": kind, "number": n, "step": 0} for kind, n in (("attempt", 1), ("failure", 7), ("attempt", 2))]
    run.log.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"kind": "attempt", "num')
    assert (run.attempts(), run.next_attempt()) == (2, 3)
    run.to_go_on_from(7, pytest.fail)
    assert run.next_attempt() == 8
    with pytest.raises(UserError, match=r"another command has begun attempt 7 .*; stop one of the two commands"):
        run.to_go_on_from(7, pytest.fail)


TRAINS = """
import sys
from cluster.run_folder import RunFolder
from configs.errors import UserError
from configs.loader import load
run = RunFolder(load(None, [f"runs_folder={sys.argv[1]}"]))
sys.stdin.readline()
print("ready", flush=True)
sys.stdin.readline()
try:
    run.open()
    print("trains", flush=True)
    sys.stdin.readline()
except UserError as error:
    print(error, flush=True)
"""


def test_of_two_commands_at_the_same_moment_one_trains(tmp_path: Path) -> None:
    """The other says so, and has written nothing: the starts are those of the one that trains."""
    line = [sys.executable, "-c", TRAINS, str(tmp_path / "runs")]
    with Talkers(line, line) as both:
        assert both.say("", "") == ["ready", "ready"]
        said = both.say("", "")
        assert said.count("trains") == 1, said
        trains, other = both.processes[said.index("trains")], said[1 - said.index("trains")]
        assert f"demo is being trained by process {trains.pid} of {socket.gethostname()}; wait for it, stop it" in other
        run = folder(tmp_path)
        assert [start["pid"] for start in read_starts(run.path)] == [trains.pid]
        with pytest.raises(UserError, match=f"is being trained by process {trains.pid} of"):
            run.hold()
        trains.kill()
        trains.wait()
        run.hold()
        run.open()
        assert [start["pid"] for start in read_starts(run.path)] == [trains.pid, os.getpid()]


def test_the_config_is_whole_after_a_power_cut_at_any_step_of_it(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: None)
    with Disk(begun / "runs") as disk:
        folder(begun).open()
    for at, step in enumerate([*disk.steps, "the end"], 1):
        if "config.yaml" in step or step == "the end":
            with Disk(begun / "runs", at) as killed, suppress(Killed):
                folder(begun).open()
            killed.power_cut("names")
            assert load(begun / "runs/demo/config.yaml") == folder(begun).config, step


def test_a_setting_that_was_not_known_then_had_its_default_and_damage_is_told(begun: Path) -> None:
    file = begun / "runs" / "demo" / "config.yaml"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if "crop_shared_by" not in line))
    folder(begun).check_same_experiment()
    with pytest.raises(UserError, match=r"augment\.crop_shared_by: 1 then, 4 now"):
        folder(begun, "augment.crop_shared_by=4").check_same_experiment()
    for content in (b"network: [", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"demo/config\.yaml is damaged"):
            folder(begun).check_same_experiment()


def written(run: RunFolder, step: int, *, evaluated: bool = True, **more: Any) -> Path:
    """A checkpoint of one small file, as a save leaves it."""
    path = Path(run.checkpoints) / f"step-{step:08d}-a1"
    path.mkdir()
    (path / "rows").write_bytes(b"rows")
    entry = {"file": "rows", "bytes": 4, "sha256": hashlib.sha256(b"rows").hexdigest(), "rows": {}}
    state = {"version": 1, "step": step, "evaluated": evaluated, "files": [entry], "shapes": {}, **more}
    (path / "state.json").write_text(json.dumps(state))
    return path


def test_latest_is_the_newest_committed_checkpoint(begun: Path) -> None:
    run = folder(begun)
    assert (run.newest_in_words(), run.to_go_on_from(1, pytest.fail)) == ("none", None)
    for step, evaluated in ((30, True), (100, False), (9, True)):
        written(run, step, evaluated=evaluated)
    (Path(run.checkpoints) / "step-00000200").mkdir()
    latest = folder(begun).latest()
    assert latest is not None and (latest.step, latest.evaluated) == (100, False)
    assert run.newest_in_words() == latest.folder == f"{run.checkpoints}/step-00000100-a1"
    written(run, 300, version=2)
    with pytest.raises(UserError, match=r"step-00000300-a1 was written by another version .*; remove it"):
        run.to_go_on_from(2, pytest.fail)
    assert "another version" in run.newest_in_words()


def test_an_empty_place_is_no_new_beginning_once_something_was_saved(begun: Path) -> None:
    """As when a disk is not mounted after the machine was started again."""
    run = folder(begun)
    path = written(run, 30)
    run.log.write_text(json.dumps({"kind": "checkpoint", "step": 30, "folder": str(path)}) + "\n")
    found = folder(begun).to_go_on_from(1, pytest.fail)
    assert found is not None and found.step == 30
    shutil.move(run.checkpoints, begun / "elsewhere")
    told = r"step-00000030-a1 was saved, and there is no checkpoint at .* is it mounted"
    for ask in (lambda: folder(begun).latest(), lambda: run.to_go_on_from(2, pytest.fail)):
        with pytest.raises(UserError, match=told):
            ask()
    assert not Path(run.checkpoints).exists(), "nothing is written where it should be mounted"


def test_checkpoints_of_another_experiment_are_refused_wherever_they_lie(tmp_path: Path) -> None:
    """Of a run whose own folder, with its config.yaml, is on another machine, say."""
    settings = [f"checkpoint.folder=file://{tmp_path}/shared", "train.epochs=3"]
    first, run = folder(tmp_path / "here", *settings), folder(tmp_path / "there", *settings)
    first.open()
    path = written(first, 1, config=to_dict(first.config))
    assert path.parent == tmp_path / "shared" / "demo"
    found = run.to_go_on_from(1, pytest.fail)
    assert found is not None and found.step == 1
    other = folder(tmp_path / "there", *settings, "train.seed=7", "train.epochs=9", "cluster.replicas=2")
    with pytest.raises(UserError) as caught:
        other.to_go_on_from(9, pytest.fail)
    assert run.next_attempt() == 2, "the run that is there may save as before"
    first_line, *changed, _ = str(caught.value).splitlines()
    assert first_line == f"{path} belongs to a run with other settings:"
    assert changed == ["  train.seed: 0 then, 7 now"]


def test_where_checkpoints_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run has a folder of its own there; nobody goes on from another one's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for setting, place in (
        ("null", f"{tmp_path}/runs/demo/checkpoints"),
        ("/big/disk", "/big/disk/demo"),
        ("disk", f"{tmp_path}/disk/demo"),
        ("~/disk", "/home/me/disk/demo"),
        ("s3://bucket/runs/", "s3://bucket/runs/demo"),
        ("s3://bucket", "s3://bucket/demo"),
        ("s3://bucket/runs?region=x", "s3://bucket/runs/demo?region=x"),
        ("file:///big/disk%201", "/big/disk 1/demo"),
    ):
        assert RunFolder(load(None, [f"checkpoint.folder={setting}"])).checkpoints == place
