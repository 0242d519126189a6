"""What a run keeps of its data set: whole, checked, and enough to make of a photo what the data set has of it."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from configs.errors import UserError
from tests.data.pictures import jpeg
from tests.workers.by_hand import make_data_set
from workers.data.facts import DataFacts
from workers.data.ingest import make_shard
from workers.data.manifest import Encoding, Manifest
from workers.data.shards import Shard
from workers.data.sources import FolderSource


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts")
    make_data_set(folder, train_per_class=4, validation_per_class=3)
    return folder / "data"


def facts_of(folder: Path) -> DataFacts:
    return DataFacts.of(Manifest.load(folder), folder)


def same(one: DataFacts, other: DataFacts) -> bool:
    means = one.statistics.mean_SSC, other.statistics.mean_SSC
    return np.array_equal(*means) and one.to_json() == other.to_json()


def kept(folder: Path) -> DataFacts:
    facts = DataFacts.load(folder)
    assert facts is not None
    return facts


def test_kept_and_read_again_and_replaced_where_another_or_damaged(place: Path, tmp_path: Path) -> None:
    facts, file, manifest = facts_of(place), tmp_path / "preprocess.json", Manifest.load(place)
    assert DataFacts.load(tmp_path) is None
    facts.keep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mean.npy", "preprocess.json"]
    again = kept(tmp_path)
    assert same(again, facts)
    assert (again.classes, again.image_size, again.fingerprint) == (("a", "b"), 40, manifest.fingerprint)
    assert again.statistics.eigenvectors == manifest.rgb_eigenvectors
    before = file.stat().st_ino
    facts.keep(tmp_path)
    assert file.stat().st_ino == before, "what is there is left alone"
    dataclasses.replace(facts, fingerprint="another").keep(tmp_path)
    assert kept(tmp_path).fingerprint == "another"
    file.write_text("{")
    facts.keep(tmp_path)
    assert same(kept(tmp_path), facts)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file, mean: mean.write_bytes(mean.read_bytes()[:-1]),
        lambda file, mean: mean.unlink(),
        lambda file, mean: np.save(mean, np.load(mean) + 1),
        lambda file, mean: np.save(mean, np.float32(3)),
        lambda file, mean: file.write_text(file.read_text().replace('"image_size": 40', '"image_size": 41')),
        lambda file, mean: file.write_text(file.read_text().replace('"version": 1', '"version": 2')),
        lambda file, mean: file.write_text(file.read_text().replace('"jpeg"', '"gif"')),
    ],
)
def test_damage_is_told_with_the_way_out(place: Path, tmp_path: Path, damage: Callable[[Path, Path], object]) -> None:
    facts_of(place).keep(tmp_path)
    damage(tmp_path / "preprocess.json", tmp_path / "mean.npy")
    with pytest.raises(UserError, match=r"preprocess\.json.*damaged.*restore them from a copy"):
        DataFacts.load(tmp_path)


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("apply_orientation", [False, True])
def test_a_photo_as_prepare_stores_it(place: Path, tmp_path: Path, encoding: Encoding, apply_orientation: bool) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    photo = Image.open(io.BytesIO(jpeg(1, 61, 90)))
    (folder / "0 fits.jpg").write_bytes(jpeg(2, 40, 40))
    photo.save(folder / "1 large and turned.jpg", quality=90, exif=turned)
    photo.convert("P").save(folder / "2.png")
    photo.resize((30, 20)).save(folder / "3 small.webp", lossless=True)
    (tmp_path / "train" / "b").mkdir()
    photo.save(tmp_path / "train" / "b" / "4.bmp")
    source = FolderSource(tmp_path, validation_fraction=0)
    [chunk] = source.chunks("train", 10)
    make_shard(source, chunk, tmp_path, "one.arrow", 40, 95, encoding=encoding, apply_orientation=apply_orientation)
    shard, facts = Shard(tmp_path / "one.arrow"), dataclasses.replace(facts_of(place), encoding=encoding)
    assert len(shard) == 5
    for row in range(5):
        stored = shard.image(row)
        expected = stored.reshape(40, 40, 3) if encoding == "raw" else simplejpeg.decode_jpeg(stored, "RGB")
        data = (tmp_path / shard.key(row)).read_bytes()
        assert np.array_equal(facts.as_stored(data, apply_orientation=apply_orientation), expected), shard.key(row)
