"""The data worker, without Ray: its batches against images decoded and cut out one by one."""

import dataclasses
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.schema import ColourNoise, Config
from tests.data.made_up import as_raw
from tests.workers import by_hand
from workers.data.data_worker import DataWorker, Replaced
from workers.data.dataset import CorruptRecordError
from workers.data.manifest import Manifest
from workers.data.shards import CorruptShardError, Shard
from workers.program import Program, Request

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


def test_training_batch_is_what_decoding_and_cutting_by_hand_gives(folder: Path) -> None:
    """Over the edge of an epoch, with chunks that begin before the batch does."""
    seed, start, count, shared = 5, 17, 29, 4
    worker = DataWorker(with_seed(by_hand.config(folder, crop_shared_by=shared), seed), "worker")
    batch = worker.batch(train(start, count))
    assert batch["decoded"] == count
    assert batch["seconds"] > 0
    assert batch["replaced"] == []
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


def test_centre_crops_and_the_same_order_every_epoch(folder: Path) -> None:
    config = by_hand.config(folder, crop="centre", crop_positions=OFFSETS)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=5, order="same_every_epoch"))
    worker, pictures = DataWorker(config, "worker"), files(folder, "train")
    first, second = worker.batch(train(0, ROWS)), worker.batch(train(ROWS, ROWS))
    centre = (by_hand.SIZE - CROP) // 2
    for number, row in enumerate(by_hand.order(5, 0, ROWS)):
        whole = simplejpeg.decode_jpeg(pictures[row].read_bytes(), "RGB")
        cut = whole[centre : centre + CROP, centre : centre + CROP]
        np.testing.assert_array_equal(first["images"][number], cut)
    assert (first["offsets"] == centre).all()
    np.testing.assert_array_equal(second["images"], first["images"])
    # What is drawn for an image is still another thing in each epoch.
    assert (second["keys"] != first["keys"]).all() and (second["mirror"] != first["mirror"]).any()


def test_types_and_shapes(folder: Path) -> None:
    worker = DataWorker(by_hand.config(folder), "worker")
    made = worker.batch(train(0, 3)) | {name: np.empty(0) for name in ("decoded", "seconds", "replaced")}
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
    assert batch.keys() == {"images", "labels", "offsets", "decoded", "seconds", "replaced"}
    assert batch["decoded"] == 7
    for number, path in enumerate(pictures[5:12]):
        whole = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        np.testing.assert_array_equal(batch["images"][number], whole[4:36, 4:36])
    assert batch["labels"].tolist() == [0, 1, 1, 1, 1, 1, 1]
    assert batch["offsets"].tolist() == [[4, 4]] * 7


def test_views_are_cut_from_whole_validation_images(folder: Path) -> None:
    worker = DataWorker(by_hand.config(folder), "worker")
    batch = worker.views_batch(Request(split="validation", start=5, count=7))
    assert batch.keys() == {"images", "labels", "decoded", "seconds", "replaced"}
    assert batch["images"].shape == (7, by_hand.SIZE, by_hand.SIZE, 3) and batch["decoded"] == 7
    for number, path in enumerate(files(folder, "validation")[5:12]):
        np.testing.assert_array_equal(batch["images"][number], simplejpeg.decode_jpeg(path.read_bytes(), "RGB"))
    assert batch["labels"].tolist() == [0, 1, 1, 1, 1, 1, 1] and batch["labels"].dtype == np.int64
    with pytest.raises(ValueError, match="views are for testing"):
        worker.views_batch(train(0, 3))


