"""Whether a data set fits the network, and what is known of one that does not exist yet."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cluster.dataset import check_fit, dataset_size, verify
from configs.errors import UserError
from configs.loader import load
from configs.schema import Config
from tests.cluster.runs import flip
from tests.workers import by_hand
from workers.data.manifest import Manifest, SplitInfo
from workers.data.upload import upload


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    by_hand.make_data_set(tmp_path, train_per_class=6, validation_per_class=2)
    return tmp_path


def changed(config: Config, part: str, **values: Any) -> Config:
    """With other values in one of its sections."""
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def test_each_problem_is_named_with_what_to_change_and_all_in_one_message(folder: Path) -> None:
    manifest, both = Manifest.load(folder / "data"), ("train", "validation")
    cases: list[tuple[dict[str, int], int | None, tuple[str, ...], list[str]]] = [
        ({}, None, (), []),
        ({"input_size": 40}, None, (), []),
        ({}, 9, (), []),
        ({"classes": 10}, None, (), ["it has 2 classes, but network.classes is 10; set network.classes=2"]),
        ({"input_size": 41}, None, (), ["the stored images are 40x40, smaller than the crop of 41"]),
        ({}, 10, (), ["augment.crop_positions = 10, but a crop of 32 has 9 in an image of 40"]),
        ({}, None, both[1:], ["it has no validation images; prepare it from a source that has some"]),
        ({}, None, both[:1], ["it has no train images; prepare it from a source that has some"]),
        ({"classes": 10, "input_size": 41}, None, both, ["no train", "no validation", "2 classes", "smaller than"]),
    ]
    for network, positions, without, words in cases:
        config = changed(by_hand.config(folder, crop_positions=positions), "network", **network)
        splits = {name: split for name, split in manifest.splits.items() if name not in without}
        splits |= {"train": SplitInfo(shards=(), rows=0)} if without == both[:1] else {}
        try:
            check_fit(config, dataclasses.replace(manifest, splits=splits))
            assert not words
        except UserError as error:
            before, _, told = str(error).partition(" does not fit: ")
            assert before == f"the data set at {folder / 'data'}"
            assert all(some in told for some in words) and (len(words) > 1 or told.startswith(words[0]))


def test_size_is_the_manifest_s(folder: Path) -> None:
    size = dataset_size(by_hand.config(folder))
    assert size is not None
    assert (size.train_rows, size.validation_rows, size.image_size, size.classes) == (12, 4, 40, 2)
    assert not size.drawn_first
    # A set that is there is checked before anything starts.
    with pytest.raises(UserError, match=r"it has 2 classes, but network\.classes is 10"):
        dataset_size(load(None, [f"data.path={folder / 'data'}"]))


def test_size_of_pictures_yet_to_be_drawn(tmp_path: Path) -> None:
    config = load(None, [f"data.path={tmp_path / 'data'}"])
    size = dataset_size(config)
    assert size is not None and size.drawn_first
    assert (size.train_rows, size.validation_rows, size.image_size, size.classes) == (5000, 1000, 40, 10)
    # An earlier attempt may have left the folder behind.
    (tmp_path / "data").mkdir()
    assert dataset_size(config) == size
    # Nothing is known of nothing.
    assert dataset_size(load(None, ["data.drawn_pictures=null", f"data.path={tmp_path / 'nowhere'}"])) is None
    with pytest.raises(UserError, match="it was never finished"):
        dataset_size(load(None, ["data.drawn_pictures=null", f"data.path={tmp_path / 'data'}"]))


def test_verify_reads_the_shards_unless_told_not_to(folder: Path) -> None:
    config = by_hand.config(folder)
    verify(config)
    flip(folder / "data" / "train-1.arrow")
    with pytest.raises(UserError, match=r"1 of 3 shards .* are damaged: train-1\.arrow has another checksum"):
        verify(config)
    verify(changed(config, "data", verify_checksums=False))
    with pytest.raises(UserError, match="does not fit"):
        verify(changed(config, "network", classes=3))


def test_a_data_set_at_a_url_is_sized_fitted_and_verified(folder: Path) -> None:
    far, plain = folder / "far", by_hand.config(folder)
    upload(folder / "data", f"file://{far}")
    config = changed(plain, "data", path=f"file://{far}", cache_folder=str(folder / "cache"))
    assert dataset_size(config) == dataset_size(plain)
    verify(config)
    assert not list((folder / "cache").rglob("*.arrow")), "the driver fetches no shards"
    with pytest.raises(UserError, match=r"the data set at file:///.*/far does not fit: it has 2 classes"):
        dataset_size(changed(config, "network", classes=3))
    shard = far / "train-1.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    # Sizes are looked at even where checksums are not: the listing costs nothing.
    told = r"1 of 3 shards at file://.* are damaged: train-1\.arrow has .* bytes instead of"
    with pytest.raises(UserError, match=told):
        verify(changed(config, "data", verify_checksums=False))
    (far / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"far/manifest\.json is missing"):
        dataset_size(config)
