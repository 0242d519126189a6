"""A preparation that was cut off: what is trusted when it goes on, and what is made again. Without Ray."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.ingest import _finish
from configs.errors import UserError
from tests.cluster.runs import flip
from tests.data.pictures import draw_folders
from tests.disk import every_failure
from workers.data import journal
from workers.data.files import make_folder
from workers.data.ingest import ChunkResult, make_shard
from workers.data.journal import (
    NOTE_SUFFIX,
    Preparation,
    Settings,
    begin,
    differences,
    end,
    is_under_way,
    recall_or_make,
)
from workers.data.manifest import Manifest
from workers.data.shards import file_sha256
from workers.data.sources import Chunk, FolderSource

SIZE = 40
RAW = Settings(size=SIZE, quality=95, shard_rows=5, encoding="raw", apply_orientation=False)


def jobs_of(source: FolderSource, settings: Settings = RAW) -> list[tuple[Chunk, str]]:
    return [
        (chunk, f"{split}-{number:05d}-of-00002.arrow")
        for split in source.splits
        for number, chunk in enumerate(source.chunks(split, settings.shard_rows))
    ]


def preparation_of(source: FolderSource, settings: Settings = RAW) -> Preparation:
    return Preparation.of(source, jobs_of(source, settings), settings)


def begun(source: FolderSource, out: Path, settings: Settings = RAW) -> list[ChunkResult]:
    """Up to the manifest."""
    make_folder(out)
    begin(out, preparation := preparation_of(source, settings))
    identity, jobs = preparation.identity, jobs_of(source, settings)
    return [recall_or_make(source, chunk, out, file, settings, identity) for chunk, file in jobs]


def finish(source: FolderSource, out: Path, settings: Settings = RAW) -> None:
    """All that `cluster.ingest.prepare` does, but without Ray; over another data set if there is one."""
    if not ((out / "manifest.json").exists() and is_under_way(out, preparation_of(source, settings))):
        _finish(source, out, settings, iter(begun(source, out, settings)), 0, None)
    end(out, [info.file for split in Manifest.load(out).splits.values() for info in split.shards])


def finished(source: FolderSource, out: Path, settings: Settings = RAW) -> dict[str, bytes]:
    """All files that there are then."""
    finish(source, out, settings)
    assert not (out / "preparing.json").exists()
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def folders(tmp_path: Path) -> FolderSource:
    return FolderSource(draw_folders(tmp_path / "in", per_class=5, size=SIZE))


@pytest.fixture
def wanted(folders: FolderSource, tmp_path: Path) -> dict[str, bytes]:
    return finished(folders, tmp_path / "fresh")


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_finished_shards_are_recalled(folders: FolderSource, tmp_path: Path, wanted: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    begun(folders, out)
    written = times(out)
    assert len(written) == 2 * 4 + 1 and begin(out, preparation_of(folders)) == 4
    begun(folders, out)
    assert times(out) == written
    # A run that was killed leaves parts of files; they go.
    (out / "train-00000-of-00002.arrow.0123abcd.tmp").write_bytes(b"x")
    (out / "train-00001-of-00002.done.npz.0123abcd.tmp").write_bytes(b"x")
    (out / "train-00001-of-00002.done.npz").unlink()
    begun(folders, out)
    again = times(out)
    assert again.keys() == written.keys()
    made = ["train-00001-of-00002.arrow", "train-00001-of-00002.done.npz"]
    assert sorted(name for name in written if again[name] != written[name]) == made
    # So may a worker that outlives such a run by a moment. What is not ours stays.
    for name in ("train-00002-of-00003.arrow", "train-00000-of-00002.arrow.0123abcd.tmp", "notes.txt"):
        (out / name).write_bytes(b"x")
    assert finished(folders, out) == {**wanted, "notes.txt": b"x"}


@pytest.mark.parametrize(
    "harm",
    [
        lambda shard, note: flip(shard),
        lambda shard, note: shard.write_bytes(shard.read_bytes()[:-1]),
        lambda shard, note: shard.unlink(),
        lambda shard, note: flip(note),
        lambda shard, note: note.write_bytes(b""),
        lambda shard, note: note.write_bytes(note.read_bytes()[:300]),
        lambda shard, note: note.write_bytes(note.with_name("train-00001-of-00002.done.npz").read_bytes()),
    ],
)
def test_what_was_damaged_in_between_is_made_again(
    folders: FolderSource, tmp_path: Path, wanted: dict[str, bytes], harm: Callable[[Path, Path], object]
) -> None:
    out = tmp_path / "out"
    begun(folders, out)
    harm(out / "train-00000-of-00002.arrow", out / f"train-00000-of-00002{NOTE_SUFFIX}")
    assert finished(folders, out) == wanted


@pytest.mark.parametrize("bad", [False, True])
def test_an_image_that_changed_or_was_repaired_is_read_again(
    folders: FolderSource, tmp_path: Path, wanted: dict[str, bytes], bad: bool
) -> None:
    image = tmp_path / "in/train/a/002.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:200] if bad else (tmp_path / "in/train/b/002.jpg").read_bytes())
    assert len(begun(folders, tmp_path / "out")[0].quarantined) == bad
    image.write_bytes(whole)
    assert finished(folders, tmp_path / "out") == wanted


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 32}, "size 32 instead of 40"),
        ({"encoding": "jpeg", "quality": 90}, "quality 90 instead of 95, encoding jpeg instead of raw"),
        ({"apply_orientation": True}, "apply_orientation True instead of False"),
    ],
)
def test_other_settings_start_anew(
    folders: FolderSource, tmp_path: Path, wanted: dict[str, bytes], change: dict[str, Any], told: str
) -> None:
    out = tmp_path / "out"
    begun(folders, out, dataclasses.replace(RAW, **change))
    assert differences(out, preparation_of(folders)) == told
    begun(folders, out)
    assert differences(out, preparation_of(folders)) == ""
    assert finished(folders, out) == wanted


def test_another_list_of_images_starts_anew(folders: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun(folders, out)
    (tmp_path / "in/train/a/002.jpg").rename(tmp_path / "in/train/a/002b.jpg")
    changed = preparation_of(FolderSource(tmp_path / "in"))
    assert differences(out, changed) == "other images"
    (out / "preparing.json").write_text("{")
    assert "damaged" in differences(out, changed)
    assert begin(out, changed) == 0
    assert [path.name for path in out.iterdir()] == ["preparing.json"]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_worker_that_outlives_its_preparation_writes_nothing(
    folders: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    out, old = tmp_path / "out", dataclasses.replace(RAW, quality=50)
    begun(folders, out, old)
    chunk, file = jobs_of(folders)[0]

    def another_begins(*what: Any, **how: Any) -> Any:
        made = make_shard(*what, **how)
        begin(out, preparation_of(folders))
        return made

    if when == "before":
        begin(out, preparation_of(folders))
    else:
        (out / file).unlink()
        monkeypatch.setattr(journal, "make_shard", another_begins)
    with pytest.raises(UserError, match=r"another preparation has begun in .*out"):
        recall_or_make(folders, chunk, out, file, old, preparation_of(folders, old).identity)
    assert [path.name for path in out.iterdir()] == ["preparing.json"]


@pytest.mark.parametrize("before", ["nothing", "another"])
def test_a_failure_at_any_step(tmp_path: Path, before: str) -> None:
    """Where there is a manifest all that it names is there and whole; and the same command ends as an undisturbed one."""
    folders, settings = (
        FolderSource(draw_folders(tmp_path / "in", per_class=1, size=SIZE)),
        dataclasses.replace(RAW, shard_rows=6),
    )
    start, out = tmp_path / "start", tmp_path / "sets" / "out"
    wanted = finished(folders, tmp_path / "fresh", settings)
    finish(folders, start)

    def reset() -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(start, out) if before == "another" else out.parent.mkdir()

    for was in every_failure(out.parent, lambda: finish(folders, out, settings), reset):
        if (out / "manifest.json").exists():
            for split in Manifest.load(out).splits.values():
                assert all(file_sha256(out / shard.file) == shard.sha256 for shard in split.shards), was
            names = {path.name for path in out.iterdir()}
            assert "preparing.json" in names or names in ({*wanted}, {path.name for path in start.iterdir()}), was
        assert finished(folders, out, settings) == wanted, was
