"""The data worker, without Ray: its batches against images decoded and cut out one by one."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from configs.schema import Config
from tests.workers import by_hand
from workers.data.data_worker import DataWorker, Replaced
from workers.data.dataset import CorruptRecordError
from workers.data.shards import CorruptShardError
from workers.program import Request

CROP, OFFSETS, ROWS = 32, by_hand.SIZE - 32 + 1, 30
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    by_hand.make_data_set(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(folder: Path) -> dict[str, list[np.ndarray]]:
    """Of each split, decoded, in the order of class and name, which is that of the rows."""
    return {split: [decoded(path) for path in sorted((folder / "pictures" / split).rglob("*.jpg"))] for split in SPLITS}


def decoded(path: Path) -> np.ndarray:
    pixels: np.ndarray = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
    return pixels


def with_train(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def train(start: int, count: int) -> Request:
    return Request(split="train", start=start, count=count)


def validation(start: int, count: int) -> Request:
    return Request(split="validation", start=start, count=count)


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """All but the time it took, bitwise."""
    assert one.keys() == other.keys()
    for name in one.keys() - {"seconds"}:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def damage(folder: Path, source: Path) -> Path:
    """Flip a bit of this picture, wherever it is stored; returns its shard."""
    picture = source.read_bytes()
    for shard in (folder / "data").glob("*.arrow"):
        stored = bytearray(shard.read_bytes())
        if (start := stored.find(picture)) >= 0:
            stored[start + 300] ^= 0x10
            shard.write_bytes(stored)
            return shard
    raise LookupError(source)


def test_training_batch_is_the_one_cut_out_by_hand(folder: Path, pictures: dict[str, list[np.ndarray]]) -> None:
    """Over the edge of an epoch, with chunks that begin before the batch does."""
    seed, start, count, shared = 5, 17, 29, 4
    worker = DataWorker(with_train(by_hand.config(folder, crop_shared_by=shared), seed=seed), "worker")
    batch = worker.batch(train(start, count))
    assert batch["decoded"] == count
    assert batch["seconds"] > 0
    assert batch["replaced"] == []
    orders = [by_hand.order(seed, epoch, ROWS) for epoch in range(2)]
    for number in range(count):
        epoch, position = divmod(start + number, ROWS)
        row = orders[epoch][position]
        y, x = by_hand.crop(seed, epoch, position // shared, OFFSETS)
        cut = pictures["train"][row][y : y + CROP, x : x + CROP]
        np.testing.assert_array_equal(batch["images"][number], cut)
        assert batch["labels"][number] == (row >= ROWS // 2)
        assert batch["offsets"][number].tolist() == [y, x]
        assert batch["mirror"][number] == by_hand.mirrored(seed, epoch, position // shared)
        assert int(batch["keys"][number]) % 2**64 == by_hand.key(seed, 6, epoch, position)


def test_any_worker_makes_the_same_batch_in_any_order_and_another_seed_another_one(folder: Path) -> None:
    config = by_hand.config(folder, crop_shared_by=3)
    one, again, other = (DataWorker(with_train(config, seed=seed), "one") for seed in (0, 0, 1))
    starts = [0, 90, 10, 55, 5]
    first = {start: one.batch(train(start, 12)) for start in starts}
    for start in reversed(starts):
        same(first[start], again.batch(train(start, 12)))
    for name in ("images", "offsets", "mirror", "keys", "colour"):
        assert (other.batch(train(0, 12))[name] != first[0][name]).any(), name
    assert repr(one) == one.name == "one"


def test_validation_is_the_centre_of_each_picture_in_order_and_views_are_cut_from_whole_ones(
    folder: Path, pictures: dict[str, list[np.ndarray]]
) -> None:
    worker, rows = DataWorker(by_hand.config(folder), "worker"), slice(5, 12)
    batch, views = worker.batch(validation(5, 7)), worker.views_batch(validation(5, 7))
    assert batch.keys() - views.keys() == {"offsets"}
    assert views.keys() == {"images", "labels", "decoded", "seconds", "replaced"}
    whole = np.stack(pictures["validation"][rows])
    np.testing.assert_array_equal(batch["images"], whole[:, 4:36, 4:36])
    np.testing.assert_array_equal(views["images"], whole)
    assert batch["offsets"].tolist() == [[4, 4]] * 7
    for made in (batch, views):
        assert made["decoded"] == 7
        assert made["labels"].tolist() == [0, 1, 1, 1, 1, 1, 1] and made["labels"].dtype == np.int64
    with pytest.raises(ValueError, match="views are for testing"):
        worker.views_batch(train(0, 3))


def test_another_picture_stands_in_for_a_damaged_one_and_everything_else_stays(tmp_path: Path) -> None:
    source = by_hand.make_data_set(tmp_path)["train"]
    config = by_hand.config(tmp_path)
    whole = DataWorker(config, "before").batch(train(0, ROWS))
    order = by_hand.order(0, 0, ROWS)
    # The seventh use of the hash; the attempt is its last name.
    others = [(by_hand.key(0, 7, 0, position, 0) >> 32) * ROWS >> 32 for position in range(ROWS)]
    position = next(place for place in range(ROWS) if order[place] // 15 != others[place] // 15)
    row, other = order[position], others[position]
    shard = damage(tmp_path, source[row])
    batch = DataWorker(config, "worker").batch(train(0, ROWS))
    y, x = batch["offsets"][position]
    picture = decoded(source[other])[y : y + CROP, x : x + CROP]
    np.testing.assert_array_equal(batch["images"][position], picture)
    assert batch["labels"][position] == (other >= ROWS // 2)
    elsewhere = np.arange(ROWS) != position
    for name in ("images", "labels"):
        np.testing.assert_array_equal(batch[name][elsewhere], whole[name][elsewhere])
    for name in ("offsets", "mirror", "keys", "colour", "noisy"):
        np.testing.assert_array_equal(batch[name], whole[name])
    key, by = (source[number].relative_to(tmp_path / "pictures").as_posix() for number in (row, other))
    assert batch["replaced"] == [Replaced(row=row, key=key, file=str(shard), reason="its checksum differs", by=by)]
    # Alone, and by another worker, it is the same.
    alone = DataWorker(config, "alone").batch(train(position, 1))
    np.testing.assert_array_equal(alone["images"][0], batch["images"][position])


def test_one_that_stands_in_may_be_damaged_too_but_not_all(tmp_path: Path) -> None:
    source = by_hand.make_data_set(tmp_path)["train"]
    row = by_hand.order(0, 0, ROWS)[0]
    chain = [by_hand.key(0, 7, 0, 0, attempt) >> 32 for attempt in range(20)]
    rows = [row, *(value * ROWS >> 32 for value in chain)]
    last = next(number for number, other in enumerate(rows) if other not in rows[:number] and number >= 3)
    for bad in set(rows[:last]):
        damage(tmp_path, source[bad])
    batch = DataWorker(by_hand.config(tmp_path), "worker").batch(train(0, 1))
    assert {record.row for record in batch["replaced"]} == set(rows[:last])
    assert batch["labels"][0] == (rows[last] >= ROWS // 2)
    for bad in set(range(ROWS)) - set(rows[:last]):
        damage(tmp_path, source[bad])
    with pytest.raises(CorruptRecordError, match="checksum differs"):
        DataWorker(by_hand.config(tmp_path), "worker").batch(train(0, 1))


def test_nothing_stands_in_for_a_damaged_validation_image(tmp_path: Path) -> None:
    source = by_hand.make_data_set(tmp_path)["validation"]
    damage(tmp_path, source[9])
    worker = DataWorker(by_hand.config(tmp_path), "worker")
    for ask in (worker.batch, worker.views_batch):
        with pytest.raises(CorruptRecordError) as caught:
            ask(validation(8, 3))
        error = pickle.loads(pickle.dumps(caught.value))  # on its way from the data worker to the column
        assert "validation-1.arrow: the image in row 1 (key 'validation/b/003.jpg') is damaged: its check" in str(error)
        assert (error.row, error.key, error.reason) == (1, "validation/b/003.jpg", "its checksum differs")
    assert worker.batch(validation(10, 2))["decoded"] == 2


def test_a_shard_that_is_missing_is_an_error_at_once(tmp_path: Path) -> None:
    by_hand.make_data_set(tmp_path)
    (tmp_path / "data" / "train-1.arrow").unlink()
    with pytest.raises(CorruptShardError, match=r"train-1\.arrow cannot be read as a shard"):
        DataWorker(by_hand.config(tmp_path), "worker").batch(train(0, ROWS))