def test_a_first_batch_opens_the_shards_of_its_rows_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    begin = Shard.__init__

    def noted(shard: Shard, path: Path) -> None:
        opened.append(path.name)
        begin(shard, path)

    monkeypatch.setattr(Shard, "__init__", noted)
    worker = DataWorker(by_hand.config(folder), "worker")
    assert not opened
    worker.batch(train(0, 2))
    rows = by_hand.order(0, 0, ROWS)[:2]
    assert sorted(opened) == sorted({f"train-{row // 8}.arrow" for row in rows})


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
    worker = DataWorker(config, "worker")
    batch = worker.batch(train(0, ROWS))
    y, x = batch["offsets"][position]
    picture = simplejpeg.decode_jpeg(source[other].read_bytes(), "RGB")
    np.testing.assert_array_equal(batch["images"][position], picture[y : y + CROP, x : x + CROP])
    assert batch["labels"][position] == (other >= ROWS // 2)
    elsewhere = np.arange(ROWS) != position
    for name in ("images", "labels"):
        np.testing.assert_array_equal(batch[name][elsewhere], whole[name][elsewhere])
    for name in ("offsets", "mirror", "keys", "colour", "noisy"):
        np.testing.assert_array_equal(batch[name], whole[name])
    key, by = (source[number].relative_to(tmp_path / "pictures").as_posix() for number in (row, other))
    [replaced] = batch["replaced"]
    assert replaced == Replaced(row=row, key=key, file=str(shard), reason="its checksum differs", by=by)
    # Alone, and by another worker, it is the same.
    alone = DataWorker(config, "alone").batch(train(position, 1))
    np.testing.assert_array_equal(alone["images"][0], batch["images"][position])
    same(DataWorker(config, "another").batch(train(0, ROWS)), batch)
    # It stands elsewhere in the next epoch, and so another one stands in for it.
    later = worker.batch(train(ROWS, ROWS))["replaced"]
    assert [record.row for record in later] == [row]


def test_one_that_stands_in_may_be_damaged_too(tmp_path: Path) -> None:
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


def test_where_hardly_any_image_is_whole_it_is_an_error(tmp_path: Path) -> None:
    for source in by_hand.make_data_set(tmp_path)["train"]:
        damage(tmp_path, source)
    with pytest.raises(CorruptRecordError, match="checksum differs"):
        DataWorker(by_hand.config(tmp_path), "worker").batch(train(0, 1))


def test_nothing_stands_in_for_a_damaged_validation_image(tmp_path: Path) -> None:
    source = by_hand.make_data_set(tmp_path)["validation"]
    damage(tmp_path, source[9])
    worker = DataWorker(by_hand.config(tmp_path), "worker")
    request = Request(split="validation", start=8, count=3)
    for ask in (worker.batch, worker.views_batch):
        with pytest.raises(CorruptRecordError) as caught:
            ask(request)
        error = pickle.loads(pickle.dumps(caught.value))  # on its way from the data worker to the column
        assert "validation-1.arrow: the image in row 1 (key 'validation/b/003.jpg') is damaged: its check" in str(error)
        assert (error.row, error.key) == (1, "validation/b/003.jpg")
    assert worker.batch(dataclasses.replace(request, start=10, count=2))["decoded"] == 2


@pytest.mark.parametrize("cut", [True, False])
def test_a_shard_that_is_missing_or_cut_is_an_error_at_once(tmp_path: Path, cut: bool) -> None:
    by_hand.make_data_set(tmp_path)
    path = tmp_path / "data" / "train-1.arrow"
    stored = path.read_bytes()
    path.unlink()
    if cut:
        path.write_bytes(stored[: len(stored) // 2])
    with pytest.raises(CorruptShardError, match=r"train-1\.arrow cannot be read as a shard"):
        DataWorker(by_hand.config(tmp_path), "worker").batch(train(0, ROWS))


def test_raw_pixels_give_the_same_batches(folder: Path, tmp_path: Path) -> None:
    """The same pictures, stored as pixels."""
    raw = as_raw(folder / "data", tmp_path / "data")
    plain = DataWorker(by_hand.config(folder), "plain")
    worker = DataWorker(by_hand.config(tmp_path), "worker")
    assert Manifest.load(raw).encoding == "raw"
    for request in (train(17, 29), Request(split="validation", start=3, count=5)):
        same(worker.batch(request), plain.batch(request))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 15), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_validation_is_every_image_once_for_any_batch_replicas_and_workers(
    folder: Path, replicas: int, workers: int, batch: int, chance: random.Random
) -> None:
    """From the program's requests, through the data workers, in the order in which they may happen to answer."""
    config = by_hand.config(folder)
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, evaluate_batch_size=batch),
        cluster=dataclasses.replace(config.cluster, replicas=replicas),
    )
    made = [DataWorker(config, f"worker {number}") for number in range(workers)]
    programs = [Program.of(config, train_rows=ROWS, validation_rows=12, replica=replica) for replica in range(replicas)]
    items = [list(program.evaluation(3)) for program in programs]
    assert len({len(each) for each in items}) == 1, "all replicas have as many items"
    requests = [item.request for each in items for item in each if item.request.count]
    chance.shuffle(requests)
    batches = [chance.choice(made).batch(request) for request in requests]
    assert all(len(each["labels"]) <= batch for each in batches)
    found = sorted(
        (int(label), picture.tobytes())
        for each in batches
        for picture, label in zip(each["images"], each["labels"], strict=True)
    )
    whole = [simplejpeg.decode_jpeg(path.read_bytes(), "RGB")[4:36, 4:36] for path in files(folder, "validation")]
    assert found == sorted((row // 6, picture.tobytes()) for row, picture in enumerate(whole))


def test_pictures_smaller_than_the_crop_are_refused(folder: Path) -> None:
    config = by_hand.config(folder)
    large = dataclasses.replace(config, network=dataclasses.replace(config.network, input_size=41))
    with pytest.raises(ValueError, match="stored images are 40x40, smaller than the crop of 41"):
        DataWorker(large, "worker")
