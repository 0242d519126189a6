"""Miniatures of the archives in which image sets are published: their names, layouts and formats, few and small images."""

import functools
import io
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.io
from numpy.typing import NDArray

from tests.data import pictures
from workers.data.ingest import Source
from workers.data.sources import SourceItem

TEST_DATA = Path(os.environ.get("ALEXNET_TEST_DATA", Path(__file__).parents[2] / "../shared/data")).resolve()
SYNSETS = {  # ILSVRC2012's IDs 1..6: their order is not that of the WordNet IDs
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n02110185": "Siberian husky",
    "n02096294": "Australian terrier",
    "n02102040": "English springer, English springer spaniel",
    "n02066245": "grey whale, gray whale, devilfish, Eschrichtius gibbosus, Eschrichtius robustus",
}


jpeg = functools.cache(pictures.jpeg)
Described = tuple[str, bytes] | tarfile.TarInfo


def member_bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Of a member that is a file."""
    opened = archive.extractfile(member)
    assert opened is not None, f"{member.name} is no file"
    return opened.read()


def tar(members: Iterable[Described], mode: Literal["w", "w:", "w:gz"] = "w:") -> bytes:
    """A tar archive of files, and of members that are described."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size, info.mtime = len(member[1]), 1_339_545_600
            archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def meta_mat(synsets: dict[str, str], counts: dict[str, int], contest: str) -> bytes:
    """meta.mat: the leaves of the tree with IDs from 1, then two inner nodes."""
    rows: list[tuple[Any, ...]] = [
        (number, wnid, words, f"what {words} is", 0, np.zeros((1, 0)), 0, counts[wnid])
        for number, (wnid, words) in enumerate(synsets.items(), start=1)
    ]
    leaves = np.arange(1, len(synsets) + 1)
    rows += [
        (1001, "n00015388", "animal, animate being", "a living organism", len(leaves), leaves, 9, 0),
        (1002, "n00001740", "entity", "that which is", 1, np.array([1001]), 10, 0),
    ]
    names = ["WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"]
    table = np.empty((len(rows), 1), dtype=[(name, object) for name in (f"{contest}_ID", *names)])
    table[:, 0] = rows
    file = io.BytesIO()
    scipy.io.savemat(file, {"synsets": table})
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Ilsvrc:
    """The files of a contest, and what is right."""

    train: Path
    validation: Path
    devkit: Path
    classes: tuple[str, ...]
    images: dict[str, dict[str, tuple[int, bytes]]]
    """Split -> key -> (label, file)."""


def ilsvrc(root: Path, contest: str = "ILSVRC2012", per_class: int = 3) -> Ilsvrc:
    """A miniature of ILSVRC2012's or ILSVRC2010's archives."""
    synsets = SYNSETS
    files = {
        wnid: [(f"{wnid}_{7 * k + 3}.JPEG", jpeg(100 * n + k)) for k in range(per_class)]
        for n, wnid in enumerate(synsets)
    }
    labels = {wnid: label for label, wnid in enumerate(sorted(synsets))}
    shuffled = sorted(synsets, key=lambda wnid: wnid[::-1])
    old = contest == "ILSVRC2010"
    train = root / f"{contest}_{'images' if old else 'img'}_train.tar"
    train.write_bytes(tar((f"{wnid}.tar", tar(files[wnid])) for wnid in shuffled))
    ids = [1 + (5 * n) % len(synsets) for n in range(2 * len(synsets) + 1)]
    wnid_of = dict(enumerate(synsets, start=1))
    held = [(f"{contest}_val_{n:08d}.JPEG", jpeg(10_000 + n)) for n in range(1, len(ids) + 1)]
    validation = root / f"{contest}_{'images' if old else 'img'}_val.tar"
    validation.write_bytes(tar((("val/" if old else "") + name, data) for name, data in held[::-1]))
    folder = "devkit-1.0" if old else f"{contest}_devkit_t12"
    devkit = root / (f"{contest}_devkit-1.0.tar.gz" if old else f"{contest}_devkit_t12.tar.gz")
    truth = "".join(f"{number}\n" for number in ids).encode()
    meta = meta_mat(synsets, {wnid: len(listed) for wnid, listed in files.items()}, contest)
    kit = [
        ("readme.txt", b"This is the documentation of the Development Kit."),
        ("data/meta.mat", meta),
        (f"data/{contest}_validation_ground_truth.txt", truth),
        ("evaluation/demo_eval.m", b"% meta.mat"),
    ]
    devkit.write_bytes(tar(((f"{folder}/{name}", data) for name, data in kit), "w:gz"))
    return Ilsvrc(
        train=train,
        validation=validation,
        devkit=devkit,
        classes=tuple(f"{wnid} {synsets[wnid].split(',')[0]}" for wnid in labels),
        images={
            "train": {f"{wnid}/{name}": (labels[wnid], data) for wnid in labels for name, data in files[wnid]},
            "validation": {
                name: (labels[wnid_of[number]], data) for number, (name, data) in zip(ids, held, strict=True)
            },
        },
    )


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(path: Path, per_batch: int = 12) -> dict[str, dict[str, tuple[int, NDArray[np.uint8]]]]:
    """cifar-10-binary.tar.gz at `path`. Returns split -> key -> (label, pixels [32, 32, 3])."""
    rng = np.random.default_rng(1)
    images: dict[str, dict[str, tuple[int, NDArray[np.uint8]]]] = {"train": {}, "validation": {}}
    members = [("batches.meta.txt", "".join(f"{name}\n" for name in CIFAR10_CLASSES).encode() + b"\n")]
    batches = ["data_batch_1", "data_batch_3", "data_batch_4", "test_batch", "data_batch_5", "data_batch_2"]
    for batch in batches:
        labels = rng.integers(0, 10, per_batch, dtype=np.uint8)
        # Few colours in large areas: JPEG keeps them nearly.
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (per_batch, 2, 2, 3), dtype=np.uint8), 16, 1), 16, 2)
        split = "validation" if batch == "test_batch" else "train"
        for n in range(per_batch):
            images[split][f"{batch}/{n}"] = (int(labels[n]), pixels[n])
        planes = pixels.transpose(0, 3, 1, 2).reshape(per_batch, -1)
        members.append((f"{batch}.bin", np.concatenate([labels[:, None], planes], axis=1).tobytes()))
    members.append(("readme.html", b"<meta HTTP-EQUIV='REFRESH'>"))
    path.write_bytes(tar(((f"cifar-10-batches-bin/{name}", data) for name, data in members), "w:gz"))
    images["train"] = dict(sorted(images["train"].items(), key=lambda item: item[0].split("/")[0]))
    return images


