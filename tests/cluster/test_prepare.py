"""`python -m cluster.prepare` with a real Ray: what a user types, sees and finds on disk, and that it goes on after any end."""

import contextlib
import hashlib
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import prepare as command
from cluster.ingest import TooManyBadImages, prepare
from cluster.ray_session import ray_session
from configs.errors import UserError
from tests.cluster.runs import Run, alive
from tests.data.archives import TEST_DATA
from tests.data.pictures import draw_folders, jpeg
from workers.data.dataset import Dataset
from workers.data.journal import FILE, NOTE_SUFFIX, Preparation, Settings, only_one
from workers.data.manifest import Manifest
from workers.data.sources import FolderSource

SIZE = 24


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One private Ray for the tests of this file that call `prepare`."""
    with ray_session(None, num_cpus=2, object_store_bytes=100 * 2**20) as ray_module:
        yield ray_module


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    """20 training and 3 validation images of each of two classes, below tmp_path/in."""
    return FolderSource(draw_folders(tmp_path / "in", per_class=20, size=SIZE))


@pytest.fixture
def prepared(ray: Any, source: FolderSource, tmp_path: Path) -> Callable[..., Manifest]:
    """`prepare` of the source to a folder, by its name in tmp_path."""

    def call(name: str, *, size: int = SIZE, **options: Any) -> Manifest:
        return prepare(source, tmp_path / name, ray_module=ray, size=size, **options)

    return call


def run(folder: Path, *arguments: object) -> Run:
    """The command, as a user runs it."""
    return Run(folder, "prepare", module="prepare", arguments=tuple(map(str, arguments)))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_command_makes_a_data_set_and_sets_bad_images_aside(source: FolderSource, tmp_path: Path) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    bad = root / "train/a/bad.jpg"
    bad.write_bytes(jpeg(999, SIZE, SIZE)[:-60])
    done = run(tmp_path, "folder", root, "--out", out, "--size", SIZE, "--shard-rows", 7, "--workers", 2)
    assert done.finish() == 0, done.text
    manifest = Manifest.load(out)
    for words in (
        f"train 40, validation 6 of 2 classes, {SIZE}x{SIZE}", "bad images  1 ", "train train/a/bad.jpg: damaged JPEG: ",
        f"fingerprint {manifest.fingerprint}", f"python -m cluster.train CONFIG data.path={out}",
    ):  # fmt: skip
        assert words in done.text
    assert [(image.split, image.key) for image in manifest.quarantined] == [("train", "train/a/bad.jpg")]
    assert command.main(["verify", str(out), "--workers", "1"]) == 0
    bad.unlink()
    for split in ("train", "validation"):
        stored = Dataset(out, split)
        hashes = Counter(hashlib.sha256(stored.jpeg(index).data).hexdigest() for index in range(len(stored)))
        files = (root / split).rglob("*.jpg")
        assert hashes == Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    dataset = Dataset(out, "train")
    assert [dataset.key(index).split("/")[1] for index in range(40)] == ["a"] * 20 + ["b"] * 20
    assert dataset.labels.tolist() == [0] * 20 + [1] * 20


def test_no_validation_images_is_told_before_the_work(
    source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["folder", str(tmp_path / "in/train"), "--validation-fraction", "0", "--out", str(tmp_path / "out")]
    assert command.main([*words, "--size", str(SIZE)]) == 0
    assert capsys.readouterr().err.startswith("note: there are no validation images, and cluster.train needs some\n")


def test_wrong_input_is_one_clear_line_and_exit_code_2(
    source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, finished = tmp_path / "out", tmp_path / "in"
    (tmp_path / "file").write_text("")
    (tmp_path / "done").mkdir()
    (tmp_path / "done/manifest.json").write_text("{}")
    for kind, given, to, message in (
        ("parquet", tmp_path / "nowhere", out, "no Parquet file or folder at "),
        ("folder", finished, tmp_path / "done", "holds a data set already. Add --overwrite"),
        ("folder", finished, tmp_path / "file", "is a file: give a folder"),
    ):
        assert command.main([kind, str(given), "--out", str(to)]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and message in printed.err
        assert printed.err.count("\n") == 1 and printed.out == ""
    assert command.main(["upload", str(out), f"file://{tmp_path}/bucket"]) == 2
    assert "no data set at" in capsys.readouterr().err
    assert not out.exists() and not (tmp_path / "bucket").exists()


def test_only_own_files_are_replaced(prepared: Callable[..., Manifest], tmp_path: Path) -> None:
    """And two at a time are one too many."""
    out = tmp_path / "out"
    out.mkdir()
    with only_one(out), pytest.raises(UserError, match=r"another process is preparing .*out"):
        prepared("out")
    assert not list(out.iterdir())
    foreign = ["notes.txt", "train.arrow", "my-train-00000-of-00001.arrow", "train-00000-of-00001.arrow.bak"]
    leftovers = ["train-00009-of-00010.arrow", "validation-00000-of-00001.arrow.0123abcd.tmp", "manifest.json.tmp"]
    for name in foreign + leftovers:
        (out / name).write_text(name)
    cases: list[tuple[dict[str, Any], int]] = [({}, 2), ({"shard_rows": 10, "overwrite": True}, 5)]
    for options, count in cases:
        manifest = prepared("out", **options)
        shards = [shard.file for split in manifest.splits.values() for shard in split.shards]
        assert len(shards) == count
        assert {path.name for path in out.iterdir()} == {*foreign, *shards, "manifest.json", "mean.npy"}
        with pytest.raises(UserError, match="--overwrite"):
            prepared("out")
    assert all((out / name).read_text() == name for name in foreign)


def test_too_many_bad_images_leave_no_data_set(prepared: Callable[..., Manifest], tmp_path: Path) -> None:
    bad = sorted((tmp_path / "in/train/b").iterdir())
    for path in bad[:10]:
        path.write_bytes(b"")
    # Ten are tolerated however small the share; the eleventh is one too many.
    assert len(prepared("out").quarantined) == 10
    bad[10].write_bytes(b"")
    with pytest.raises(TooManyBadImages, match=r"11 of 46 .*--max-bad 0\.1 (.|\n)*empty\n  and 1 more"):
        prepared("out", max_bad=0.1, overwrite=True)
    assert not (tmp_path / "out/manifest.json").exists()
    assert prepared("out", max_bad=11 / 46).splits["train"].rows == 29
    for path in (tmp_path / "in/train").rglob("*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no training image of .* is usable:\n  train train/a/000\.jpg: no known"):
        prepared("other", max_bad=1.0)
    assert not (tmp_path / "other/manifest.json").exists()


def test_error_in_a_task_reaches_the_user_as_it_is(prepared: Callable[..., Manifest], tmp_path: Path) -> None:
    out = tmp_path / "out"

    def lose_folder(done: int, total: int) -> None:
        if done and out.exists():
            out.rename(tmp_path / "moved")

    with pytest.raises(UserError, match=r"cannot write a shard in .*out|is not seen here"):
        prepared("out", shard_rows=1, on_progress=lose_folder)


def test_cut_off_while_cleaning_up_it_is_done(
    prepared: Callable[..., Manifest], source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = prepared("out"), tmp_path / "out"
    expected = contents(out)
    settings = Settings(size=SIZE, quality=95, shard_rows=4096, encoding="jpeg", apply_orientation=False)
    jobs = [(chunk, f"{split}-00000-of-00001.arrow") for split in source.splits for chunk in source.chunks(split, 4096)]
    left_over = Preparation.of(source, jobs, settings).to_json()
    for overwrite in (False, True):
        (out / FILE).write_bytes(left_over)
        (out / "train-00000-of-00001.done.npz").write_bytes(b"")
        assert prepared("out", overwrite=overwrite) == made
        assert contents(out) == expected
    # Of another preparation, it does not make the data set one that may be replaced.
    (out / FILE).write_bytes(left_over)
    with pytest.raises(UserError, match="holds a data set already"):
        prepared("out", size=SIZE + 1)
    (out / "manifest.json").unlink()
    assert prepared("out", size=SIZE + 1).image_size == SIZE + 1
    assert f"size {SIZE} instead of {SIZE + 1}: starting anew" in capsys.readouterr().err


def test_a_worker_that_is_killed_changes_nothing(prepared: Callable[..., Manifest], tmp_path: Path) -> None:
    expected = prepared("undisturbed", shard_rows=2)
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done >= 6 and not killed:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # one that ends just now
                    # Not Ray's agents, whose names begin with ray:: too: with them the node would go.
                    if " ".join(process.cmdline()).startswith(("ray::recall_or_make", "ray::IDLE")):
                        killed.append(process.pid)
                        process.kill()

    assert prepared("out", shard_rows=2, on_progress=kill_one) == expected
    assert killed
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


@pytest.mark.ci
def test_a_full_disk_is_one_error_and_room_lets_it_go_on(ray: Any, tmp_path: Path, small_disk: Path) -> None:
    root, out = draw_folders(tmp_path / "more", per_class=180, size=64), small_disk / "out"
    words = ["folder", root, "--size", 64, "--encoding", "raw", "--shard-rows", 10, "--workers", 1, "--out", out]
    full = run(tmp_path, *words)
    assert full.finish() == 2, full.text
    [error] = [line for line in full.text.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in error and "the same command again: it goes on" in error
    assert "Traceback" not in full.text
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = run(tmp_path, *words)
    assert again.finish() == 0 and "continuing: " in again.text
    prepare(FolderSource(root), tmp_path / "fresh", ray_module=ray, size=64, shard_rows=10, encoding="raw")
    assert contents(out) == contents(tmp_path / "fresh")
    Manifest.load(out)


def test_interrupt_leaves_no_data_set_and_no_process_and_the_same_command_finishes(tmp_path: Path) -> None:
    root, out = draw_folders(tmp_path / "in", per_class=150, size=400), tmp_path / "out"
    words = ["folder", root, "--out", out, "--size", 300, "--shard-rows", 2, "--workers"]
    begun = run(tmp_path, *words, 1)
    begun.wait_for(lambda: any(out.glob("*.arrow")))
    children = begun.descendants()
    assert children
    begun.interrupt()
    assert begun.finish(60) == 130, begun.text
    assert "interrupted: the same command goes on from what is there" in begun.text
    assert "Traceback" not in begun.text
    assert not alive(children, 60)
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="never finished"):
        Manifest.load(out)
    done = run(tmp_path, *words, 2)
    assert done.finish() == 0, done.text
    assert re.search(r"continuing: [1-9]\d* of 153 shards are there", done.text)
    assert "train 300, validation 6" in done.text
    assert len(list(out.iterdir())) == 150 + 3 + 2


@pytest.mark.ci
def test_killed_at_random_moments_it_ends_with_the_same_files(tmp_path: Path) -> None:
    """kill -9 of the command, of Ray's daemons and of all workers. Its size makes it encode anew, which takes its time."""
    photos = TEST_DATA / "tiny-imagenet-100" / "validation-00000-of-00001.parquet"
    kind = ("parquet", photos)
    if not photos.is_file():
        kind = ("folder", draw_folders(tmp_path / "in", per_class=500, size=64))
    whole, out = tmp_path / "undisturbed", tmp_path / "killed"

    def start(out: Path, workers: int) -> Run:
        begun = run(tmp_path, *kind, "--size", 96, "--shard-rows", 100, "--workers", workers, "--out", out)
        begun.wait_for(out.is_dir)
        return begun

    undisturbed, began = start(whole, 2), time.monotonic()
    undisturbed.wait_for((whole / "manifest.json").exists)
    seconds = time.monotonic() - began
    assert undisturbed.finish() == 0, undisturbed.text
    assert all(name.endswith((".arrow", ".json", ".npy")) for name in contents(whole))
    moments, done = random.Random(3), out / "manifest.json"
    for _ in range(3):  # each goes on from what the last one left
        killed = start(out, 2)
        time.sleep(moments.uniform(0, 0.6 * seconds))
        killed.kill_tree()
    if not done.exists() or (out / FILE).exists():
        unfinished, notes = not done.exists(), len(list(out.glob(f"*{NOTE_SUFFIX}")))
        last = start(out, 1)
        assert last.finish() == 0, last.text
        assert (f"continuing: {notes} of" in last.text) == (unfinished and notes > 0), last.text
    assert contents(out) == contents(whole)
