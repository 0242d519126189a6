"""Checkpoints at URLs: the same bytes, retention and fallback as in a folder, in a real object store on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from pyarrow import fs

from tests.s3 import BUCKET, S3Server
from tests.workers.columns import FILE, holds, save_whole
from workers import checkpoint_store
from workers.checkpoint_list import committed, list_checkpoints, newest_whole
from workers.checkpoint_store import open_store
from workers.data.storage import Remote


class Place:
    """A place for checkpoints, and another way to look into it."""

    def __init__(self, url: str, system: fs.FileSystem, root: str) -> None:
        self.url, self.system, self.root = url, system, root

    def files(self) -> dict[str, int]:
        found = self.system.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(f"{self.root}/"): info.size for info in found if info.is_file}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["folder", "s3", "tree"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """tree: a file system with folders at a URL, as hdfs:// has; what is put there appears under its name when it is whole."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("server")
        return Place(server.url(f"{tmp_path.name}/run"), server.filesystem, f"{BUCKET}/{tmp_path.name}/run")
    if request.param == "tree":
        remote = Remote(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "far/run", "tree:/far/run")
        monkeypatch.setattr(checkpoint_store.Remote, "at", lambda url, **how: remote)
    url = "tree://far/run" if request.param == "tree" else f"file://{tmp_path}/far/run"
    return Place(url, fs.LocalFileSystem(), f"{tmp_path}/far/run")


def test_saved_listed_loaded_and_pruned(alone: dist.ProcessGroup, place: Place, tmp_path: Path) -> None:
    assert committed(place.url) == [] and newest_whole(place.url, pytest.fail) is None
    assert not list(tmp_path.iterdir()), "looking makes no folder"
    for step in (1, 2, 3):
        folder = save_whole(place.url, alone, step)
    assert folder == f"{open_store(place.url).name}/step-00000003-a1"
    assert place.files().keys() == {f"step-0000000{step}-a1/{file}" for step in (2, 3) for file in (FILE, "state.json")}
    found = newest_whole(place.url, pytest.fail)
    assert found is not None and found.step == 3 and holds(found, 3)
    assert holds(committed(place.url)[0], 2)
    before = place.files()
    save_whole(place.url, alone, 3, attempt=2)
    assert place.files() == before, "a step that is committed is left alone"
    tree = open_store(place.url).tree()
    place.system.create_dir(f"{place.root}/step-00000003-a1/more")
    for stray in ("notes.txt", "step-00000003-a1/more/notes.txt"):
        with place.system.open_output_stream(f"{place.root}/{stray}") as stream:
            stream.write(b"mine")
    assert open_store(place.url).tree() == tree


def test_damage_is_told_set_aside_and_the_one_before_it_taken(alone: dist.ProcessGroup, place: Place) -> None:
    for step in (1, 2):
        save_whole(place.url, alone, step)
    with place.system.open_output_stream(f"{place.root}/step-00000002-a1/{FILE}") as stream:
        stream.write(b"else")
    before = place.files()
    said: list[str] = []
    found = newest_whole(place.url, said.append, set_aside=True)
    assert found is not None and found.step == 1 and holds(found, 1)
    name = open_store(place.url).name
    assert len(said) == 1 and said[0].startswith(f"{name}/step-00000002-a1 is damaged: ")
    assert "it is set aside as damaged-step-00000002-a1" in said[0]
    moved = {path.replace("step-00000002", "damaged-step-00000002"): size for path, size in before.items()}
    assert place.files() == moved
    assert newest_whole(place.url, pytest.fail) == found
    for step in (2, 3):
        save_whole(place.url, alone, step)
    kept = ["damaged-step-00000002-a1", "step-00000002-a1", "step-00000003-a1"]
    assert sorted(list_checkpoints(place.url).set_aside) == kept[:1] and sorted(open_store(place.url).tree()) == kept
    save_whole(place.url, alone, 4)
    assert sorted({path.split("/")[0] for path in place.files()}) == ["step-00000003-a1", "step-00000004-a1"]
