"""`python -m cluster.prepare` with a real Ray: what a user types, sees, and finds on disk."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from cluster import prepare as command
from cluster.ingest import TooManyBadImages, prepare
from cluster.ray_session import ray_session
from configs.errors import UserError
from workers.data.dataset import Dataset, verify_checksums
from workers.data.manifest import Manifest
from workers.data.sources import FolderSource

ROOT = Path(__file__).parents[2]
SIZE = 16


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One private Ray for the tests of this file that call `prepare`."""
    with ray_session(None, num_cpus=2, object_store_bytes=100 * 2**20) as ray_module:
        yield ray_module


def jpeg(seed: int, size: int = SIZE) -> bytes:
    """A picture of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def draw(root: Path, per_class: int = 20, size: int = SIZE) -> Path:
    """root/train/{a,b}/*.jpg with `per_class` images each, and 3 each in root/validation."""
    seed = 0
    for split, count in (("train", per_class), ("validation", 3)):
        for name in "ab":
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:03d}.jpg").write_bytes(jpeg(seed, size))
                seed += 1
    return root


def hashes(out: Path, split: str) -> Counter[str]:
    """How often each JPEG is stored."""
    dataset = Dataset(out, split)
    return Counter(hashlib.sha256(dataset.jpeg(index).data).hexdigest() for index in range(len(dataset)))


def file_hashes(folder: Path) -> Counter[str]:
    """How often each file occurs in the source."""
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg"))


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command, as a user runs it."""
    line = [sys.executable, "-m", "cluster.prepare", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_command_makes_a_data_set_and_sets_bad_images_aside(tmp_path: Path) -> None:
    source, out = draw(tmp_path / "in"), tmp_path / "out"
    bad = source / "train/a/bad.jpg"
    bad.write_bytes(jpeg(999)[:-60])
    done = run("folder", source, "--out", out, "--size", SIZE, "--shard-rows", 7, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "train 40, validation 6 of 2 classes, 16x16" in done.stdout
    assert "bad images  1 " in done.stdout
    assert "train train/a/bad.jpg: damaged JPEG: " in done.stdout
    manifest = Manifest.load(out)
    assert f"fingerprint {manifest.fingerprint}" in done.stdout
    assert f"python -m cluster.train CONFIG data.path={out}" in done.stdout
    assert [(image.split, image.key) for image in manifest.quarantined] == [("train", "train/a/bad.jpg")]
    verify_checksums(out, manifest)
    bad.unlink()
    for split in ("train", "validation"):
        assert hashes(out, split) == file_hashes(source / split)
    dataset = Dataset(out, "train")
    assert [dataset.key(index).split("/")[1] for index in range(40)] == ["a"] * 20 + ["b"] * 20
    assert dataset.labels.tolist() == [0] * 20 + [1] * 20
    buffer = np.empty((SIZE, SIZE, 3), np.uint8)
    total = np.zeros((SIZE, SIZE, 3))
    for index in range(40):
        dataset.decode_into(index, buffer)
        total += buffer
    assert np.allclose(manifest.pixel_mean(out), total / 40, atol=1e-4)


def test_no_validation_images_is_told_before_the_work(tmp_path: Path) -> None:
    source = draw(tmp_path / "in") / "train"
    done = run("folder", source, "--validation-fraction", 0, "--out", tmp_path / "out", "--size", SIZE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("note: there are no validation images, and cluster.train needs some\n")


def test_wrong_input_is_one_clear_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    finished = draw(tmp_path / "in", per_class=1)
    (tmp_path / "file").write_text("")
    (tmp_path / "done").mkdir()
    (tmp_path / "done/manifest.json").write_text("{}")
    for arguments, message in (
        (["parquet", tmp_path / "nowhere", "--out", out], "no Parquet file or folder at "),
        (["folder", tmp_path / "nowhere", "--out", out], "no folder at "),
        (["folder", tmp_path / "empty", "--out", out], "no images below it"),
        (["folder", finished, "--out", tmp_path / "done"], "holds a data set already. Add --overwrite"),
        (["folder", finished, "--out", tmp_path / "file"], "is a file: give a folder"),
    ):
        assert command.main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
    assert not out.exists()


def test_help_has_examples() -> None:
    done = run("parquet", "--help")
    assert done.returncode == 0
    assert "python -m cluster.prepare parquet downloads" in done.stdout


def test_same_source_gives_the_same_fingerprint_whatever_the_order_of_tasks(ray: Any, tmp_path: Path) -> None:
    source = FolderSource(draw(tmp_path / "in"))
    first = prepare(source, tmp_path / "one", ray_module=ray, size=SIZE, shard_rows=3)
    second = prepare(source, tmp_path / "two", ray_module=ray, size=SIZE, shard_rows=3, workers=1)
    assert first == second
    assert first.fingerprint == second.fingerprint
    assert len(first.splits["train"].shards) == 14
    other = prepare(source, tmp_path / "three", ray_module=ray, size=SIZE + 1)
    assert other.fingerprint != first.fingerprint


def test_only_own_files_are_replaced(ray: Any, tmp_path: Path) -> None:
    source, out = FolderSource(draw(tmp_path / "in")), tmp_path / "out"
    out.mkdir()
    foreign = ["notes.txt", "train.arrow", "my-train-00000-of-00001.arrow", "train-00000-of-00001.arrow.bak"]
    leftovers = ["train-00009-of-00010.arrow", "validation-00000-of-00001.arrow.0123abcd.tmp", "manifest.json.tmp"]
    for name in foreign + leftovers:
        (out / name).write_text(name)
    manifest = prepare(source, out, ray_module=ray, size=SIZE)
    shards = [shard.file for split in manifest.splits.values() for shard in split.shards]
    expected = {*foreign, *shards, "manifest.json", "mean.npy"}
    assert {path.name for path in out.iterdir()} == expected
    with pytest.raises(UserError, match="--overwrite"):
        prepare(source, out, ray_module=ray, size=SIZE)
    again = prepare(source, out, ray_module=ray, size=SIZE, shard_rows=10, overwrite=True)
    shards = [shard.file for split in again.splits.values() for shard in split.shards]
    assert len(shards) == 5
    assert {path.name for path in out.iterdir()} == {*foreign, *shards, "manifest.json", "mean.npy"}
    assert all((out / name).read_text() == name for name in foreign)


def test_too_many_bad_images_leave_no_data_set(ray: Any, tmp_path: Path) -> None:
    root, out = draw(tmp_path / "in"), tmp_path / "out"
    for number in range(10):
        (root / f"train/b/{number:03d}.jpg").write_bytes(b"")
    # Ten are tolerated however small the share; the eleventh is one too many.
    assert len(prepare(FolderSource(root), out, ray_module=ray, size=SIZE).quarantined) == 10
    (root / "train/b/010.jpg").write_bytes(b"")
    with pytest.raises(TooManyBadImages, match=r"11 of 46 .*--max-bad 0\.1 (.|\n)*empty\n  and 1 more"):
        prepare(FolderSource(root), out, ray_module=ray, size=SIZE, max_bad=0.1, overwrite=True)
    assert not (out / "manifest.json").exists()
    assert prepare(FolderSource(root), out, ray_module=ray, size=SIZE, max_bad=11 / 46).splits["train"].rows == 29


def test_no_usable_training_image_is_an_error(ray: Any, tmp_path: Path) -> None:
    root = draw(tmp_path / "in", per_class=2)
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no training image of .* is usable:\n  train train/a/000\.jpg: no known"):
        prepare(FolderSource(root), tmp_path / "out", ray_module=ray, size=SIZE)
    assert not (tmp_path / "out/manifest.json").exists()


def test_error_in_a_task_reaches_the_user_as_it_is(ray: Any, tmp_path: Path) -> None:
    source, out = FolderSource(draw(tmp_path / "in")), tmp_path / "out"

    def lose_folder(done: int, total: int) -> None:
        if done and out.exists():
            out.rename(tmp_path / "moved")

    with pytest.raises(UserError, match=r"cannot write a shard in .*out|is not seen here"):
        prepare(source, out, ray_module=ray, size=SIZE, shard_rows=1, on_progress=lose_folder)


def test_interrupt_leaves_no_data_set_and_no_process_and_the_same_command_finishes(tmp_path: Path) -> None:
    source, out = draw(tmp_path / "in", per_class=150, size=400), tmp_path / "out"
    arguments = ["folder", source, "--out", out, "--size", 300, "--shard-rows", 2, "--workers", 1]
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.prepare", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("*.arrow")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted: the same command goes on from what is there" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="never finished"):
        Manifest.load(out)
    done = run(*arguments, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"continuing: [1-9]\d* of 153 shards are there", done.stderr)
    assert "train 300, validation 6" in done.stdout
    assert len(list(out.iterdir())) == 150 + 3 + 2
