"""Saving, retention, setting aside and taking over, with a failure at each step in turn.

Whatever happened, the newest checkpoint that is found is a whole one, of the step that was reported as committed or a later one,
nothing that was half saved passes for a damaged checkpoint, and the next attempt takes over, saves and clears up.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import save as safetensors

from tests import bucket as in_bucket
from tests import disk as on_disk
from tests.bucket import Bucket
from tests.disk import Disk
from tests.workers.columns import FILE, fill, holds, make, save_whole, saver, state
from workers import checkpoint_store, saving
from workers.checkpoint_list import committed, newest_whole
from workers.checkpoint_store import STATE, open_store
from workers.data import storage
from workers.data.files import make_folder
from workers.takeover import newest_attempt, take_over

MODEL, OPTIMIZER = make()
URL = "gs://bucket/run"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting; and safetensors, which writes with system calls of its own, writes in Python."""
    monkeypatch.setattr(saving, "save_file", lambda tensors, path: path.write_bytes(safetensors(tensors)))
    for name in ("PAUSE_SECONDS", "CLAIM_SECONDS"):
        monkeypatch.setattr(storage, name, 0.0)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    monkeypatch.setattr(checkpoint_store.Remote, "at", lambda url, **how: made.remote())
    return made


@pytest.fixture(scope="module")
def two(alone: dist.ProcessGroup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the checkpoints 1 and 2."""
    run = tmp_path_factory.mktemp("two")
    take_over(str(run / "checkpoints"), 1)
    for step in (1, 2):
        save_whole(run / "checkpoints", alone, step)
    return run


class Scene:
    """A place in a folder or an object store, which may hold the checkpoints 1 and 2, and what fails there."""

    def __init__(self, kind: str, group: dist.ProcessGroup, two: Path | None, tmp_path: Path, bucket: Bucket) -> None:
        self.group, self._two, self._bucket = group, two, bucket
        self._root = tmp_path / "runs"
        self.place = URL if kind == "bucket" else str(self._root / "run" / "checkpoints")
        self.reported = 0

    def reset(self, damaged: bool = False) -> None:
        """damaged: the file of checkpoint 2."""
        self.reported = 0
        self._bucket.objects.clear()
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir()
        if self._two:
            shutil.copytree(self._two, self._root / "run")
        if damaged:
            (self._root / "run" / "checkpoints" / "step-00000002-a1" / FILE).write_bytes(b"else")
        if self.place == URL:
            for path in self._root.glob("run/checkpoints/*/*"):
                name = path.relative_to(self._root / "run" / "checkpoints")
                self._bucket.objects[f"bucket/run/{name}"] = (path.read_bytes(), 0)
            self._bucket.objects["bucket/run/attempt-00000001/mark"] = (b"", 0)

    def damage(self) -> None:
        self.reset(damaged=True)

    def save(self, number: int, *steps: int) -> None:
        if self.place != URL:
            make_folder(Path(self.place))  # as a run does at its start
        take_over(self.place, number)
        own = saver(self.place, MODEL, OPTIMIZER, self.group, attempt=number)
        for step in steps:
            fill(MODEL, OPTIMIZER, step)
            own.save(state(step))
            try:
                own.wait()
            finally:
                told = [report.step for report in own.reports() if report.kind == "checkpoint"]
                self.reported = max(self.reported, *told, 0)

    def set_aside(self) -> None:
        newest_whole(self.place, lambda text: None, set_aside=True)

    def failures(self, run: Callable[[], None], reset: Callable[[], None]) -> Iterator[str]:
        if self.place == URL:
            return in_bucket.every_failure(self._bucket, run, reset, lambda: self.reported)
        return on_disk.every_failure(self._root, run, reset, lambda: self.reported)


@pytest.fixture
def scene(request: pytest.FixtureRequest, alone: dist.ProcessGroup, two: Path, tmp_path: Path, bucket: Bucket) -> Scene:
    kind, _, empty = request.param.partition(", ")
    return Scene(kind, alone, None if empty else two, tmp_path, bucket)


@pytest.mark.parametrize("scene", ["disk", "disk, empty", "bucket"], indirect=True)
def test_a_save(scene: Scene) -> None:
    scene.reset()
    at_least = len(committed(scene.place))  # the newest step that is whole before
    for was in scene.failures(lambda: scene.save(2, 3), scene.reset):
        said: list[str] = []
        found = newest_whole(scene.place, said.append, set_aside=True)
        step = found.step if found else 0
        assert step >= max(at_least, scene.reported), (was, scene.reported, said)
        assert found is None or holds(found, step), was
        assert not any("damaged" in text for text in said), (was, said)
        assert scene.reported == 3 or not was.startswith(in_bucket.ONCE) or scene.place != URL, was
        reported = scene.reported
        scene.save(newest_attempt(scene.place) + 1, 8)
        scene.reported = reported  # of the same run, the power may be cut too
        kept = [step, 8] if found else [8]
        assert [one.step for one in committed(scene.place) if holds(one, one.step)] == kept, was
        tree = open_store(scene.place).tree()
        assert sorted(folder.split("-")[0] for folder in tree) == ["attempt", *["step"] * len(kept)], (was, tree)


@pytest.mark.parametrize("scene", ["disk", "bucket"], indirect=True)
def test_setting_aside(scene: Scene) -> None:
    """All of the damaged one is there afterwards, in one folder."""
    for was in scene.failures(scene.set_aside, scene.damage):
        found = newest_whole(scene.place, lambda text: None, set_aside=True)
        assert found is not None and found.step == 1 and holds(found, 1), was
        tree = open_store(scene.place).tree()
        assert any(folder.startswith("damaged-") and set(files) == {FILE, STATE} for folder, files in tree.items()), was
        scene.save(newest_attempt(scene.place) + 1, 2, 3)
        assert [one.step for one in committed(scene.place)] == [2, 3], was


@pytest.mark.parametrize("scene", ["disk"], indirect=True)
@pytest.mark.parametrize("bad", [FILE, STATE])
def test_a_bad_sector_in_the_newest(scene: Scene, bad: str, tmp_path: Path) -> None:
    scene.reset()
    newest = tmp_path / "runs/run/checkpoints/step-00000002-a1"
    said: list[str] = []
    with Disk(newest, bad=bad):
        found = newest_whole(scene.place, said.append)
    assert found is not None and found.step == 1
    assert len(said) == 1 and f"{newest} is damaged: {bad} cannot be read: Input/output error" in said[0]
