"""The archives of CIFAR-10, Imagenette and Tiny ImageNet as sources: miniatures with the real names and layouts."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from tests.data import archives
from tests.data.archives import CIFAR10_CLASSES, Described, cifar10, imagenette, link, member_bytes, read, read_all, tar
from workers.data.ingest import Source
from workers.data.sources import Cifar10Source, ImagenetteSource, TinyImageNetSource

JPEG = archives.jpeg(1)
KINDS: dict[str, tuple[str, Callable[..., Any], Callable[[Path], Source]]] = {
    "cifar10": ("cifar-10-binary.tar.gz", cifar10, Cifar10Source),
    "imagenette": ("imagenette2-320.tgz", imagenette, ImagenetteSource),
    "tiny": ("tiny-imagenet-200.zip", archives.tiny_imagenet, TinyImageNetSource),
}
"""File, what writes it and returns what is in it, and what reads it."""


@pytest.mark.parametrize("rows", [1, 5, 12, 1000])
def test_cifar10_keeps_every_pixel_and_label(tmp_path: Path, rows: int) -> None:
    images = cifar10(tmp_path / "cifar-10-binary.tar.gz")
    source = Cifar10Source(tmp_path / "cifar-10-binary.tar.gz")
    assert source.classes == CIFAR10_CLASSES
    assert source.splits == {"train": 60, "validation": 12}
    for split, expected in images.items():
        found = read(source, split, rows)
        assert list(found) == list(expected)
        for key, (label, data) in found.items():
            assert label == expected[key][0]
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), expected[key][1])


CLASSES = {
    "imagenette": ("n01440764 tench", "n02102040 English springer", "n03028079 church"),
    "plain imagenette": ("n01440764 tench", "n02102040 English springer", "n03028079 church"),
    "tiny": ("n01443537 goldfish", "n02124075 Egyptian cat", "n04067472 reel"),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_file_is_read_as_it_is(tmp_path: Path, kind: str) -> None:
    name, build, make = KINDS[kind.removeprefix("plain ")]
    path, tiny = tmp_path / name, kind == "tiny"
    images = build(path)
    if kind.startswith("plain"):
        path.write_bytes(gzip.decompress(path.read_bytes()))
    source = make(path)
    assert source.classes == CLASSES[kind]
    assert source.splits == {"train": 12, "validation": 7 if tiny else 6}
    assert source.notes == (("left out 7 test images, which have no labels",) if tiny else ())
    for split, expected in images.items():
        for rows in (1, 5, 100):
            found = read(source, split, rows)
            assert found == expected
            assert tiny or list(found) == list(expected)


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a compressed tar anew with other contents; None leaves a member out."""
    with tarfile.open(path) as archive:
        members = [(info.name, member_bytes(archive, info)) for info in archive if info.isfile()]
    changed = [(name, change(name.split("/")[-1], data)) for name, data in members]
    path.write_bytes(tar([(name, data) for name, data in changed if data is not None], "w:gz"))


def test_cifar10_label_beyond_the_classes_is_a_bad_image(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    cifar10(path)
    rewrite(path, lambda name, data: b"\x0b" + data[1:] if name == "test_batch.bin" else data)
    items = read_all(Cifar10Source(path), "validation")
    assert items[0].problem == "its label is 11"
    assert not any(item.problem for item in items[1:])


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 or len(data) :]


