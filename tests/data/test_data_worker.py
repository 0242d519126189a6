"""The data worker, without Ray: its batches against images decoded and cut out one by one."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from configs.schema import ColourNoise, Config
from tests.workers import by_hand
from workers.data.data_worker import DataWorker
from workers.data.manifest import Manifest
from workers.data.shards import CorruptShardError
from workers.program import Request

CROP, OFFSETS, ROWS = 32, by_hand.SIZE - 32 + 1, 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    by_hand.make_data_set(folder)
    return folder


def files(folder: Path, split: str) -> list[Path]:
    """In the order of class and name, which is that of the rows."""
    return sorted((folder / "pictures" / split).rglob("*.jpg"))


def with_seed(config: Config, seed: int) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))


def train(start: int, count: int) -> Request:
    return Request(split="train", start=start, count=count)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """All but the time it took, bitwise."""
    assert one.keys() == other.keys()
    for name in one.keys() - {"seconds"}:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_training_batch_is_what_decoding_and_cutting_by_hand_gives(folder: Path) -> None:
    """Over the edge of an epoch, with chunks that begin before the batch does."""
    seed, start, count, shared = 5, 17, 29, 4
    worker = DataWorker(with_seed(by_hand.config(folder, crop_shared_by=shared), seed), "worker")
    batch = worker.batch(train(start, count))
    assert batch["decoded"] == count
    assert batch["seconds"] > 0
    pictures = files(folder, "train")
    orders = [by_hand.order(seed, epoch, ROWS) for epoch in range(2)]
    for number in range(count):
        epoch, position = divmod(start + number, ROWS)
        row = orders[epoch][position]
        y, x = by_hand.crop(seed, epoch, position // shared, OFFSETS)
        whole = simplejpeg.decode_jpeg(pictures[row].read_bytes(), "RGB")
        np.testing.assert_array_equal(batch["images"][number], whole[y : y + CROP, x : x + CROP])
        assert batch["labels"][number] == (row >= ROWS // 2)
        assert batch["offsets"][number].tolist() == [y, x]
        assert batch["mirror"][number] == by_hand.mirrored(seed, epoch, position // shared)
        assert int(batch["keys"][number]) % 2**64 == by_hand.key(seed, 6, epoch, position)


def test_types_and_shapes(folder: Path) -> None:
    worker = DataWorker(by_hand.config(folder), "worker")
    made = worker.batch(train(0, 3)) | {"decoded": np.empty(0), "seconds": np.empty(0)}
    assert {name: (array.dtype.name, array.shape) for name, array in made.items() if array.size} == {
        "images": ("uint8", (3, CROP, CROP, 3)),
        "labels": ("int64", (3,)),
        "offsets": ("int64", (3, 2)),
        "mirror": ("bool", (3,)),
        "keys": ("int64", (3,)),
        "colour": ("float32", (3, 3)),
        "noisy": ("bool", (3,)),
    }
    plain = DataWorker(by_hand.config(folder, colour_noise=None), "worker").batch(train(0, 3))
    assert plain.keys() == made.keys() - {"colour", "noisy"}


def test_colour_noise_is_that_of_the_manifest(folder: Path) -> None:
    """Offsets are combinations of the manifest's principal components, scaled by the deviations found in it."""
    noise = ColourNoise(strength=0.1)
    batch = DataWorker(by_hand.config(folder, colour_noise=noise), "worker").batch(train(0, 600))
    manifest = Manifest.load(folder / "data")
    components = batch["colour"] @ np.array(manifest.rgb_eigenvectors) / (0.1 * np.sqrt(manifest.rgb_eigenvalues))
    # 600 standard normal numbers per component: the deviation is off by 1 / sqrt(1,200).
    assert np.abs(components.std(axis=0) - 1).max() < 5 / np.sqrt(1200)


def test_any_worker_makes_the_same_batch_in_any_order(folder: Path) -> None:
    config = by_hand.config(folder, crop_shared_by=3)
    one, other = DataWorker(config, "one"), DataWorker(config, "other")
    starts = [0, 90, 10, 55, 5]
    first = {start: one.batch(train(start, 12)) for start in starts}
    for start in reversed(starts):
        same(first[start], other.batch(train(start, 12)))
    assert repr(one) == one.name == "one"


def test_other_seed_other_batch(folder: Path) -> None:
    config = by_hand.config(folder)
    one, other = (DataWorker(with_seed(config, seed), "worker").batch(train(0, 20)) for seed in (0, 1))
    for name in ("images", "offsets", "mirror", "keys", "colour"):
        assert (one[name] != other[name]).any(), name


def test_validation_is_the_centre_of_each_picture_in_order(folder: Path) -> None:
    batch = DataWorker(by_hand.config(folder), "worker").batch(Request(split="validation", start=5, count=7))
    pictures = files(folder, "validation")
    assert batch.keys() == {"images", "labels", "offsets", "decoded", "seconds"}
    assert batch["decoded"] == 7
    for number, path in enumerate(pictures[5:12]):
        whole = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        np.testing.assert_array_equal(batch["images"][number], whole[4:36, 4:36])
    assert batch["labels"].tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert batch["offsets"].tolist() == [[4, 4]] * 7


def test_damaged_image_is_refused_by_name_and_others_still_come(tmp_path: Path) -> None:
    source = by_hand.make_data_set(tmp_path)["train"]
    worker = DataWorker(by_hand.config(tmp_path), "worker")
    order = by_hand.order(0, 0, ROWS)
    row = 11  # in the second shard of 8
    shard = tmp_path / "data" / "train-1.arrow"
    stored = bytearray(shard.read_bytes())
    stored[stored.index(source[row].read_bytes()) + 300] ^= 0x10
    shard.write_bytes(stored)
    position = order.index(row)
    with pytest.raises(CorruptShardError, match=r"train-1\.arrow.* row 3 .*train/a/011\.jpg.*checksum differs"):
        worker.batch(train(position, 1))
    assert worker.batch(train(position + 1, 1))["decoded"] == 1


def test_pictures_smaller_than_the_crop_are_refused(folder: Path) -> None:
    config = by_hand.config(folder)
    large = dataclasses.replace(config, network=dataclasses.replace(config.network, input_size=41))
    with pytest.raises(ValueError, match="stored images are 40x40, smaller than the crop of 41"):
        DataWorker(large, "worker")
