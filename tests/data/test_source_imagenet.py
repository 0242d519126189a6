"""ILSVRC's archives as a source: miniatures with the real names, layouts and formats."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import UserError
from tests.data.archives import Described, Ilsvrc, ilsvrc, jpeg, link, member_bytes, meta_mat, read, tar
from workers.data.sources import ImageNetSource
from workers.data.sources import imagenet as module


def listed(files: Ilsvrc, **changes: Any) -> ImageNetSource:
    paths: dict[str, Any] = {"train": files.train, "devkit": files.devkit, "validation": files.validation, **changes}
    return ImageNetSource(**paths)


@pytest.fixture
def files(tmp_path: Path) -> Ilsvrc:
    return ilsvrc(tmp_path)


@pytest.mark.parametrize("contest", ["ILSVRC2012", "ILSVRC2010"])
def test_every_image_has_its_class(tmp_path: Path, contest: str) -> None:
    files = ilsvrc(tmp_path, contest)
    seen: list[tuple[int, int]] = []
    source = listed(files, on_progress=lambda done, total: seen.append((done, total)))
    assert source.classes == files.classes
    assert source.classes[0] == "n02066245 grey whale"
    assert source.notes == ()
    assert source.description.startswith(f"{contest} in ")
    assert source.splits == {"train": 18, "validation": 13}
    for split in source.splits:
        for rows in (1, 4, 100):
            found = read(source, split, rows)
            assert found == files.images[split]
            assert list(found) == list(files.images[split])
    assert len(seen) == 6 and seen[-1][0] == seen[-1][1] and seen == sorted(seen)


def test_the_ground_truth_is_read_by_the_kits_numbers_not_by_labels(files: Ilsvrc) -> None:
    """By hand: number 1 is the kit fox, which is the last of the six by WordNet ID."""
    assert listed(files, validation=None).splits == {"train": 18}
    source = listed(files)
    assert source.classes.index("n02119789 kit fox") == 5
    labels = [label for label, _ in read(source, "validation").values()]
    # Numbers 1, 6, 5, 4, 3, 2, 1 ...: kit fox, whale, springer, Australian terrier, husky, setter, kit fox ...
    assert labels[:7] == [5, 0, 3, 1, 4, 2, 5]


def test_kit_as_a_folder(files: Ilsvrc, tmp_path: Path) -> None:
    with tarfile.open(files.devkit) as archive:
        archive.extractall(tmp_path / "kit", filter="data")
    for folder in ("kit", "kit/ILSVRC2012_devkit_t12", "kit/ILSVRC2012_devkit_t12/data"):
        assert read(listed(files, devkit=tmp_path / folder), "validation") == files.images["validation"]


def test_more_classes_than_threads_and_either_way_of_listing(files: Ilsvrc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "THREADS", 2)
    assert read(listed(files), "train") == files.images["train"]
    clock = iter([0.0, 1.0, 1.0, 100.0])  # threads are much slower
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(module.ThreadPoolExecutor, "map", _map_of_at_most(2, module.ThreadPoolExecutor.map))
    assert read(listed(files), "train") == files.images["train"]


def _map_of_at_most(count: int, real: Callable[..., object]) -> Callable[..., object]:
    def checked(pool: object, function: object, numbers: range) -> object:
        assert len(numbers) <= count, "the rest should be listed without threads"
        return real(pool, function, numbers)

    return checked


def repack(path: Path, *more: Described, without: str = "") -> None:
    """Write a tar anew with more members, or without one."""
    with tarfile.open(path) as archive:
        kept = [(info.name, member_bytes(archive, info)) for info in archive if info.name != without]
    path.write_bytes(tar([*kept, *more]))


def test_strange_members_do_no_harm(files: Ilsvrc, tmp_path: Path) -> None:
    """Nothing is unpacked; what is no regular file is left out; names are only names."""
    wnid = "n02100735"
    inside = [(key.split("/")[1], data) for key, (_, data) in files.images["train"].items() if key.startswith(wnid)]
    names = [f"../../../{inside[0][0]}", f"/etc/{inside[1][0]}", f"c:\\temp\\{inside[2][0]}"]
    strange: list[Described] = [
        *zip(names, [data for _, data in inside], strict=True),
        link("../../link.JPEG", "/etc/passwd"),
        link("hard.JPEG", "/etc/passwd", tarfile.LNKTYPE),
        link("device.JPEG", "", tarfile.CHRTYPE),
        link("folder.JPEG", "", tarfile.DIRTYPE),
        ("._n02100735_3.JPEG", b"\0"),
        (".DS_Store", b"\0"),
        ("list.txt", b"a"),
    ]
    more = (f"../{wnid}.tar", tar(strange)), ("readme", b"hello"), link("n00000000.tar", "x")
    repack(files.train, *more, without=f"{wnid}.tar")
    before = sorted(os.listdir(tmp_path))
    source = listed(files)
    assert read(source, "train") == files.images["train"]
    assert source.notes == (
        "left out 1 files of ILSVRC2012_img_train.tar that are no class's archive",
        "left out 1 files without an image's suffix",
        "left out 4 members that are no regular files",
    )
    assert sorted(os.listdir(tmp_path)) == before


def test_control_characters_do_not_get_into_keys(tmp_path: Path) -> None:
    few = ilsvrc(tmp_path, per_class=1)
    inner = tar([("n02100735_\x1b[31m\n.JPEG", jpeg(1))])
    repack(few.train, ("n02100735.tar", inner), without="n02100735.tar")
    assert "n02100735/n02100735_?[31m?.JPEG" in read(listed(few), "train")


def test_gzipped_images_of_2010_and_patches(tmp_path: Path) -> None:
    files = ilsvrc(tmp_path, "ILSVRC2010", per_class=1)
    repack(files.train, ("n02100735.tar", tar([("n02100735_3.JPEG", gzip.compress(jpeg(1)))])), without="n02100735.tar")
    patch = tmp_path / "patch_images.tar"
    names = ("train/n02110185_3.JPEG", "val/ILSVRC2010_val_00000002.JPEG", "test/ILSVRC2010_test_00000002.JPEG")
    patch.write_bytes(tar((f"patch_images/{name}", jpeg(seed)) for seed, name in enumerate(names, start=2)))
    source = listed(files, patch=patch)
    assert source.notes == ("replaced 2 images by those of patch_images.tar",)
    changed = {
        "n02100735/n02100735_3.JPEG": (2, jpeg(1)),
        "n02110185/n02110185_3.JPEG": (4, jpeg(2)),
        "ILSVRC2010_val_00000002.JPEG": (0, jpeg(3)),
    }
    expected = {**files.images["train"], **files.images["validation"], **changed}
    assert read(source, "train") | read(source, "validation") == expected


def test_test_images_of_2010_with_their_own_truth(tmp_path: Path) -> None:
    files = ilsvrc(tmp_path, "ILSVRC2010", per_class=1)
    images, truth = tmp_path / "ILSVRC2010_images_test.tar", tmp_path / "ILSVRC2010_test_ground_truth.txt"
    images.write_bytes(tar((f"test/ILSVRC2010_test_{n:08d}.JPEG", jpeg(n)) for n in (1, 2)))
    truth.write_text("2\n1\n")
    found = read(listed(files, validation=images, truth=truth), "validation")
    assert [label for label, _ in found.values()] == [2, 5]
    truth.write_text("2\n7\n")
    with pytest.raises(UserError, match=r"test_ground_truth.txt, entry 2: b'7' is no class number of 1\.\.6"):
        listed(files, validation=images, truth=truth)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def overwrite(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)


def header(path: Path, name: str) -> int:
    """Where the header of a member lies."""
    with tarfile.open(path) as archive:
        return archive.getmember(name).offset


def flip_inner_header(files: Ilsvrc) -> None:
    with tarfile.open(files.train) as archive:
        inner = archive.getmember("n02110185.tar")
        content = member_bytes(archive, inner)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        second = archive.getmembers()[1].offset
    overwrite(files.train, inner.offset_data + second + 20, b"\xff\xff")


def new_kit(files: Ilsvrc, **members: bytes) -> None:
    with tarfile.open(files.devkit) as archive:
        kit = {info.name.split("/")[-1]: member_bytes(archive, info) for info in archive}
    kit.update({name.replace("__", "."): data for name, data in members.items()})
    files.devkit.write_bytes(tar(((f"data/{name}", data) for name, data in kit.items() if data), "w:gz"))


def husky(files: Ilsvrc, images: int) -> None:
    """Another archive of this class, with empty images of one name."""
    repack(files.train, ("n02110185.tar", tar([("a.JPEG", b"")] * images)), without="n02110185.tar")


def six(files: Ilsvrc, **counts: int) -> None:
    """The kit of six other classes, of 3 images or of so many."""
    wnids = {f"n0000000{n}": f"class {n}" for n in range(6)}
    new_kit(files, meta__mat=meta_mat(wnids, dict.fromkeys(wnids, 3) | counts, "ILSVRC2012"))


TRUTH = "ILSVRC2012_validation_ground_truth__txt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.train.unlink(), r"train\.tar cannot be read: No such file"),
        (lambda f: cut(f.train, 0), r"train\.tar is not a whole tar archive"),
        (lambda f: cut(f.train, f.train.stat().st_size // 2), r"train\.tar is not a whole tar archive: .*past the end"),
        # Right after a member: nothing is torn, but the mark of the end is missing.
        (lambda f: cut(f.train, header(f.train, "n02110185.tar")), r"not a whole tar archive: no header, and not the"),
        (
            lambda f: overwrite(f.train, header(f.train, "n02110185.tar") + 20, b"\xff\xff"),
            r"train\.tar is not a whole tar archive: no header, and not the end, at byte",
        ),
        (flip_inner_header, r"train\.tar: n02110185\.tar is not a whole tar archive: no header, and not the end"),
        (lambda f: f.train.write_bytes(gzip.compress(f.train.read_bytes())), r"train\.tar is not a whole tar archive"),
        (lambda f: f.train.write_bytes(f.validation.read_bytes()), r"holds no archives named n01440764\.tar"),
        (lambda f: repack(f.train, without="n02110185.tar"), r"1 of 6 classes are missing: n02110185\. Fetch"),
        (lambda f: repack(f.train, ("n09999999.tar", tar([]))), r"1 classes are not in the development .*: n09999999"),
        (lambda f: repack(f.train, ("n02110185.tar", tar([]))), r"holds n02110185\.tar twice"),
        (lambda f: husky(f, 1), r"n02110185\.tar holds 1 images, where the development kit says 3"),
        (lambda f: husky(f, 3), r"holds n02110185/a\.JPEG twice"),
        (
            lambda f: repack(f.validation, without="ILSVRC2012_val_00000004.JPEG"),
            r"val\.tar holds 12 numbered images, where the ground truth has 13; missing are number 4\. Fetch",
        ),
        (lambda f: cut(f.validation, 5000), r"val\.tar is not a whole tar archive"),
        (lambda f: f.validation.write_bytes(tar([("a.txt", b"")])), r"val\.tar holds 0 numbered images"),
        (lambda f: repack(f.validation, ("x/ILSVRC2012_val_4.JPEG", b"")), r"holds ILSVRC2012_val_4\.JPEG twice"),
        (lambda f: f.devkit.unlink(), r"devkit_t12\.tar\.gz cannot be read: No such file"),
        (lambda f: cut(f.devkit, 300), r"devkit_t12\.tar\.gz is not a whole tar archive"),
        (lambda f: f.devkit.write_bytes(f.validation.read_bytes()), r"is no development kit: .*and has neither"),
        (lambda f: new_kit(f, meta__mat=b""), r"is no development kit: .*and has ILSVRC2012_validation_gr"),
        (lambda f: new_kit(f, meta__mat=b"MATLAB" * 90), r"meta\.mat is damaged or not that of a dev"),
        (lambda f: new_kit(f, **{TRUTH: b"1\n2\n"}), r"13 numbered images, where the ground truth has 2\. Fetch"),
        (lambda f: new_kit(f, **{TRUTH: b"1\nfox\n"}), r"truth\.txt, entry 2: b'fox' is no class number of 1\.\.6"),
        (lambda f: new_kit(f, **{TRUTH: b"0\n"}), r"truth\.txt, entry 1: b'0' is no class number of 1\.\.6"),
        (lambda f: six(f), r"6 classes are not in the development kit of ILSVRC2012: n02066245, .* and 1 more\. Give"),
        (lambda f: six(f, n00000002=0), r"does not number its classes 1, 2, 3 \.\.\., each once"),
    ],
)
def test_damage_is_one_clear_error(files: Ilsvrc, damage: Callable[[Ilsvrc], None], message: str) -> None:
    damage(files)
    with pytest.raises(UserError, match=message) as raised:
        listed(files)
    assert "\n" not in str(raised.value)


def test_folder_instead_of_an_archive(files: Ilsvrc, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder: give the archive .*cluster\.prepare folder"):
        listed(files, train=tmp_path)
    with pytest.raises(UserError, match="is no development kit"):
        listed(files, devkit=tmp_path)


def test_archive_that_changed_after_it_was_listed(files: Ilsvrc) -> None:
    source = listed(files)
    cut(files.train, files.train.stat().st_size - 1)
    with pytest.raises(UserError, match=r"train\.tar changed since it was listed"):
        read(source, "train")
    files.validation.unlink()
    with pytest.raises(UserError, match=r"val\.tar cannot be read: No such file"):
        read(source, "validation")


def test_header_that_claims_to_be_huge_takes_no_memory(files: Ilsvrc) -> None:
    """A long name of 60 GB, as the header says, in a file of that size full of holes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 60 * 2**30
    with files.train.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(61 * 2**30)
    with pytest.raises(UserError, match=r"not a whole tar archive: a header of 64424509\d+ bytes"):
        listed(files)
