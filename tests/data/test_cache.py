"""The cache of shards on a node: shared by processes, bounded, and never short of what a process reads."""

import dataclasses
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from configs.errors import UserError
from tests import bucket as in_bucket
from tests import disk as on_disk
from tests.bucket import Bucket
from tests.workers import by_hand
from workers.data import cache as module
from workers.data import storage
from workers.data.cache import PART, Cache
from workers.data.dataset import Dataset
from workers.data.manifest import Manifest
from workers.data.shards import ShardInfo
from workers.data.storage import Remote
from workers.data.upload import upload

ROOT = Path(__file__).parents[2]
SECONDS = 30
"""How long another process may take for anything."""

FETCHER = """
import sys, time
from pathlib import Path
from pyarrow import fs
from workers.data.cache import Cache
from workers.data.manifest import Manifest
from workers.data.storage import Remote

class Noted(fs.LocalFileSystem):
    # Says which file is begun, and takes its time.
    def open_input_stream(self, path, *args, **settings):
        if path.endswith(".arrow"):
            with Path(sys.argv[3]).open("a") as log:
                log.write(path.rpartition("/")[2] + "\\n")
            time.sleep(float(sys.argv[4]))
        return super().open_input_stream(path, *args, **settings)

cache = Cache(Remote(Noted(), sys.argv[1], "far:"), Path(sys.argv[2]), 10**9)
shards = [shard for split in Manifest.load(cache.folder).splits.values() for shard in split.shards]
if sys.argv[5] == "ahead":
    cache.fetch_ahead(shards)
for shard in shards:
    cache.fetch(shard)
print("done")
"""


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uploaded data sets `far/a`, `far/b` and `far/c` of the same size; six shards each."""
    folder = tmp_path_factory.mktemp("far")
    by_hand.make_data_set(folder)
    manifest = Manifest.load(folder / "data")
    for name in "abc":
        copy = folder / f"data-{name}"
        shutil.copytree(folder / "data", copy)
        dataclasses.replace(manifest, source=f"the same under the name of {name}").write(copy)
        upload(copy, f"file://{folder / 'far' / name}")
    return folder / "far"


Opener = Callable[..., Cache]


@pytest.fixture
def opened(far: Path, root: Path) -> Iterator[Opener]:
    """Opens caches of `far`'s data sets, all in one folder."""
    with ExitStack() as stack:

        def open_it(name: str, limit_bytes: int = 10**9) -> Cache:
            return stack.enter_context(closing(Cache(Remote.at(f"file://{far / name}"), root, limit_bytes)))

        yield open_it


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def everything(cache: Cache) -> dict[str, bytes]:
    """Fetches all shards; returns what is there then. Closes it."""
    with closing(cache):
        for shard in shards_of(cache):
            cache.fetch(shard)
        return contents(cache.folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".arrow", ".json", ".npy")}


def shards_of(cache: Cache) -> list[ShardInfo]:
    return [shard for split in Manifest.load(cache.folder).splits.values() for shard in split.shards]


def kept(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("*.arrow"))


