"""`python -m cluster.prepare` for published archives, through Ray: from the files that people download to a data set.

Downloads come from a real server on loopback that breaks off, knows no ranges, or has another file.
"""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from cluster import download
from cluster.prepare import main
from configs.errors import UserError
from tests.data.archives import ilsvrc, imagenette, tiny_imagenet
from workers.data.images import to_stored_jpeg
from workers.data.manifest import Manifest
from workers.data.shards import Shard

CONTENT = np.random.default_rng(0).bytes(3_000_000)
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
PART = "some file.tar.gz.part"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@dataclass
class Server:
    """What the server does, and what it was asked."""

    base: str = ""
    url: str = ""
    """Of a file; the name does not matter."""
    content: bytes = CONTENT
    knows_ranges: bool = True
    break_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers breaks off."""
    status: list[int] = field(default_factory=list)
    """Of each of the next answers, instead of the file."""
    asked: list[str | None] = field(default_factory=list)
    """The range of each request."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append(asked)
            if server.status and (status := server.status.pop(0)) != 200:
                self.send_error(status)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_ranges else 0
            total = len(server.content)
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            stop = start + server.break_after.pop(0) if server.break_after else total
            self.wfile.write(server.content[start:stop])

        def log_message(self, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.base = f"http://127.0.0.1:{http.server_port}"
    server.url = f"{server.base}/~kriz/some%20file.tar.gz"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    yield server
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_whole_file(server: Server, tmp_path: Path, checksum: str) -> None:
    seen: list[tuple[int, int]] = []
    path = download.fetch(server.url, tmp_path / "new", checksum, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new/some file.tar.gz"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen) and len(seen) > 5
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert download.fetch(server.url, tmp_path / "new", checksum) == path
    assert server.asked == [None]


def test_broken_connections_are_continued_also_by_a_later_command(server: Server, tmp_path: Path) -> None:
    """More breaks than attempts without progress are allowed."""
    server.break_after = [100_000, 0, 0, 500_000, 1, 1, 1, 700_000]
    download.fetch(server.url, tmp_path / "first", MD5)
    assert server.asked[:4] == [None, "bytes=100000-", "bytes=100000-", "bytes=100000-"]
    assert server.asked[-1] == "bytes=1300003-"
    server.break_after = [1_000_000, 0, 0, 0]
    with pytest.raises(UserError, match=r"the connection broke off\. 1,000,000 bytes are kept, and the same command"):
        download.fetch(server.url, tmp_path, MD5)
    assert (tmp_path / PART).stat().st_size == 1_000_000
    assert download.fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000000-"


@pytest.mark.parametrize(
    ("part", "knows_ranges", "asked"),
    [
        (CONTENT, True, f"bytes={len(CONTENT)}-"),  # it broke off after its last byte
        (CONTENT + b"more", True, None),  # longer than the file: fetched anew
        (b"begun", False, "bytes=5-"),  # a server without ranges sends all again
    ],
)
def test_a_part_is_there(server: Server, tmp_path: Path, part: bytes, knows_ranges: bool, asked: str | None) -> None:
    server.knows_ranges = knows_ranges
    (tmp_path / PART).write_bytes(part)
    assert download.fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT
    assert server.asked[-1] == asked


def test_wrong_checksums_leave_no_file_but_one_that_was_there(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=r"gave a file with the checksum md5:[0-9a-f]{32}, not md5:.* It was removed"):
        download.fetch(server.url, tmp_path, MD5)
    assert list(tmp_path.iterdir()) == []
    asked = len(server.asked)
    (tmp_path / "some file.tar.gz").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"some file\.tar\.gz has the checksum md5:.*, not .*Remove it"):
        download.fetch(server.url, tmp_path, MD5)
    assert (tmp_path / "some file.tar.gz").read_bytes() == b"mine"
    assert len(server.asked) == asked


def test_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.status = [503, 429]
    assert download.fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT
    server.status = [404]
    with pytest.raises(UserError, match=r"cannot be fetched: the server answers 404 Not Found\. Give another"):
        download.fetch(f"{server.url}.other", tmp_path, MD5)
    assert len(server.asked) == 4


def test_nobody_answers_and_addresses_and_folders_that_are_none(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched: .*Connection refused.*give it with --archive"):
        download.fetch("http://127.0.0.1:9/file.zip", tmp_path, MD5)
    for url in ("file:///etc/passwd", "https://somewhere.org/", "ftp://a/b", "data.zip"):
        with pytest.raises(UserError, match="is no address of a file"):
            download.fetch(url, tmp_path, MD5)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write .*file.*--downloads"):
        download.fetch(server.url, tmp_path / "file", MD5)
    for published in download.PUBLISHED.values():
        assert download.CHECKSUM.fullmatch(published.checksum) and published.url.startswith("http")


def stored(out: Path, split: str) -> dict[str, tuple[int, bytes]]:
    """Key -> (label, bytes) of all rows of a split, in order."""
    rows: dict[str, tuple[int, bytes]] = {}
    for info in Manifest.load(out).splits[split].shards:
        shard = Shard(out / info.file)
        for row in range(len(shard)):
            assert shard.key(row) not in rows
            rows[shard.key(row)] = (shard.label(row), bytes(shard.image(row)))
    return rows


def prepare(*arguments: object) -> int:
    return main([*map(str, arguments), "--workers", "2"])


def test_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image with its class, stored as `to_stored_jpeg` stores it, in 64 x 64."""
    files, out = ilsvrc(tmp_path), tmp_path / "out"
    archives = ["--train", files.train, "--val", files.validation, "--devkit", files.devkit]
    assert prepare("imagenet", *archives, "--out", out, "--size", 64, "--shard-rows", 20) == 0
    printed = capsys.readouterr()
    manifest = Manifest.load(out)
    assert manifest.classes == files.classes
    assert manifest.quarantined == ()
    assert "train 18, validation 13 of 6 classes" in printed.out
    for split, expected in files.images.items():
        found = stored(out, split)
        assert list(found) == list(expected)
        for key, (label, data) in expected.items():
            assert found[key] == (label, to_stored_jpeg(data, 64).jpeg), key
    assert prepare("verify", out) == 0, "the statistics are those of the stored images"
    assert prepare("imagenet", *archives, "--out", out, "--size", 64) == 2
    assert "holds a data set already" in capsys.readouterr().err


def test_imagenette_and_tiny_imagenet_are_downloaded_and_checked(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One where the publisher's address and checksum are those of the miniature here, one from another address."""
    archive, tiny, downloads = tmp_path / "imagenette2-320.tgz", tmp_path / "tiny.zip", tmp_path / "downloads"
    images, more = imagenette(archive), tiny_imagenet(tiny)
    server.content = archive.read_bytes()
    checksum = f"md5:{hashlib.md5(server.content).hexdigest()}"
    published = download.Published(url=f"{server.base}/{archive.name}", checksum=checksum)
    monkeypatch.setitem(download.PUBLISHED, "imagenette-320", published)
    out = tmp_path / "imagenette"
    assert prepare("imagenette", "--out", out, "--size", 16, "--downloads", downloads) == 0
    assert {split: stored(out, split) for split in images} == images
    assert (downloads / archive.name).read_bytes() == server.content
    out, server.content = tmp_path / "tiny", tiny.read_bytes()
    checksum = f"sha256:{hashlib.sha256(server.content).hexdigest()}"
    where = ["--url", f"{server.base}/tiny.zip", "--checksum", checksum, "--downloads", downloads]
    assert prepare("tiny-imagenet", "--out", out, *where) == 0
    assert Manifest.load(out).image_size == 64
    for split, expected in more.items():
        whole = {key: (label, to_stored_jpeg(data, 64).jpeg) for key, (label, data) in expected.items()}
        assert stored(out, split) == whole


def test_wrong_input_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it is noticed before Ray is started. The sources' own tests have many more."""
    files, archive = ilsvrc(tmp_path), tmp_path / "t.zip"
    files.train.write_bytes(files.train.read_bytes()[:30_000])
    archive.write_bytes(b"something else")
    server.content, server.status = b"something else", [200, 404]
    imagenet, given = ["imagenet", "--train", files.train, "--devkit"], ["tiny-imagenet", "--archive", archive]
    elsewhere = ["--downloads", tmp_path / "downloads"]
    for arguments, message in (
        ([*imagenet, files.devkit], "train.tar is not a whole tar archive"),
        ([*given, "--checksum", f"md5:{32 * '0'}"], "t.zip has the checksum md5:"),
        (
            ["cifar10", "--url", f"{server.base}/c.tar.gz", *elsewhere],
            "not md5:c32a1d4ab5d03f1284b67883e8d87530. It was removed",
        ),
        (["imagenette", "--url", f"{server.base}/x.tgz", *elsewhere], "the server answers 404"),
    ):
        assert prepare(*arguments, "--out", tmp_path / "out") == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and message in printed.err
        assert printed.err.count("\n") == 1 and printed.out == ""
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet", "--train", "a"], "required: --out, --devkit"),
        (["cifar10", "--out", "a", "--archive", "b", "--url", "c"], "not allowed with argument --archive"),
        (["cifar10", "--out", "a", "--checksum", "md5:123"], "'md5:123' is neither md5: and 32 nor sha256: and 64 hex"),
        (["folder", "s3://bucket/photos", "--out", "a"], "s3://bucket/photos is an address: give a path"),
        (["folder", "photos", "--out", "a", "--val-fraction", "1.5"], "1.5 is not within 0..0.99"),
        (["imagenette", "--out", "a", "--variant", "huge"], "invalid choice: 'huge'"),
        (["cifar10", "--out", "a", "--encoding", "png"], "invalid choice: 'png'"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err
