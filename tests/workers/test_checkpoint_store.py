"""Checkpoints at URLs: the same bytes, retention and fallback as in a folder, in a real object store on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from pyarrow import fs

from configs.errors import UserError
from tests.s3 import BUCKET, ENVIRONMENT, Cable, S3Server
from tests.workers.columns import holds, save_whole
from workers import checkpoint_store
from workers.checkpoint_list import committed, list_checkpoints, newest_whole
from workers.checkpoint_store import open_store
from workers.data import storage
from workers.data.storage import Remote


class Place:
    """A place for checkpoints, and another way to look into it."""

    def __init__(self, url: str, system: fs.FileSystem, root: str) -> None:
        self.url, self.system, self.root = url, system, root

    def files(self) -> dict[str, int]:
        found = self.system.get_file_info(fs.FileSelector(self.root, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(f"{self.root}/"): info.size for info in found if info.is_file}

    def folders(self) -> list[str]:
        return sorted({path.split("/")[0] for path in self.files()})

    def change(self, path: str, change: Callable[[bytes], bytes]) -> None:
        with self.system.open_input_stream(f"{self.root}/{path}") as stream:
            content = stream.read()
        with self.system.open_output_stream(f"{self.root}/{path}") as stream:
            stream.write(change(content))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "file":
        return Place(f"file://{tmp_path}/far/run", fs.LocalFileSystem(), f"{tmp_path}/far/run")
    started: S3Server = request.getfixturevalue("server")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    url = started.url(f"{tmp_path.name}/run")
    return Place(url, started.filesystem, f"{BUCKET}/{tmp_path.name}/run")


FILE = "columns-00-to-01.safetensors"


def test_saved_listed_loaded_and_pruned(alone: dist.ProcessGroup, place: Place) -> None:
    assert committed(place.url) == [] and newest_whole(place.url, pytest.fail) is None
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


@pytest.mark.parametrize("kind", ["flipped", "short", "missing", "state"])
def test_damage_is_told_set_aside_and_the_one_before_it_taken(
    alone: dist.ProcessGroup, place: Place, kind: str
) -> None:
    for step in (1, 2):
        save_whole(place.url, alone, step)
    if kind == "missing":
        place.system.delete_file(f"{place.root}/step-00000002-a1/{FILE}")
    elif kind == "state":
        place.change("step-00000002-a1/state.json", lambda content: content[:50])
    else:
        place.change(
            f"step-00000002-a1/{FILE}",
            lambda content: content[:-1] if kind == "short" else content[:-1] + bytes([content[-1] ^ 1]),
        )
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
    for step in (2, 3, 4):
        save_whole(place.url, alone, step)
    assert place.folders() == ["step-00000003-a1", "step-00000004-a1"], "and goes when all that is kept is newer"


def test_a_storage_that_does_not_answer_is_no_damage(
    alone: dist.ProcessGroup, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a save does then is part of the tests of whole runs."""
    monkeypatch.setattr(storage, "MOST_TRIES", 1)  # S3's own client tries three times for each of these
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    save_whole(server.url("lost/run"), alone, 1)
    cable = Cable(server.port)
    url = server.url("lost/run", port=cable.port)
    found = newest_whole(url, pytest.fail)
    assert found is not None and holds(found, 1)
    cable.cut()
    with pytest.raises(UserError, match=rf"s3://{BUCKET}/lost/run/.* cannot be listed"):
        newest_whole(url, pytest.fail, set_aside=True)
    found = newest_whole(server.url("lost/run"), pytest.fail)
    assert found is not None and found.step == 1


def test_a_file_system_with_folders_at_a_url(
    alone: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As hdfs:// has; what is put there appears under its name when it is whole."""
    remote = Remote(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "far/run", "tree:/far/run")
    monkeypatch.setattr(checkpoint_store.Remote, "at", lambda url, **how: remote)
    for step in (1, 2, 3):
        save_whole("tree://far/run", alone, step)
    assert sorted(path.name for path in (tmp_path / "far" / "run").iterdir()) == [
        "step-00000002-a1",
        "step-00000003-a1",
    ]
    (tmp_path / "far" / "run" / "step-00000003-a1" / FILE).write_bytes(b"else")
    said: list[str] = []
    found = newest_whole("tree://far/run", said.append, set_aside=True)
    assert found is not None and found.step == 2 and holds(found, 2)
    assert "tree:/far/run/step-00000003-a1 is damaged" in said[0]
    left = [path.name for path in (tmp_path / "far" / "run").iterdir()]
    assert sorted(left) == ["damaged-step-00000003-a1", "step-00000002-a1"]
    assert list_checkpoints("tree://far/run").set_aside.keys() == {"damaged-step-00000003-a1"}


def test_a_url_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nonsense://a/b cannot be used as a place for data"):
        open_store("nonsense://a/b")