def fetcher(far: Path, root: Path, log: Path, seconds: float, how: str = "") -> "subprocess.Popen[str]":
    arguments = [str(far / "a"), str(root), str(log), str(seconds), how]
    return subprocess.Popen(
        [sys.executable, "-c", FETCHER, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", ["ahead", "when needed"])
def test_processes_of_a_node_fetch_each_shard_once(far: Path, tmp_path: Path, root: Path, how: str) -> None:
    log = tmp_path / "log"
    processes = [fetcher(far, root, log, 0.1, how) for _ in range(3)]
    for process in processes:
        out, errors = process.communicate(timeout=SECONDS)
        assert out == "done\n", errors
    assert sorted(log.read_text().split()) == sorted(path.name for path in (far / "a").glob("*.arrow"))
    [folder] = (path for path in root.iterdir() if path.is_dir())
    assert contents(folder) == contents(far / "a")
    assert not list(folder.glob(f"*{PART}"))


def test_what_a_killed_process_had_begun_is_fetched(far: Path, tmp_path: Path, opened: Opener, root: Path) -> None:
    log = tmp_path / "log"
    process = fetcher(far, root, log, 600)
    cache = opened("a")
    first = shards_of(cache)[0]
    part = cache.folder / (first.file + PART)
    for _ in range(SECONDS * 100):
        if log.exists():
            break
        threading.Event().wait(0.01)
    assert log.read_text().split() == [first.file] and part.exists()
    found: list[Path] = []
    waiting = threading.Thread(target=lambda: found.append(cache.fetch(first)))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive(), "another process has it"
    process.kill()
    process.communicate()
    waiting.join(SECONDS)
    assert found == [cache.folder / first.file]
    assert found[0].read_bytes() == (far / "a" / first.file).read_bytes()
    assert not part.exists()


def test_a_failure_at_any_step(far: Path, root: Path) -> None:
    """Of this disk: the next process ends with the same files."""

    def reset() -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()

    def run() -> dict[str, bytes]:
        return everything(Cache(Remote.at(f"file://{far / 'a'}"), root, 10**9))

    for was in on_disk.every_failure(root, run, reset):
        assert run() == contents(far / "a"), was


def test_a_failure_at_any_request(far: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the storage: what fails once is mended by another try."""
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.0)
    bucket, done = Bucket(), list[dict[str, bytes]]()
    wanted = contents(far / "a")
    for name, content in wanted.items():
        bucket.put(f"bucket/run/{name}", content)

    def reset() -> None:
        shutil.rmtree(root, ignore_errors=True)
        done.clear()

    def run() -> None:
        done.append(everything(Cache(bucket.remote(), root, 10**9)))

    for was in in_bucket.every_failure(bucket, run, reset, lambda: bool(done)):
        assert done or not was.startswith(in_bucket.ONCE), was
        run()
        assert done[-1] == wanted, was


@pytest.mark.parametrize("file", ["manifest.json", "mean.npy"])
def test_a_damaged_description_is_fetched_anew(far: Path, opened: Opener, file: str) -> None:
    cache = opened("a")
    for content in (b"", (far / "a" / file).read_bytes()[:-9]):
        everything(cache)
        (cache.folder / file).write_bytes(content)
        cache = opened("a")
        assert (cache.folder / file).read_bytes() == (far / "a" / file).read_bytes()


def test_one_that_stands_still_is_not_waited_for_for_ever(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_STANDSTILL_SECONDS", 0.3)
    cache = opened("a")
    shard = shards_of(cache)[0]
    with (cache.folder / (shard.file + PART)).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"is fetching file://.*a/train-0\.arrow, and has stood still for 0\.3 s"):
            cache.fetch(shard)


def test_shards_come_in_the_order_asked_for_and_are_there_when_needed(opened: Opener) -> None:
    cache = opened("a")
    dataset = Dataset(cache.folder, "train", fetch=cache.fetch)
    assert dataset.key(20) == "train/b/005.jpg"
    assert kept(cache) == ["train-2.arrow"]
    order = [shard.file for shard in dataset.shards_of([29, 3, 28, 0])]
    assert order == ["train-3.arrow", "train-0.arrow", "train-1.arrow", "train-2.arrow"]
    cache.fetch_ahead(dataset.shards_of([29, 3]))
    for thread in cache._threads:
        thread.join(SECONDS)
    assert kept(cache) == sorted(order)


def test_room_is_made_by_removing_what_was_not_used_for_longest(opened: Opener, root: Path) -> None:
    (other := root / "photos" / "train-00000-of-00001.arrow").parent.mkdir(parents=True)
    other.write_bytes(b"of somebody else")
    os.utime(other, (0, 0))
    a, b = opened("a"), opened("b")
    everything(a)
    everything(b)
    shards = shards_of(a)
    total = sum(shard.bytes for shard in shards)
    # All of `b` was used before all of `a`, but for one shard.
    for age, cache in ((100, a), (200, b)):
        for number, shard in enumerate(shards):
            time = 1_700_000_000 - age - number
            os.utime(cache.folder / shard.file, (time, time))
    everything(opened("b"))  # used again, all of it
    os.utime(b.folder / shards[0].file, (1, 1))
    # Room for two data sets and a little: the third takes the one shard of `b`, and most of `a`.
    opened("c", int(2.2 * total))
    assert shards[0].file not in kept(b) and len(kept(b)) == len(shards) - 1
    assert kept(a) and len(kept(a)) < len(shards)
    left = [shard for shard in shards if shard.file in kept(a)]
    assert left == shards[: len(left)], "the later ones were used before them"
    assert sum(shard.bytes for shard in left) + total - shards[0].bytes + total <= 2.2 * total
    assert other.exists()


def test_nothing_is_removed_that_a_process_reads(opened: Opener) -> None:
    everything(opened("a"))
    held = opened("a")
    total = sum(shard.bytes for shard in shards_of(held))
    with pytest.raises(UserError, match=r"beside 0\.000 GB that other runs are using; .*data\.cache_gigabytes=0\.0001"):
        opened("b", int(1.9 * total))
    assert len(kept(held)) == len(shards_of(held))
    # Nor is room given to two that would not fit once both are whole, though neither is here yet.
    empty = opened("c")
    held.close()
    with pytest.raises(UserError, match="that other runs are using"):
        opened("b", int(1.9 * total))
    empty.close()
    opened("b", int(1.9 * total))


def test_a_data_set_that_does_not_fit_is_refused_at_once(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    total = sum(shard.bytes for shard in shards_of(opened("a")))
    with pytest.raises(UserError, match=r"more than data\.cache_gigabytes=\S+ allows in .*cache\. Raise it"):
        opened("b", total - 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(total, 1, total - 1))
    with pytest.raises(UserError, match=r"GB free, and .* still to come; make room, or set data\.cache_folder"):
        opened("b")


def test_a_place_that_cannot_be_written_is_told(far: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"the cache in .*file/cache cannot be used: Not a directory; make room"):
        Cache(Remote.at(f"file://{far / 'a'}"), tmp_path / "file" / "cache", 10**9)


def test_a_changed_data_set_at_the_url_is_another_one(far: Path, tmp_path: Path, root: Path) -> None:
    copy, folders = tmp_path / "far", []
    for name in "ab":
        shutil.copytree(far / name, copy)
        with closing(Cache(Remote.at(f"file://{copy}"), root, 10**9)) as cache:
            folders.append(cache.folder)
        shutil.rmtree(copy)
    assert folders[0] != folders[1]
    assert Manifest.load(folders[1]).source == "the same under the name of b"
