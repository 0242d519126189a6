"""The archives of CIFAR-10, Imagenette and Tiny ImageNet as sources: miniatures with the real names and layouts."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from tests.data.archives import (
    CIFAR10_CLASSES,
    Described,
    cifar10,
    imagenette,
    jpeg,
    link,
    member_bytes,
    tar,
    tiny_imagenet,
)
from workers.data.ingest import Source
from workers.data.sources import Cifar10Source, ImagenetteSource, SourceItem, TinyImageNetSource


def read(source: Source, split: str, rows: int = 4) -> list[SourceItem]:
    """All items of a split, read the way tasks do: by a copy of the source that was sent over."""
    copy = pickle.loads(pickle.dumps(source))
    return [item for chunk in source.chunks(split, rows) for item in copy.read(pickle.loads(pickle.dumps(chunk)))]


def contents(items: list[SourceItem]) -> dict[str, tuple[int, bytes]]:
    """Key -> (label, file), where all are good."""
    assert not [item.problem for item in items if item.problem]
    assert len({item.key for item in items}) == len(items)
    return {item.key: (item.label, item.data) for item in items}


@pytest.mark.parametrize("rows", [1, 5, 12, 1000])
def test_cifar10_keeps_every_pixel_and_label(tmp_path: Path, rows: int) -> None:
    images = cifar10(tmp_path / "cifar-10-binary.tar.gz")
    source = Cifar10Source(tmp_path / "cifar-10-binary.tar.gz")
    assert source.classes == CIFAR10_CLASSES
    assert source.splits == {"train": 60, "validation": 12}
    for split, expected in images.items():
        found = contents(read(source, split, rows))
        assert list(found) == list(expected)
        for key, (label, data) in found.items():
            assert label == expected[key][0]
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), expected[key][1])


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
    items = read(Cifar10Source(path), "validation")
    assert items[0].problem == "its label is 11"
    assert not any(item.problem for item in items[1:])


def test_cifar10_damage_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    for damage, message in (
        (lambda: path.unlink(), "cannot be read: No such file"),
        (lambda: path.write_bytes(path.read_bytes()[:-2000]), "not a whole tar archive"),
        (lambda: path.write_bytes(flipped(path.read_bytes(), -6)), "not a whole tar archive: CRC check failed"),
        (lambda: path.write_bytes(b"nothing" * 100), "not a whole tar archive"),
        (
            lambda: rewrite(path, lambda name, data: data[:-1]),
            r"data_batch_1\.bin has 36,875 bytes, no multiple of 3073",
        ),
        (lambda: rewrite(path, lambda name, data: None if "5" in name else data), r"it lacks data_batch_5\.bin\. "),
        (lambda: rewrite(path, lambda name, data: None if "meta" in name else data), r"it lacks batches\.meta\.txt"),
        (lambda: path.write_bytes(tar([("a/batches.meta", b""), ("a/data_batch_1", b"")])), "version for Python"),
    ):
        cifar10(path)
        damage()
        with pytest.raises(UserError, match=message):
            Cifar10Source(path)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 or len(data) :]


@pytest.mark.parametrize("compressed", [True, False])
def test_imagenette(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "imagenette2-320.tgz"
    images = imagenette(path)
    if not compressed:
        path.write_bytes(gzip.decompress(path.read_bytes()))
    source = ImagenetteSource(path)
    assert source.classes == ("n01440764 tench", "n02102040 English springer", "n03028079 church")
    assert source.splits == {"train": 12, "validation": 6}
    assert source.notes == ()
    for split, expected in images.items():
        for rows in (1, 5, 100):
            found = contents(read(source, split, rows))
            assert found == expected
            assert list(found) == list(expected)


def test_imagenette_damage_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "imagenette2.tgz"
    image = jpeg(1)
    good = [("i/train/a/1.JPEG", image), ("i/train/b/1.JPEG", image), ("i/val/a/1.JPEG", image)]
    for members, message in (
        (good[:2], "holds 2 training classes and 0 validation images"),
        (good[1:], "holds 1 training classes and 1 validation images"),
        ([*good, ("i/val/c/1.JPEG", image)], "no training images of c"),
        ([*good, ("j/train/a/1.JPEG", image)], r"holds a/1\.JPEG of the train split twice"),
        ([("a.txt", image)], "holds 0 training classes"),
    ):
        path.write_bytes(tar(members, "w:gz"))
        with pytest.raises(UserError, match=message):
            ImagenetteSource(path)
    strange: list[Described] = [
        link("i/train/a/2.JPEG", "/etc/passwd"),
        ("i/train/a/../../../../3.JPEG", image),
        ("i/train/a/4.txt", b""),
    ]
    path.write_bytes(tar([*good, *strange], "w:gz"))
    source = ImagenetteSource(path)
    assert source.splits == {"train": 2, "validation": 1}
    assert source.notes == (
        "left out 1 files without an image's suffix",
        "left out 1 members that are no regular files",
    )
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole tar archive"):
        ImagenetteSource(path)
    with pytest.raises(UserError, match="not a whole tar archive"):
        read(source, "validation")


def test_checksum_is_checked_behind_long_padding_too(tmp_path: Path) -> None:
    path = tmp_path / "imagenette2.tgz"
    imagenette(path)
    padded = gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**21))
    path.write_bytes(padded)
    assert ImagenetteSource(path).splits == {"train": 12, "validation": 6}
    path.write_bytes(flipped(padded, -6))
    with pytest.raises(UserError, match="CRC check failed"):
        ImagenetteSource(path)


def test_archives_that_changed_after_they_were_listed(tmp_path: Path) -> None:
    for name, build, kind in (
        ("i.tgz", imagenette, ImagenetteSource),
        ("t.zip", tiny_imagenet, TinyImageNetSource),
        ("c.tar.gz", cifar10, Cifar10Source),
    ):
        path = tmp_path / name
        build(path)
        source: Source = kind(path)
        path.unlink()
        build(path, 1)
        with pytest.raises(UserError, match="changed since it was listed"):
            read(source, "train")
        path.unlink()
        with pytest.raises(UserError, match="cannot be read: No such file"):
            read(source, "train")


def test_tiny_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "tiny-imagenet-200.zip"
    images = tiny_imagenet(path)
    source = TinyImageNetSource(path)
    assert source.classes == ("n01443537 goldfish", "n02124075 Egyptian cat", "n04067472 reel")
    assert source.splits == {"train": 12, "validation": 7}
    assert source.notes == ("left out 7 test images, which have no labels",)
    for split, expected in images.items():
        for rows in (1, 5, 100):
            assert contents(read(source, split, rows)) == expected


def test_first_classes_of_tiny_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "tiny-imagenet-200.zip"
    images = tiny_imagenet(path)
    source = TinyImageNetSource(path, 2)
    assert source.classes == ("n01443537 goldfish", "n02124075 Egyptian cat")
    for split, expected in images.items():
        kept = {key: (label, file) for key, (label, file) in expected.items() if label < 2}
        assert source.splits[split] == len(kept) < len(expected)
        assert contents(read(source, split, 3)) == kept
    assert source.description != TinyImageNetSource(path).description
    with pytest.raises(UserError, match="has 3 classes, fewer than the 4 asked for"):
        TinyImageNetSource(path, 4)


def rezip(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """Write a zip anew with other names and contents; None leaves a file out."""
    with zipfile.ZipFile(path) as archive:
        files = [change(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            if file:
                archive.writestr(*file)


def test_tiny_imagenet_damage_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "tiny-imagenet-200.zip"
    for damage, message in (
        (lambda: path.unlink(), "cannot be read: No such file"),
        (lambda: path.write_bytes(path.read_bytes()[:-100]), "not a whole zip archive"),
        (lambda: path.write_bytes(tar([])), "not a whole zip archive"),
        (lambda: rezip(path, lambda name, data: None if "val_an" in name else (name, data)), r"and no val/val_anno"),
        (lambda: rezip(path, lambda name, data: None if "/train" in name else (name, data)), "holds 0 training cl"),
        (lambda: rezip(path, lambda name, data: None if "val_3" in name else (name, data)), r"in both: val_3\.JPEG"),
        (
            lambda: rezip(path, lambda name, data: (name, data.replace(b"n02124075\t0", b"n1\t0"))),
            "images of n1, which",
        ),
        (lambda: rezip(path, lambda name, data: (name, data[:40] if "val_an" in name else data)), "but not in both"),
        (
            lambda: rezip(
                path, lambda name, data: (name, b"") if "val_an" in name else None if "val_" in name else (name, data)
            ),
            "holds no validation images",
        ),
    ):
        tiny_imagenet(path)
        damage()
        with pytest.raises(UserError, match=message):
            TinyImageNetSource(path)


def test_tiny_imagenet_with_one_damaged_member(tmp_path: Path) -> None:
    path = tmp_path / "tiny-imagenet-200.zip"
    images = tiny_imagenet(path)
    damaged = "val/images/val_2.JPEG"
    content = path.read_bytes()
    place = content.index(images["validation"][damaged][1])
    path.write_bytes(content[: place + 50] + flipped(content[place + 50 : place + 60], 0) + content[place + 60 :])
    items = {item.key: item for item in read(TinyImageNetSource(path), "validation")}
    assert items[damaged].problem.startswith("damaged in the archive: Bad CRC-32")
    assert [key for key, item in items.items() if item.problem] == [damaged]


def test_tiny_imagenet_names_are_only_names(tmp_path: Path) -> None:
    path = tmp_path / "tiny-imagenet-200.zip"
    images = tiny_imagenet(path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in (
            "../../evil.JPEG",
            "/etc/train/x.JPEG",
            "__MACOSX/train/n1/images/1.JPEG",
            "tiny-imagenet-200/a.txt",
        ):
            archive.writestr(name, jpeg(1))
        archive.writestr("tiny-imagenet-200/train/__MACOSX/images/._1.JPEG", jpeg(1))
    source = TinyImageNetSource(path)
    assert contents(read(source, "train")) == images["train"]
    assert {file.name for file in tmp_path.iterdir()} == {path.name}


@pytest.mark.parametrize("damage", ["header", "cut"])
def test_uncompressed_archive_with_a_damaged_header_loses_no_image_in_silence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "imagenette2.tar"
    image = jpeg(1)
    names = ("i/train/a/1.JPEG", "i/train/b/1.JPEG", "i/val/a/1.JPEG", "i/train/a/2.JPEG")
    whole = tar([(name, image) for name in names], "w")
    last = whole.index(names[-1].encode())
    path.write_bytes(whole)
    assert ImagenetteSource(path).splits == {"train": 3, "validation": 1}
    path.write_bytes(whole[:last] if damage == "cut" else whole[:last] + b"X" + whole[last + 1 :])
    with pytest.raises(UserError, match="not a whole tar archive"):
        ImagenetteSource(path)