def imagenette(path: Path, per_class: int = 4) -> dict[str, dict[str, tuple[int, bytes]]]:
    """imagenette2-320.tgz at `path`. Returns split -> key -> (label, file)."""
    wnids = ["n01440764", "n02102040", "n03028079"]
    images: dict[str, dict[str, tuple[int, bytes]]] = {"train": {}, "validation": {}}
    members: list[Described] = [
        link("imagenette2-320", "", tarfile.DIRTYPE),
        ("imagenette2-320/.DS_Store", b"\0"),
        ("imagenette2-320/noisy_imagenette.csv", b"path,noisy_labels_0\n"),
    ]
    for folder, split, count in (("val", "validation", 2), ("train", "train", per_class)):
        for wnid in wnids[::-1]:
            members.append(link(f"imagenette2-320/{folder}/{wnid}", "", tarfile.DIRTYPE))
            for n in range(count):
                name = f"{wnid}/ILSVRC2012_val_{n:08d}.JPEG" if split == "validation" else f"{wnid}/{wnid}_{n}.JPEG"
                data = jpeg(hash_of(folder, wnid, n))
                images[split][name] = (wnids.index(wnid), data)
                members.append((f"imagenette2-320/{folder}/{name}", data))
    path.write_bytes(tar(members, "w:gz"))
    return images


def tiny_imagenet(path: Path, per_class: int = 4) -> dict[str, dict[str, tuple[int, bytes]]]:
    """tiny-imagenet-200.zip at `path`. Returns split -> key -> (label, file)."""
    wnids = ["n02124075", "n04067472", "n01443537"]  # as in wnids.txt, which is not sorted
    labels = {wnid: label for label, wnid in enumerate(sorted(wnids))}
    images: dict[str, dict[str, tuple[int, bytes]]] = {"train": {}, "validation": {}}
    words = {"n01443537": "goldfish, Carassius auratus", "n02124075": "Egyptian cat", "n04067472": "reel", "n1": "x, y"}
    annotations = ""
    with zipfile.ZipFile(path, "w") as archive:
        top = "tiny-imagenet-200"
        archive.writestr(f"{top}/", b"")
        archive.writestr(f"{top}/words.txt", "".join(f"{wnid}\t{text}\n" for wnid, text in words.items()))
        archive.writestr(f"{top}/wnids.txt", "\n".join(wnids))
        for wnid in wnids:
            archive.writestr(f"{top}/train/{wnid}/{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
            for n in range(per_class):
                key, data = f"train/{wnid}/images/{wnid}_{n}.JPEG", jpeg(hash_of(wnid, n))
                images["train"][key] = (labels[wnid], data)
                archive.writestr(f"{top}/{key}", data, zipfile.ZIP_DEFLATED if n % 2 else zipfile.ZIP_STORED)
        for n in range(7):
            key, wnid, data = f"val/images/val_{n}.JPEG", wnids[n % 3], jpeg(hash_of("val", n))
            images["validation"][key] = (labels[wnid], data)
            archive.writestr(f"{top}/{key}", data)
            annotations += f"val_{n}.JPEG\t{wnid}\t0\t32\t44\t62\n"
            archive.writestr(f"{top}/test/images/test_{n}.JPEG", jpeg(n))
        archive.writestr(f"{top}/val/val_annotations.txt", annotations)
    return images


def read_all(source: Source, split: str, rows: int = 4) -> list[SourceItem]:
    """All items of a split, read the way tasks do: by a copy of the source that was sent over."""
    copy = pickle.loads(pickle.dumps(source))
    return [item for chunk in source.chunks(split, rows) for item in copy.read(pickle.loads(pickle.dumps(chunk)))]


def read(source: Source, split: str, rows: int = 4) -> dict[str, tuple[int, bytes]]:
    """Key -> (label, file) of a split, in order, where all are good."""
    items = read_all(source, split, rows)
    assert not [item.problem for item in items if item.problem]
    assert len({item.key for item in items}) == len(items)
    return {item.key: (item.label, item.data) for item in items}


def hash_of(*parts: object) -> int:
    """A seed that is the same in every process."""
    return zlib.crc32(repr(parts).encode())
