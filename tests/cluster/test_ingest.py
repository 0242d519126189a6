"""`prepare` with a real Ray: going on, starting anew, and what can go wrong on the way."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.ingest import prepare
from cluster.ray_session import ray_session
from configs.errors import UserError
from tests.data.pictures import draw_folders
from workers.data.dataset import Dataset
from workers.data.journal import Preparation, Settings, only_one
from workers.data.manifest import Manifest
from workers.data.sources import FolderSource

ROOT = Path(__file__).parents[2]
SIZE = 24


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with ray_session(None, num_cpus=2, object_store_bytes=100 * 2**20) as ray_module:
        yield ray_module


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    return FolderSource(draw_folders(tmp_path / "in", per_class=20, size=SIZE))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


class Stopped(Exception):  # noqa: N818 - stands for a kill, at a place that a test can choose
    pass


def stop_after(images: int) -> Any:
    def on_progress(done: int, total: int) -> None:
        if done >= images:
            raise Stopped

    return on_progress


def test_going_on_ends_with_the_same_files(
    ray: Any, source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = prepare(source, tmp_path / "undisturbed", ray_module=ray, size=SIZE, shard_rows=4)
    out = tmp_path / "out"
    for images in (8, 20):
        with pytest.raises(Stopped):
            prepare(source, out, ray_module=ray, size=SIZE, shard_rows=4, workers=1, on_progress=stop_after(images))
        assert not (out / "manifest.json").exists()
    capsys.readouterr()
    assert prepare(source, out, ray_module=ray, size=SIZE, shard_rows=4) == expected
    assert "continuing: " in capsys.readouterr().err
    assert contents(out) == contents(tmp_path / "undisturbed")


def test_other_settings_start_anew_and_say_so(
    ray: Any, source: FolderSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        prepare(source, out, ray_module=ray, size=SIZE + 1, shard_rows=4, on_progress=stop_after(8))
    prepare(source, out, ray_module=ray, size=SIZE, shard_rows=4, encoding="raw")
    told = capsys.readouterr().err
    assert f"size {SIZE + 1} instead of {SIZE}, encoding jpeg instead of raw: starting anew" in told
    assert "continuing" not in told
    prepare(source, tmp_path / "fresh", ray_module=ray, size=SIZE, shard_rows=4, encoding="raw")
    assert contents(out) == contents(tmp_path / "fresh")
    dataset = Dataset(out, "train")
    assert {len(dataset.jpeg(row)) for row in range(len(dataset))} == {SIZE * SIZE * 3}


def test_cut_off_while_cleaning_up_it_is_done(ray: Any, source: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = prepare(source, out, ray_module=ray, size=SIZE)
    expected = contents(out)
    settings = Settings(size=SIZE, quality=95, shard_rows=4096, encoding="jpeg", apply_orientation=False)
    jobs = [(chunk, f"{split}-00000-of-00001.arrow") for split in source.splits for chunk in source.chunks(split, 4096)]
    left_over = Preparation.of(source, jobs, settings).to_json()
    for overwrite in (False, True):
        (out / "preparing.json").write_bytes(left_over)
        (out / "train-00000-of-00001.done.npz").write_bytes(b"")
        assert prepare(source, out, ray_module=ray, size=SIZE, overwrite=overwrite) == made
        assert contents(out) == expected
    # Of another preparation, it does not make the data set one that may be replaced.
    (out / "preparing.json").write_bytes(left_over)
    with pytest.raises(UserError, match="holds a data set already"):
        prepare(source, out, ray_module=ray, size=SIZE + 1)
    assert (out / "manifest.json").exists()


def test_two_at_a_time_are_one_too_many(ray: Any, source: FolderSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with only_one(out), pytest.raises(UserError, match=r"another process is preparing .*out"):
        prepare(source, out, ray_module=ray, size=SIZE)
    assert not list(out.iterdir())
    prepare(source, out, ray_module=ray, size=SIZE)


def test_a_worker_that_is_killed_changes_nothing(ray: Any, source: FolderSource, tmp_path: Path) -> None:
    expected = prepare(source, tmp_path / "undisturbed", ray_module=ray, size=SIZE, shard_rows=2)
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done >= 6 and not killed:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # one that ends just now
                    # Not Ray's agents, whose names begin with ray:: too: with them the node would go.
                    if " ".join(process.cmdline()).startswith(("ray::recall_or_make", "ray::IDLE")):
                        killed.append(process.pid)
                        process.kill()

    found = prepare(source, tmp_path / "out", ray_module=ray, size=SIZE, shard_rows=2, on_progress=kill_one)
    assert killed
    assert found == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


FULL_DISK = """
mount -t tmpfs -o size=1m none "$2" || exit 77
"$0" -m cluster.prepare folder "$1" --size 64 --encoding raw --shard-rows 10 --out "$2/out" --workers 1 2>"$3"
code=$?
df --output=avail "$2" | tail -1
mount -o remount,size=20m "$2"
"$0" -m cluster.prepare folder "$1" --size 64 --encoding raw --shard-rows 10 --out "$2/out" --workers 1 2>"$4"
cp -r "$2/out" "$5"
exit $code
"""


def test_a_full_disk_is_one_error_and_room_lets_it_go_on(ray: Any, tmp_path: Path) -> None:
    source = draw_folders(tmp_path / "in", per_class=60, size=64)
    (tmp_path / "disk").mkdir()
    first, second, copy = tmp_path / "first", tmp_path / "second", tmp_path / "copy"
    script = ["unshare", "--mount", "sh", "-c", FULL_DISK, sys.executable]
    paths = [str(path) for path in (source, tmp_path / "disk", first, second, copy)]
    try:
        ran = subprocess.run([*script, *paths], cwd=ROOT, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        pytest.skip("no `unshare`: a small file system cannot be mounted")
    if "unshare" in ran.stderr or ran.returncode == 77:
        pytest.skip(f"a small file system cannot be mounted: {ran.stderr.strip()}")
    assert ran.returncode == 2, ran.stderr + first.read_text()
    [error] = [line for line in first.read_text().splitlines() if line.startswith("error: ")]
    assert "No space left on device" in error
    assert "the same command again: it goes on" in error
    assert "Traceback" not in first.read_text()
    assert "continuing: " in second.read_text()
    prepare(FolderSource(source), tmp_path / "fresh", ray_module=ray, size=64, shard_rows=10, encoding="raw")
    assert contents(copy) == contents(tmp_path / "fresh")
    Manifest.load(copy)