def rezip(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a zip anew with other contents; None leaves a file out."""
    with zipfile.ZipFile(path) as archive:
        files = [(name, change(name, archive.read(name))) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            if data is not None:
                archive.writestr(name, data)


def without(text: str) -> Callable[[str, bytes], bytes | None]:
    return lambda name, data: None if text in name else data


def few(*members: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(tar([(name, JPEG) for name in members], "w:gz"))


GOOD = ("i/train/a/1.JPEG", "i/train/b/1.JPEG", "i/val/a/1.JPEG")


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        *((kind, Path.unlink, "cannot be read: No such file") for kind in KINDS),
        ("cifar10", lambda f: f.write_bytes(f.read_bytes()[:-2000]), "not a whole tar archive"),
        ("cifar10", lambda f: f.write_bytes(flipped(f.read_bytes(), -6)), "not a whole tar archive: CRC check failed"),
        ("cifar10", lambda f: f.write_bytes(b"nothing" * 100), "not a whole tar archive"),
        ("cifar10", lambda f: rewrite(f, lambda _, data: data[:-1]), r"_1\.bin has 36,875 bytes, no multiple of 3073"),
        ("cifar10", lambda f: rewrite(f, without("5")), r"it lacks data_batch_5\.bin\. "),
        ("cifar10", lambda f: rewrite(f, without("meta")), r"it lacks batches\.meta\.txt"),
        ("cifar10", few("a/batches.meta", "a/data_batch_1"), "version for Python"),
        ("imagenette", few(*GOOD[:2]), "holds 2 training classes and 0 validation images"),
        ("imagenette", few(*GOOD[1:]), "holds 1 training classes and 1 validation images"),
        ("imagenette", few(*GOOD, "i/val/c/1.JPEG"), "no training images of c"),
        ("imagenette", few(*GOOD, "j/train/a/1.JPEG"), r"holds a/1\.JPEG of the train split twice"),
        ("imagenette", few("a.txt"), "holds 0 training classes"),
        ("tiny", lambda f: f.write_bytes(f.read_bytes()[:-100]), "not a whole zip archive"),
        ("tiny", lambda f: f.write_bytes(tar([])), "not a whole zip archive"),
        ("tiny", lambda f: rezip(f, without("val_an")), r"and no val/val_anno"),
        ("tiny", lambda f: rezip(f, without("/train")), "holds 0 training cl"),
        ("tiny", lambda f: rezip(f, without("val_3")), r"in both: val_3\.JPEG"),
        ("tiny", lambda f: rezip(f, lambda _, data: data.replace(b"n02124075\t0", b"n1\t0")), "images of n1, which"),
        ("tiny", lambda f: rezip(f, lambda name, data: data[: 40 if "val_an" in name else None]), "but not in both"),
        (
            "tiny",
            lambda f: rezip(f, lambda name, data: b"" if "val_an" in name else None if "val_" in name else data),
            "holds no validation images",
        ),
    ],
)
def test_damage_is_one_clear_error(tmp_path: Path, kind: str, damage: Callable[[Path], object], message: str) -> None:
    name, build, make = KINDS[kind]
    build(tmp_path / name)
    damage(tmp_path / name)
    with pytest.raises(UserError, match=message):
        make(tmp_path / name)


def test_strange_members_of_imagenette_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "imagenette2.tgz"
    strange: list[Described] = [
        *((name, JPEG) for name in GOOD),
        link("i/train/a/2.JPEG", "/etc/passwd"),
        ("i/train/a/../../../../3.JPEG", JPEG),
        ("i/train/a/4.txt", b""),
    ]
    path.write_bytes(tar(strange, "w:gz"))
    source = ImagenetteSource(path)
    assert source.splits == {"train": 2, "validation": 1}
    assert source.notes == (
        "left out 1 files without an image's suffix",
        "left out 1 members that are no regular files",
    )


def test_checksum_is_checked_behind_long_padding_too(tmp_path: Path) -> None:
    path = tmp_path / "imagenette2.tgz"
    imagenette(path)
    padded = gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**21))
    path.write_bytes(padded)
    assert ImagenetteSource(path).splits == {"train": 12, "validation": 6}
    path.write_bytes(flipped(padded, -6))
    with pytest.raises(UserError, match="CRC check failed"):
        ImagenetteSource(path)


@pytest.mark.parametrize("kind", KINDS)
def test_archives_that_changed_after_they_were_listed(tmp_path: Path, kind: str) -> None:
    name, build, make = KINDS[kind]
    path = tmp_path / name
    build(path)
    source = make(path)
    path.unlink()
    build(path, 1)
    with pytest.raises(UserError, match="changed since it was listed"):
        read_all(source, "train")
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_all(source, "train")


Tiny = tuple[Path, dict[str, dict[str, tuple[int, bytes]]]]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The archive, and what is in it."""
    path = tmp_path / "tiny-imagenet-200.zip"
    return path, archives.tiny_imagenet(path)


def test_first_classes_of_tiny_imagenet(tiny: Tiny) -> None:
    path, images = tiny
    source = TinyImageNetSource(path, 2)
    assert source.classes == ("n01443537 goldfish", "n02124075 Egyptian cat")
    for split, expected in images.items():
        kept = {key: (label, file) for key, (label, file) in expected.items() if label < 2}
        assert source.splits[split] == len(kept) < len(expected)
        assert read(source, split, 3) == kept
    assert source.description != TinyImageNetSource(path).description
    with pytest.raises(UserError, match="has 3 classes, fewer than the 4 asked for"):
        TinyImageNetSource(path, 4)


def test_tiny_imagenet_with_one_damaged_member(tiny: Tiny) -> None:
    path, images = tiny
    damaged = "val/images/val_2.JPEG"
    content = path.read_bytes()
    place = content.index(images["validation"][damaged][1])
    path.write_bytes(content[: place + 50] + flipped(content[place + 50 : place + 60], 0) + content[place + 60 :])
    items = {item.key: item for item in read_all(TinyImageNetSource(path), "validation")}
    assert items[damaged].problem.startswith("damaged in the archive: Bad CRC-32")
    assert [key for key, item in items.items() if item.problem] == [damaged]


def test_tiny_imagenet_names_are_only_names(tiny: Tiny) -> None:
    path, images = tiny
    with zipfile.ZipFile(path, "a") as archive:
        inside = ("tiny-imagenet-200/a.txt", "tiny-imagenet-200/train/__MACOSX/images/._1.JPEG")
        for name in ("../../evil.JPEG", "/etc/train/x.JPEG", "__MACOSX/train/n1/images/1.JPEG", *inside):
            archive.writestr(name, JPEG)
    source = TinyImageNetSource(path)
    assert read(source, "train") == images["train"]
    assert {file.name for file in path.parent.iterdir()} == {path.name}


@pytest.mark.parametrize("damage", ["header", "cut"])
def test_uncompressed_archive_with_a_damaged_header_loses_no_image_in_silence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "imagenette2.tar"
    last = "i/train/a/2.JPEG"
    whole = tar([(name, JPEG) for name in (*GOOD, last)], "w")
    start = whole.index(last.encode())
    path.write_bytes(whole)
    assert ImagenetteSource(path).splits == {"train": 3, "validation": 1}
    path.write_bytes(whole[:start] if damage == "cut" else whole[:start] + b"X" + whole[start + 1 :])
    with pytest.raises(UserError, match="not a whole tar archive"):
        ImagenetteSource(path)
