"""A preparation that was cut off: what is trusted when it goes on, and what is made again. Without Ray."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from tests.data.pictures import draw_folders
from workers.data.ingest import ChunkResult
from workers.data.journal import NOTE_SUFFIX, Preparation, Settings, begin, differences, end, recall_or_make
from workers.data.shards import file_sha256
from workers.data.sources import Chunk, FolderSource

ROOT = Path(__file__).parents[2]
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


def test_a_worker_that_outlives_its_preparation_writes_nothing(folders: FolderSource, tmp_path: Path) -> None:
    out, old = tmp_path / "out", dataclasses.replace(RAW, quality=50)
    prepared(folders, out, old)
    chunk, file = jobs_of(folders)[0]
    begin(out, preparation_of(folders, RAW))
    with pytest.raises(UserError, match=r"another preparation has begun in .*out"):
        recall_or_make(folders, chunk, out, file, old, preparation_of(folders, old).identity)
    assert [path.name for path in out.iterdir()] == ["preparing.json"]


FILLS_UP = """
import resource, signal, sys
from tests.data import test_journal as test
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    test.prepared(test.FolderSource(sys.argv[1]), test.Path(sys.argv[2]), test.RAW)
except OSError as error:
    sys.exit(f"refused: {error.strerror}")
"""


def test_a_disk_that_refuses_leaves_nothing_half_done(folders: FolderSource, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    out = tmp_path / "out"
    line = [sys.executable, "-c", FILLS_UP, str(tmp_path / "in"), str(out)]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stderr == "refused: File too large\n"
    assert [path.name for path in out.iterdir()] == ["preparing.json"]
    assert same(prepared(folders, out, RAW), prepared(folders, tmp_path / "fresh", RAW))
