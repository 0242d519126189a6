"""Data sets at URLs: uploads, and what comes back; through file://, a sub-tree file system, and a real S3 server."""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from configs.errors import UserError
from tests.workers import by_hand
from workers.data import storage
from workers.data.cache import cache_root, local_folder, open_data
from workers.data.data_worker import DataWorker
from workers.data.manifest import FILE, Manifest
from workers.data.shards import CorruptShardError
from workers.data.storage import Remote, check_listing, is_url, shown, upload, without_keys_in
from workers.program import Request

REQUESTS = (Request(split="train", start=20, count=25), Request(split="validation", start=0, count=12))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's folder: four training shards and two of validation, 40x40 pixels."""
    folder = tmp_path_factory.mktemp("prepared")
    by_hand.make_data_set(folder)
    return folder


@pytest.fixture
def moto(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server on loopback, with an empty bucket; skips where moto is not installed."""
    server_module = pytest.importorskip("moto.server", reason="moto[server], a pretend S3, is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    server_query = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    fs.FileSystem.from_uri(f"s3://pictures?{server_query}&allow_bucket_creation=true")[0].create_dir("pictures")
    yield f"s3://pictures/sets/small?{server_query}"
    server.stop()


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


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_what_was_uploaded_is_what_workers_read(
    kind: str, prepared: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"file://{tmp_path / 'far' / 'small'}" if kind == "file" else request.getfixturevalue("moto")
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


def test_sub_tree_file_system(prepared: Path, tmp_path: Path) -> None:
    remote = Remote(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "sets/small", "tree:")
    upload(prepared / "data", remote)
    assert (tmp_path / "sets" / "small" / FILE).read_bytes() == (prepared / "data" / FILE).read_bytes()
    check_listing(remote, Manifest.load(prepared / "data"))
    assert remote.read(FILE) == (prepared / "data" / FILE).read_bytes()


def test_the_manifest_comes_last_and_goes_first(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an upload stops, there is no manifest, or it is that of what is there."""
    url, far = f"file://{tmp_path / 'far'}", tmp_path / "far"
    manifest = Manifest.load(prepared / "data")
    writes: list[str] = []
    write = Remote.write

    def noted(remote: Remote, file: str, chunks: Any) -> None:
        writes.append(file)
        assert not (far / FILE).exists()
        if len(writes) == stop_at:
            raise KeyboardInterrupt
        write(remote, file, chunks)

    monkeypatch.setattr(Remote, "write", noted)
    monkeypatch.setattr(storage, "UPLOAD_THREADS", 1)
    files = len(list((prepared / "data").iterdir()))
    for stop_at in range(1, files + 1):  # noqa: B007 - `noted` sees it
        writes.clear()
        with pytest.raises(KeyboardInterrupt):
            upload(prepared / "data", url)
        assert not (far / FILE).exists()
    stop_at = 0
    writes.clear()
    upload(prepared / "data", url)
    assert writes[-2:] == [manifest.pixel_mean_file, FILE]
    # Another data set takes its place only when told to, and its manifest is the last to come again.
    other = tmp_path / "other"
    shutil.copytree(prepared / "data", other)
    dataclasses.replace(manifest, classes=("x", "y")).write(other)
    with pytest.raises(UserError, match="there is another data set at file:///"):
        upload(other, url)
    upload(other, url, overwrite=True)
    assert Manifest.load(far).classes == ("x", "y")


def test_a_damaged_folder_is_not_uploaded(prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared / "data", data)
    stored = bytearray((data / "train-2.arrow").read_bytes())
    stored[len(stored) // 2] ^= 1
    (data / "train-2.arrow").write_bytes(stored)
    with pytest.raises(CorruptShardError, match=r"train-2\.arrow is damaged: it has another checksum"):
        upload(data, f"file://{tmp_path / 'far'}")
    assert not (tmp_path / "far" / FILE).exists()
    with pytest.raises(UserError, match="no data set at"):
        upload(tmp_path / "nothing", f"file://{tmp_path / 'far'}")


def test_what_is_wrong_at_the_url_is_told_by_name(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    stored = bytearray((far / "train-1.arrow").read_bytes())
    stored[100] ^= 1
    (far / "train-1.arrow").write_bytes(stored)
    with pytest.raises(CorruptShardError, match=r"far/train-1\.arrow is damaged: it has another checksum"):
        cache.fetch(manifest.splits["train"].shards[1])
    assert not list(folder.glob("*.arrow"))
    cache.close()
    (far / FILE).unlink()
    with pytest.raises(UserError, match=r"far/manifest\.json is missing"):
        local_folder(config.data)


def test_a_transfer_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PAUSE_SECONDS", 0.0)
    (tmp_path / "a").write_bytes(b"content")
    failures = [OSError("connection reset by peer\nand a stack"), OSError("connection reset by peer")]

    class Shaky(fs.LocalFileSystem):
        def open_input_stream(self, path: str, *args: Any, **settings: Any) -> Any:
            if failures:
                raise failures.pop()
            return super().open_input_stream(path, *args, **settings)

    remote = Remote(Shaky(), str(tmp_path), "shaky:/place")
    assert remote.read("a") == b"content"
    failures += [OSError("connection reset by peer")] * 3
    with pytest.raises(UserError, match=r"shaky:/place/a cannot be read: connection reset by peer \(3 tries\)"):
        remote.read("a")


@pytest.mark.parametrize("url", ["nonsense://a/b", "s3://", "http://somewhere/data"])
def test_urls_of_other_kinds_are_refused(url: str) -> None:
    with pytest.raises(UserError, match=re.escape(shown(url)) + r".* cannot be used as a place for data .*s3://bucket"):
        Remote.at(url)


def test_keys_do_not_stand_in_messages() -> None:
    assert shown("s3://key:secret@bucket/a/?endpoint_override=x&secret_key=hidden") == "s3://bucket/a"
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


def test_a_command_is_told_without_its_keys() -> None:
    said = "train.py data.path=s3://me:mine@bucket/set?region=x&secret_key=mine train.epochs=3 at 12://no"
    assert without_keys_in(said) == "train.py data.path=s3://bucket/set?region=x train.epochs=3 at 12://no"
