"""The development kit of an ILSVRC: which classes there are, and the right classes of the validation images."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from workers.data.sources.names import last_part, safe
from workers.data.sources.tars import is_plain_file, stream_members, unreadable

META = "meta.mat"
TRUTH = re.compile(r"(?P<contest>ILSVRC\d{4})_validation_ground_truth\.txt")
ID_FIELD = re.compile(r"ILSVRC\d{4}_ID|synset_id")
LARGEST_FILE = 2**26  # bytes; the real ones have less than one MiB
NEEDED = "meta.mat and ILSVRC2012_validation_ground_truth.txt (or 2010's)"


@dataclass(frozen=True, kw_only=True)
class Devkit:
    """What a development kit says. Label n belongs to the n-th WordNet ID in order of their names."""

    contest: str
    """Such as ILSVRC2012."""
    labels: dict[str, int]
    """WordNet ID -> label, in order of labels."""
    classes: tuple[str, ...]
    """By label: the WordNet ID and the first of the words for it, as in "n01440764 tench"."""
    train_images: tuple[int, ...]
    """By label."""
    validation_labels: tuple[int, ...]
    """Of validation images number 1, 2, ..."""


def read_devkit(path: Path, truth: Path | None = None) -> Devkit:
    """Read ILSVRC20xx_devkit*.tar.gz, or the folder that it was unpacked to.

    truth: a file of ground truth to take instead of the validation set's, such as that of ILSVRC2010's test set.

    The kits count classes by an ID from 1, in an order of their own; ids beyond the number of leaves are inner nodes
    of the WordNet tree, without images. Here the IDs of leaves are turned into labels by sorting WordNet IDs, because
    that is the order of class folders, so of nearly every published network and data set.

    Raises UserError if a file is missing or does not say what it should.
    """
    files = _files_of_folder(path) if path.is_dir() else _files_of_archive(path)
    truths = [match for name in files if (match := TRUTH.fullmatch(name))]
    if META not in files or len(truths) != 1:
        there = ", ".join(sorted(files)) or "neither"
        raise UserError(f"{path} is no development kit: it should hold {NEEDED}, and has {there}")
    leaves = _read_leaves(path, files[META])
    labels = {wnid: label for label, wnid in enumerate(sorted(wnid for wnid, _, _ in leaves.values()))}
    words = {wnid: text for wnid, text, _ in leaves.values()}
    counts = {wnid: count for wnid, _, count in leaves.values()}
    told, where = files[truths[0].group()], f"{path}: {truths[0].group()}"
    if truth:
        told, where = _read_limited(truth), str(truth)
    return Devkit(
        contest=truths[0]["contest"],
        labels=labels,
        classes=tuple(safe(f"{wnid} {words[wnid].split(',')[0].strip()}".rstrip()) for wnid in labels),
        train_images=tuple(counts[wnid] for wnid in labels),
        validation_labels=tuple(labels[leaves[number][0]] for number in _read_truth(where, told, len(leaves))),
    )


def _files_of_folder(path: Path) -> dict[str, bytes]:
    """Contents by name, from the folder, its data folder, or that of a folder in it."""
    folders = [path, path / "data", *sorted(path.glob("*/data"))]
    names = [
        file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()) if _is_needed(file.name)
    ]
    return {file.name: _read_limited(file) for file in reversed(names)}


def _files_of_archive(path: Path) -> dict[str, bytes]:
    files = {}
    for member, opened in stream_members(path):
        name = last_part(member.name)
        if _is_needed(name) and is_plain_file(member):
            if member.size > LARGEST_FILE:
                raise UserError(f"{path}: {name} has {member.size:,} bytes, far more than it should")
            files[name] = opened().read()
    return files


def _is_needed(name: str) -> bool:
    return name == META or TRUTH.fullmatch(name) is not None


def _read_limited(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path} is far larger than it should be: is it the right file?")
        return path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), error) from None


def _read_leaves(path: Path, data: bytes) -> dict[int, tuple[str, str, int]]:
    """ID -> (WordNet ID, words, training images) of the classes that have images."""
    import scipy.io  # late, since no other source needs it

    try:
        synsets = scipy.io.loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        number = next(name for name in synsets.dtype.names if ID_FIELD.fullmatch(name))
        leaves = {
            int(row[number]): (str(row["WNID"]), str(row["words"]), int(row["num_train_images"]))
            for row in synsets
            if int(row["num_train_images"]) > 0
        }
    except Exception as error:  # what a damaged MAT file makes of the reader is not to be foreseen
        raise UserError(f"{path}: {META} is damaged or not that of a development kit ({_brief(error)})") from None
    if sorted(leaves) != list(range(1, len(leaves) + 1)) or len({wnid for wnid, _, _ in leaves.values()}) < len(leaves):
        raise UserError(f"{path}: {META} does not number its classes 1, 2, 3 ..., each once")
    return leaves


def _read_truth(where: str, data: bytes, classes: int) -> list[int]:
    """One ID per line."""
    numbers = []
    for line, text in enumerate(data.split(), start=1):
        if not text.isdigit() or not 1 <= int(text) <= classes:
            raise UserError(f"{where}, entry {line}: {text[:20]!r} is no class number of 1..{classes}")
        numbers.append(int(text))
    return numbers


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"
