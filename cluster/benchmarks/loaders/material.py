"""The images that all contenders of `bench data` read: the same JPEG bytes in each library's own form.

A record's label is its id, so that whoever delivers labels tells which images came. Imports neither torch nor ray.
"""

import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from configs.errors import UserError
from configs.loader import load
from configs.schema import Config
from workers.data.dataset import Dataset
from workers.data.images import to_stored_jpeg
from workers.data.ingest import PixelSums, statistics
from workers.data.manifest import PIXEL_MEAN_FILE, Manifest, SplitInfo
from workers.data.pictures import draw_picture_set
from workers.data.shards import Record, ShardInfo, write_shard

SIZE, CROP = 256, 224
DRAWN_PER_CLASS = 40
"""Of ten classes: pictures that are drawn where no data set is given; more images than that repeat them."""
SHARD_ROWS = 512


@dataclasses.dataclass(frozen=True)
class Material:
    """A folder with the images as a data set of ours (`data`), as files (`files`), and in whatever form a peer adds."""

    folder: Path

    def config(self) -> Config:
        """original.yaml's augmentation with draws of its own for each image, and no rescaling, which no peer does."""
        settings = ["augment.crop_shared_by=1", "augment.colour_noise.rescale=false"]
        return load("original.yaml", [f"data.path={self.folder / 'data'}", *settings])

    @property
    def manifest(self) -> Manifest:
        return Manifest.load(self.folder / "data")

    @property
    def images(self) -> int:
        return self.manifest.splits["train"].rows

    def file(self, number: int) -> Path:
        """The JPEG file of a record."""
        return self.folder / "files" / f"{number:07d}.jpg"

    def form(self, name: str) -> Path:
        """Folder of a peer's own form."""
        return self.folder / name

    def jpegs(self) -> list[bytes]:
        """All records' bytes, by id."""
        return [self.file(number).read_bytes() for number in range(self.images)]


def make(folder: Path, images: int, source: Path | None) -> tuple[Material, str]:
    """Fill an empty folder with `images` records; returns them, and what they are in words.

    source: a prepared data set of JPEGs, whose images are taken evenly from its training split, or again and again if it has
    fewer; None: pictures drawn here. Raises UserError if it cannot serve.
    """
    manifest, mean, jpegs, what = _drawn() if source is None else _given(source, images)
    out = folder / "data"
    out.mkdir(parents=True)
    (folder / "files").mkdir()
    material = Material(folder)
    records = [
        Record(key=f"record {number}", label=number, image=image)
        for number, image in zip(range(images), itertools.cycle(jpegs), strict=False)
    ]
    for record in records:
        material.file(record.label).write_bytes(record.image)
    with (out / PIXEL_MEAN_FILE).open("wb") as file:
        np.save(file, mean)
    dataclasses.replace(
        manifest,
        classes=tuple(record.key for record in records),
        splits={"train": _split(out, "train", records), "validation": _split(out, "validation", records[:8])},
        pixel_mean_file=PIXEL_MEAN_FILE,
        quarantined=(),
    ).write(out)
    size = sum(len(record.image) for record in records) / images
    return material, f"{images:,} images ({min(images, len(jpegs)):,} different), {size / 1e3:.1f} kB each, {what}"


def _split(out: Path, split: str, records: list[Record]) -> SplitInfo:
    infos: list[ShardInfo] = []
    for number, start in enumerate(range(0, len(records), SHARD_ROWS)):
        infos.append(write_shard(out / f"{split}-{number:05d}.arrow", records[start : start + SHARD_ROWS]))
    return SplitInfo(shards=tuple(infos), rows=len(records))


def _drawn() -> tuple[Manifest, np.ndarray, list[bytes], str]:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary, "pictures")
        draw_picture_set(root, size=SIZE, train_per_class=DRAWN_PER_CLASS, validation_per_class=1, seed=0)
        # Classes in turn, as a shuffled set would have them.
        paths = sorted((root / "train").rglob("*.jpg"), key=lambda path: (path.name, path.parent.name))
        stored = [to_stored_jpeg(path.read_bytes(), SIZE) for path in paths]
    sums = PixelSums(pixels=np.zeros((SIZE, SIZE, 3), np.int64))
    for image in stored:
        sums.add_image(image.pixels)
    found = dataclasses.asdict(statistics(sums))
    mean = found.pop("pixel_mean")
    manifest = Manifest(image_size=SIZE, source="drawn pictures", classes=(), splits={}, **found)
    return manifest, mean, [image.jpeg for image in stored], "drawn pictures, which compress worse than most photos"


def _given(folder: Path, images: int) -> tuple[Manifest, np.ndarray, list[bytes], str]:
    manifest = Manifest.load(folder)
    if manifest.encoding != "jpeg" or manifest.image_size != SIZE:
        raise UserError(
            f"{folder} holds {manifest.encoding} images of {manifest.image_size}x{manifest.image_size}; the benchmark takes "
            f"JPEGs of {SIZE}x{SIZE}: prepare it with --size {SIZE}, without raw pixels"
        )
    train = Dataset(folder, "train", manifest)
    rows = np.unique(np.linspace(0, len(train) - 1, min(images, len(train)), dtype=np.int64))
    jpegs = [train.jpeg(int(row)).tobytes() for row in np.random.default_rng(0).permutation(rows)]
    return manifest, manifest.pixel_mean(folder), jpegs, f"from {folder.name} ({manifest.source})"


def copy_of(material: Material, name: str) -> Path:
    """An empty folder for a peer's own form."""
    folder = material.form(name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def shards_of(items: Iterable[tuple[int, bytes]], count: int) -> Iterator[list[tuple[int, bytes]]]:
    """(id, JPEG) in `count` parts of equal length; the last may be shorter."""
    listed = list(items)
    rows = -(-len(listed) // count)
    for start in range(0, len(listed), rows):
        yield listed[start : start + rows]
