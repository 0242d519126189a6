"""Data sets at URLs: uploads, and what comes back; through file://, a sub-tree file system, and a real S3 server."""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from tests.bucket import ONCE, Bucket, every_failure
from tests.cluster.runs import flip
from tests.s3 import S3Server
from tests.workers import by_hand
from workers.data import storage
from workers.data import upload as upload_module
from workers.data.cache import cache_root, local_folder, open_data
from workers.data.data_worker import DataWorker
from workers.data.manifest import FILE, Manifest
from workers.data.shards import CorruptShardError
from workers.data.storage import Remote, is_url, shown, without_keys_in
from workers.data.upload import check_listing, upload
from workers.program import Request

REQUESTS = (Request(split="train", start=20, count=25), Request(split="validation", start=0, count=12))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's folder: four training shards and two of validation, 40x40 pixels."""
    folder = tmp_path_factory.mktemp("prepared")
    by_hand.make_data_set(folder)
    return folder


def changed(folder: Path, **data: Any) -> Any:
    """The config of `by_hand`, with other settings of `data`."""
    config = by_hand.config(folder)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


def same_batches(config: Any, folder: Path) -> None:
    """As from the folder itself, bitwise."""
    far, near = DataWorker(config, "far"), DataWorker(by_hand.config(folder), "near")
    for request in REQUESTS:
        one, other = far.batch(request), near.batch(request)
        for name in one.keys() - {"seconds"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert far._cache is not None
    far._cache.close()


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    kind: Any = S3Server() if request.param == "s3" else nullcontext()
    with kind as server:
        yield server.url("sets/small") if server else f"file://{tmp_path / 'far' / 'small'}"


def test_what_was_uploaded_is_what_workers_read(url: str, prepared: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    upload(prepared / "data", url, progress=lambda done, total: seen.append((done, total)))
    manifest = Manifest.load(prepared / "data")
    total = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    assert len(seen) == 6 and seen[-1] == (total, total)
    there = Remote.at(url).sizes()
    assert there == {path.name: path.stat().st_size for path in (prepared / "data").iterdir()}
    config = changed(prepared, path=url, cache_folder=str(tmp_path / "cache"))
    same_batches(config, prepared)
    folder = local_folder(config.data)
    kept = {path.name for path in folder.iterdir() if not path.name.startswith("in-use")}
    assert kept == set(there), "nothing half-fetched is left"
    upload(prepared / "data", url)  # it is there already


@pytest.mark.parametrize("over_another", [False, True])
def test_a_failure_at_any_request_of_an_upload(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over_another: bool
) -> None:
    """Where there is a manifest all that it names is there and whole; what fails once is mended by another try."""
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(upload_module, "UPLOAD_THREADS", 1)
    bucket, other, done = Bucket(), tmp_path / "other", list[bool]()
    shutil.copytree(prepared / "data", other)
    dataclasses.replace(Manifest.load(other), classes=("x", "y")).write(other)
    upload(other, bucket.remote())
    with pytest.raises(UserError, match="there is another data set at gs://bucket/run; give another URL"):
        upload(prepared / "data", bucket.remote())
    before = dict(bucket.objects) if over_another else {}

    def reset() -> None:
        bucket.objects = dict(before)
        done.clear()

    def run() -> None:
        upload(prepared / "data", bucket.remote(), overwrite=over_another)
        done.append(True)

    wanted = {f"bucket/run/{path.name}": path.read_bytes() for path in (prepared / "data").iterdir()}
    for was in every_failure(bucket, run, reset, lambda: bool(done)):
        there = {path: content for path, (content, _) in bucket.objects.items()}
        if f"bucket/run/{FILE}" in there:
            assert {**there, f"bucket/run/{FILE}": b""} == {**wanted, f"bucket/run/{FILE}": b""}, was
        assert done or not was.startswith(ONCE), was
        upload(prepared / "data", bucket.remote(), overwrite=True)
        assert {path: content for path, (content, _) in bucket.objects.items()} == wanted, was


def test_a_damaged_folder_is_not_uploaded(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared / "data", data)
    flip(data / "train-2.arrow")
    bucket = Bucket()
    with pytest.raises(CorruptShardError, match=r"train-2\.arrow is damaged: it has another checksum"):
        upload(data, bucket.remote())
    assert not {f"bucket/run/{FILE}", "bucket/run/train-2.arrow"} & bucket.objects.keys()


def test_what_is_wrong_at_the_url_is_told(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.0)
    far = tmp_path / "far"
    upload(prepared / "data", f"file://{far}")
    config = changed(prepared, path=f"file://{far}", cache_folder=str(tmp_path / "cache"))
    manifest = Manifest.load(far)
    (far / "train-0.arrow").write_bytes(b"short")
    (far / "validation-1.arrow").unlink()
    with pytest.raises(UserError) as caught:
        check_listing(Remote.at(config.data.path), manifest)
    size = manifest.splits["train"].shards[0].bytes
    assert "2 of 6 shards" in str(caught.value)
    assert f"train-0.arrow has 5 bytes instead of {size:,}; validation-1.arrow is missing" in str(caught.value)
    folder, cache = open_data(config.data)
    assert cache is not None
    with pytest.raises(CorruptShardError, match=rf"far/train-0\.arrow is damaged: it has 5 bytes instead of {size:,}"):
        cache.fetch(manifest.splits["train"].shards[0])
    with pytest.raises(UserError, match=r"far/validation-1\.arrow is missing"):
        cache.fetch(manifest.splits["validation"].shards[1])
    flip(far / "train-1.arrow")
    with pytest.raises(CorruptShardError, match=r"far/train-1\.arrow is damaged: it has another checksum"):
        cache.fetch(manifest.splits["train"].shards[1])
    assert not list(folder.glob("*.arrow"))
    cache.close()


def test_a_storage_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.0)
    bucket = Bucket()
    bucket.fail(1, "away")
    said = r"gs://bucket/run/a cannot be read: 503 for bucket/run/a.* \(3 tries\)\. Check the URL"
    with pytest.raises(UserError, match=said):
        bucket.remote().read("a")
    assert capsys.readouterr().err.count("note: gs://bucket/run/a cannot be read yet (503") == 2
    with pytest.raises(UserError, match=r"gs://bucket/run.* cannot be listed"):
        bucket.remote().tree()


@pytest.mark.parametrize("url", ["nonsense://a/b", "s3://", "http://somewhere/data"])
def test_urls_of_other_kinds_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=re.escape(shown(url)) + r".* cannot be used as a place for data .*s3://bucket"):
        Remote.at(url)


def test_keys_do_not_stand_in_messages() -> None:
    assert shown("s3://key:secret@bucket/a/?endpoint_override=x&secret_key=hidden") == "s3://bucket/a"
    said = "train.py data.path=s3://me:mine@bucket/set?region=x&secret_key=mine train.epochs=3 at 12://no"
    assert without_keys_in(said) == "train.py data.path=s3://bucket/set?region=x train.epochs=3 at 12://no"
    assert is_url("file:///a") and not is_url("/a/b") and not is_url("data/small")


def test_the_cache_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = by_hand.config(tmp_path).data
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root(data) == tmp_path / "xdg" / "two-column-alexnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root(data) == tmp_path / ".cache" / "two-column-alexnet"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # of nobody, as in a container that was given a number alone
    with pytest.raises(UserError, match=r"no home folder to keep shards in; set data\.cache_folder"):
        cache_root(data)
    assert os.path.isabs(cache_root(dataclasses.replace(data, cache_folder="mine")))
    assert local_folder(data) == Path(data.path), "a folder is used as it is"
    assert open_data(data) == (Path(data.path), None)
