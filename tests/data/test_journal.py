"""A preparation that was cut off: what is trusted when it goes on, and what is made again. Without Ray."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.ingest import _finish
from configs.errors import UserError
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


def jobs_of(source: FolderSource) -> list[tuple[Chunk, str]]:
    return [(chunk, f"train-{number:05d}-of-00002.arrow") for number, chunk in enumerate(source.chunks("train", 5))]


def preparation_of(source: FolderSource, settings: Settings) -> Preparation:
    return Preparation.of(source, jobs_of(source), settings)


def prepared(source: FolderSource, out: Path, settings: Settings) -> list[ChunkResult]:
    """What the driver does, in one process."""
    out.mkdir(exist_ok=True)
    preparation = preparation_of(source, settings)
    begin(out, preparation)
    return [recall_or_make(source, chunk, out, file, settings, preparation.identity) for chunk, file in jobs_of(source)]


def whole(source: FolderSource, out: Path, settings: Settings = RAW) -> None:
    """All that `cluster.ingest.prepare` does, but without Ray; over another data set if there is one."""
    jobs = [
        (chunk, f"{split}-{number:05d}-of-00003.arrow")
        for split in source.splits
        for number, chunk in enumerate(source.chunks(split, settings.shard_rows))
    ]
    preparation = Preparation.of(source, jobs, settings)
    make_folder(out)
    if not ((out / "manifest.json").exists() and is_under_way(out, preparation)):
        begin(out, preparation)
        identity = preparation.identity
        results = (recall_or_make(source, chunk, out, file, settings, identity) for chunk, file in jobs)
        _finish(source, out, settings, results, 0, None)
    end(out, [info.file for split in Manifest.load(out).splits.values() for info in split.shards])


def same(first: list[ChunkResult], second: list[ChunkResult]) -> bool:
    """Whether all that goes into the manifest and the mean image is the same."""
    return [content(result) for result in first] == [content(result) for result in second]


def content(result: ChunkResult) -> tuple[object, ...]:
    sums = result.sums
    arrays = (sums.pixels.tolist(), sums.products.tolist(), result.labels.tolist())
    return (result.chunk, result.info, result.quarantined, sums.images, *arrays)


@pytest.fixture
def folders(tmp_path: Path) -> FolderSource:
    return FolderSource(draw_folders(tmp_path / "in", per_class=5, size=SIZE))


def test_finished_shards_are_recalled_and_others_made(folders: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepared(folders, out, RAW)
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(written) == 2 * 2 + 1
    assert same(prepared(folders, out, RAW), first)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == written
    # A run that was killed leaves parts of files; they go.
    (out / "train-00000-of-00002.arrow.0123abcd.tmp").write_bytes(b"x")
    (out / "train-00001-of-00002.done.npz.0123abcd.tmp").write_bytes(b"x")
    (out / "train-00001-of-00002.done.npz").unlink()
    assert same(prepared(folders, out, RAW), first)
    again = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert set(again) == set(written)
    assert sorted(path.name for path in written if again[path] != written[path]) == [
        "train-00001-of-00002.arrow",
        "train-00001-of-00002.done.npz",
    ]
    # So may a worker that outlives such a run by a moment. What is not ours stays.
    for name in ("train-00002-of-00003.arrow", "train-00000-of-00002.arrow.0123abcd.tmp", "notes.txt"):
        (out / name).write_bytes(b"x")
    shards = ["train-00000-of-00002.arrow", "train-00001-of-00002.arrow"]
    end(out, shards)
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", *shards]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


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
    folders: FolderSource, tmp_path: Path, harm: Callable[[Path, Path], object]
) -> None:
    out = tmp_path / "out"
    first = prepared(folders, out, RAW)
    shard = out / "train-00000-of-00002.arrow"
    harm(shard, out / f"train-00000-of-00002{NOTE_SUFFIX}")
    assert same(prepared(folders, out, RAW), first)
    assert first[0].info is not None
    assert file_sha256(shard) == first[0].info.sha256


def test_an_image_that_changed_under_its_name_is_read_again(folders: FolderSource, tmp_path: Path) -> None:
    prepared(folders, tmp_path / "out", RAW)
    image = tmp_path / "in/train/a/002.jpg"
    image.write_bytes((tmp_path / "in/train/b/002.jpg").read_bytes())
    assert same(prepared(folders, tmp_path / "out", RAW), prepared(folders, tmp_path / "fresh", RAW))


def test_bad_images_may_be_repaired_before_going_on(folders: FolderSource, tmp_path: Path) -> None:
    image = tmp_path / "in/train/a/002.jpg"
    whole = image.read_bytes()
    image.write_bytes(whole[:200])
    assert len(prepared(folders, tmp_path / "out", RAW)[0].quarantined) == 1
    image.write_bytes(whole)
    result = prepared(folders, tmp_path / "out", RAW)[0]
    assert (result.quarantined, result.sums.images) == ((), 5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 32}, "size 32 instead of 40"),
        ({"encoding": "jpeg", "quality": 90}, "quality 90 instead of 95, encoding jpeg instead of raw"),
        ({"apply_orientation": True}, "apply_orientation True instead of False"),
    ],
)
def test_other_settings_start_anew(folders: FolderSource, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    out = tmp_path / "out"
    prepared(folders, out, dataclasses.replace(RAW, **change))
    assert differences(out, preparation_of(folders, RAW)) == told
    assert same(prepared(folders, out, RAW), prepared(folders, tmp_path / "fresh", RAW))
    for path in (tmp_path / "fresh").glob("*.arrow"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert differences(out, preparation_of(folders, RAW)) == ""


def test_another_list_of_images_starts_anew(folders: FolderSource, tmp_path: Path) -> None:
    prepared(folders, tmp_path / "out", RAW)
    (tmp_path / "in/train/a/002.jpg").rename(tmp_path / "in/train/a/002b.jpg")
    changed = FolderSource(tmp_path / "in")
    assert differences(tmp_path / "out", preparation_of(changed, RAW)) == "other images"
    (tmp_path / "out/preparing.json").write_text("{")
    assert "damaged" in differences(tmp_path / "out", preparation_of(changed, RAW))
    assert begin(tmp_path / "out", preparation_of(changed, RAW)) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["preparing.json"]


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_worker_that_outlives_its_preparation_writes_nothing(
    folders: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    out, old = tmp_path / "out", dataclasses.replace(RAW, quality=50)
    prepared(folders, out, old)
    chunk, file = jobs_of(folders)[0]

    def another_begins(*what: Any, **how: Any) -> Any:
        made = make_shard(*what, **how)
        begin(out, preparation_of(folders, RAW))
        return made

    if when == "before":
        begin(out, preparation_of(folders, RAW))
    else:
        (out / file).unlink()
        monkeypatch.setattr(journal, "make_shard", another_begins)
    with pytest.raises(UserError, match=r"another preparation has begun in .*out"):
        recall_or_make(folders, chunk, out, file, old, preparation_of(folders, old).identity)
    assert [path.name for path in out.iterdir()] == ["preparing.json"]


@pytest.mark.parametrize("before", ["nothing", "another"])
def test_a_failure_at_any_step(tmp_path: Path, before: str) -> None:
    """Where there is a manifest all that it names is there and whole; and the same command ends as an undisturbed one."""
    folders = FolderSource(draw_folders(tmp_path / "in", per_class=1, size=SIZE))
    fresh, start, out = tmp_path / "fresh", tmp_path / "start", tmp_path / "sets" / "out"
    whole(folders, fresh)
    whole(folders, start, dataclasses.replace(RAW, shard_rows=4))

    def reset() -> None:
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(start, out) if before == "another" else out.parent.mkdir()

    wanted = {path.name: path.read_bytes() for path in fresh.iterdir()}
    for was in every_failure(out.parent, lambda: whole(folders, out), reset):
        if (out / "manifest.json").exists():
            for split in Manifest.load(out).splits.values():
                assert all(file_sha256(out / shard.file) == shard.sha256 for shard in split.shards), was
        whole(folders, out)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == wanted, was
