"""`python -m cluster.prepare` for published archives: from the files that people download to a data set, through Ray."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from cluster import download, inspection
from cluster.prepare import main
from tests.data.archives import cifar10, ilsvrc, imagenette, photos, tiny_imagenet
from workers.data.images import to_stored_jpeg
from workers.data.manifest import Manifest
from workers.data.shards import Shard


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


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """Address of a server of the files in the test's folder `www`."""
    (tmp_path / "www").mkdir()
    handler = partial(QuietHandler, directory=str(tmp_path / "www"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_imagenet_with_photos_at_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image with its class, stored as `to_stored_jpeg` stores it, in 64 x 64; ImageNet's photos where they are."""
    files, out = ilsvrc(tmp_path, with_photos=True), tmp_path / "out"
    archives = ["--train", files.train, "--val", files.validation, "--devkit", files.devkit]
    assert prepare("imagenet", *archives, "--out", out, "--size", 64, "--shard-rows", 20) == 0
    printed = capsys.readouterr()
    manifest = Manifest.load(out)
    assert manifest.classes == files.classes
    assert manifest.quarantined == ()
    count = 6 * 3 + len(photos())
    assert f"train {count}, validation {len(files.images['validation'])} of {len(files.classes)} classes" in printed.out
    for split, expected in files.images.items():
        found = stored(out, split)
        assert list(found) == list(expected)
        for key, (label, data) in expected.items():
            assert found[key] == (label, to_stored_jpeg(data, 64).jpeg), key
    # The manifest's statistics against plain NumPy over the stored training images.
    pixels_NSSC = np.stack([simplejpeg.decode_jpeg(data, "RGB") for _, data in stored(out, "train").values()])
    colours = pixels_NSSC.reshape(-1, 3).astype(np.float64)
    covariance = np.cov(colours.T, bias=True)
    for found_value, value in (
        (manifest.pixel_mean(out), pixels_NSSC.mean(axis=0, dtype=np.float64)),
        (manifest.rgb_mean, colours.mean(axis=0)),
        (manifest.rgb_covariance, covariance),
        (manifest.rgb_eigenvalues, np.linalg.eigvalsh(covariance)),
    ):
        assert np.allclose(found_value, value, rtol=1e-6, atol=0)
    assert prepare("imagenet", *archives, "--out", out, "--size", 64) == 2
    assert "holds a data set already" in capsys.readouterr().err


def test_imagenette_and_tiny_imagenet_are_downloaded_and_checked(
    tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One where the publisher's address and checksum are those of the miniature here, one from another address."""
    archive, tiny, downloads = tmp_path / "www/imagenette2-320.tgz", tmp_path / "www/tiny.zip", tmp_path / "downloads"
    images, more = imagenette(archive), tiny_imagenet(tiny)
    checksum = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    published = download.Published(url=f"{page}/{archive.name}", checksum=checksum)
    monkeypatch.setitem(download.PUBLISHED, "imagenette-320", published)
    out = tmp_path / "imagenette"
    assert prepare("imagenette", "--out", out, "--size", 16, "--downloads", downloads) == 0
    assert {split: stored(out, split) for split in images} == images
    assert (downloads / archive.name).read_bytes() == archive.read_bytes()
    out, checksum = tmp_path / "tiny", f"sha256:{hashlib.sha256(tiny.read_bytes()).hexdigest()}"
    where = ["--url", f"{page}/tiny.zip", "--checksum", checksum, "--downloads", downloads]
    assert prepare("tiny-imagenet", "--out", out, *where) == 0
    assert Manifest.load(out).image_size == 64
    for split, expected in more.items():
        whole = {key: (label, to_stored_jpeg(data, 64).jpeg) for key, (label, data) in expected.items()}
        assert stored(out, split) == whole


def test_wrong_input_is_one_clear_line_and_exit_code_2(
    tmp_path: Path, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it is noticed before Ray is started. The sources' own tests have many more."""
    files, archive = ilsvrc(tmp_path), tmp_path / "t.zip"
    files.train.write_bytes(files.train.read_bytes()[:30_000])
    tiny_imagenet(archive)
    archive.write_bytes(archive.read_bytes()[:-1000])
    cifar10(tmp_path / "www/c.tar.gz")
    imagenet, given = ["imagenet", "--train", files.train, "--devkit"], ["tiny-imagenet", "--archive", archive]
    elsewhere = ["--downloads", tmp_path / "downloads"]
    for arguments, message in (
        ([*imagenet, files.devkit], "train.tar is not a whole tar archive"),
        ([*imagenet, tmp_path / "nothing"], "nothing cannot be read: No such file"),
        (given, "t.zip is not a whole zip archive"),
        ([*given, "--checksum", f"md5:{32 * '0'}"], "t.zip has the checksum md5:"),
        (
            ["cifar10", "--url", f"{page}/c.tar.gz", *elsewhere],
            "not md5:c32a1d4ab5d03f1284b67883e8d87530. It was removed",
        ),
        (["imagenette", "--url", f"{page}/x.tgz", *elsewhere], "the server answers 404"),
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


@pytest.mark.parametrize(
    ("arguments", "does", "options"),
    [
        (["verify", "data/x"], "verify_dataset", {"decode": True, "workers": None}),
        (["verify", "data/x", "--no-decode", "--workers", "3"], "verify_dataset", {"decode": False, "workers": 3}),
        (["stats", "data/x"], "show_stats", {"sheet": None, "config": None, "samples": 8, "as_json": False}),
        (
            ["stats", "data/x", "--sheet", "a.png", "--config", "demo.yaml", "--samples", "5", "--json"],
            "show_stats",
            {"sheet": Path("a.png"), "config": "demo.yaml", "samples": 5, "as_json": True},
        ),
    ],
)
def test_verify_and_stats_hand_on_their_options(
    arguments: list[str], does: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the two do is tested with `cluster.inspection`; here, that every option reaches it and its code comes back."""
    called: list[tuple[Path, dict[str, object]]] = []

    def instead(folder: Path, **given: object) -> int:
        called.append((folder, given))
        return 7

    monkeypatch.setattr(inspection, does, instead)
    assert main(arguments) == 7
    assert called == [(Path("data/x"), options)]
