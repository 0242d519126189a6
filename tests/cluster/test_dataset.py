"""Whether a data set fits the network, and what is known of one that does not exist yet."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cluster.dataset import check_fit, dataset_size, verify
from configs.errors import UserError
from configs.loader import load
from tests.workers import by_hand
from workers.data.manifest import Manifest, SplitInfo
from workers.data.upload import upload


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    by_hand.make_data_set(folder, train_per_class=6, validation_per_class=2)
    return folder


def problems(
    folder: Path, *, classes: int = 2, input_size: int = 32, positions: int | None = None, **changes: Any
) -> str:
    """What `check_fit` says of a manifest with these changes; nothing if it fits."""
    config = by_hand.config(folder, crop_positions=positions)
    config = dataclasses.replace(
        config, network=dataclasses.replace(config.network, classes=classes, input_size=input_size)
    )
    manifest = Manifest.load(folder / "data")
    try:
        check_fit(config, dataclasses.replace(manifest, **changes))
    except UserError as error:
        text = str(error)
        assert text.startswith(f"the data set at {folder / 'data'} does not fit: ")
        return text.partition(" does not fit: ")[2]
    return ""


def test_what_fits_passes(folder: Path) -> None:
    assert problems(folder) == ""
    assert problems(folder, input_size=40) == ""
    assert problems(folder, positions=9) == ""


def test_each_problem_is_named_with_what_to_change(folder: Path) -> None:
    splits = Manifest.load(folder / "data").splits
    assert problems(folder, classes=10) == "it has 2 classes, but network.classes is 10; set network.classes=2"
    assert problems(folder, input_size=41).startswith("the stored images are 40x40, smaller than the crop of 41")
    assert problems(folder, positions=10).startswith(
        "augment.crop_positions = 10, but a crop of 32 has 9 in an image of 40"
    )
    without = problems(folder, splits={"train": splits["train"]})
    assert without == "it has no validation images; prepare it from a source that has some"
    empty = problems(folder, splits={**splits, "train": SplitInfo(shards=(), rows=0)})
    assert empty == "it has no train images; prepare it from a source that has some"


def test_all_problems_come_in_one_message(folder: Path) -> None:
    text = problems(folder, classes=10, input_size=41, splits={})
    for part in ("no train images", "no validation images", "2 classes", "smaller than the crop"):
        assert part in text


def test_size_is_the_manifest_s(folder: Path) -> None:
    size = dataset_size(by_hand.config(folder))
    assert size is not None
    assert (size.train_rows, size.validation_rows, size.image_size, size.classes) == (12, 4, 40, 2)
    assert not size.drawn_first


def test_size_of_pictures_yet_to_be_drawn(tmp_path: Path) -> None:
    config = load(None, [f"data.path={tmp_path / 'data'}"])
    size = dataset_size(config)
    assert size is not None and size.drawn_first
    assert (size.train_rows, size.validation_rows, size.image_size, size.classes) == (5000, 1000, 40, 10)
    # An earlier attempt may have left the folder behind.
    (tmp_path / "data").mkdir()
    assert dataset_size(config) == size


def test_nothing_is_known_of_nothing(tmp_path: Path) -> None:
    settings = [f"data.path={tmp_path / 'data'}", "data.drawn_pictures=null"]
    assert dataset_size(load(None, settings)) is None
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="it was never finished"):
        dataset_size(load(None, settings))


def test_a_set_that_is_there_is_checked_before_anything_starts(folder: Path) -> None:
    config = load(None, [f"data.path={folder / 'data'}"])
    with pytest.raises(UserError, match=r"it has 2 classes, but network\.classes is 10"):
        dataset_size(config)


def test_verify_reads_the_shards_unless_told_not_to(tmp_path: Path) -> None:
    by_hand.make_data_set(tmp_path, train_per_class=6, validation_per_class=2)
    config = by_hand.config(tmp_path)
    verify(config)
    shard = tmp_path / "data" / "train-1.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"1 of 3 shards .* are damaged: train-1\.arrow has another checksum"):
        verify(config)
    verify(dataclasses.replace(config, data=dataclasses.replace(config.data, verify_checksums=False)))
    with pytest.raises(UserError, match="does not fit"):
        verify(dataclasses.replace(config, network=dataclasses.replace(config.network, classes=3)))


def at_url(folder: Path, url: str, **data: Any) -> Any:
    config = by_hand.config(folder)
    settings = dataclasses.replace(config.data, path=url, cache_folder=str(folder / "cache"), **data)
    return dataclasses.replace(config, data=settings)


def test_a_data_set_at_a_url_is_sized_fitted_and_verified(tmp_path: Path) -> None:
    by_hand.make_data_set(tmp_path, train_per_class=6, validation_per_class=2)
    far = tmp_path / "far"
    upload(tmp_path / "data", f"file://{far}")
    config = at_url(tmp_path, f"file://{far}")
    assert dataset_size(config) == dataset_size(by_hand.config(tmp_path))
    verify(config)
    assert not list((tmp_path / "cache").rglob("*.arrow")), "the driver fetches no shards"
    with pytest.raises(UserError, match=r"the data set at file:///.*/far does not fit: it has 2 classes"):
        dataset_size(dataclasses.replace(config, network=dataclasses.replace(config.network, classes=3)))
    shard = far / "train-1.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    # Sizes are looked at even where checksums are not: the listing costs nothing.
    with pytest.raises(
        UserError, match=r"1 of 3 shards at file://.* are damaged: train-1\.arrow has .* bytes instead of"
    ):
        verify(at_url(tmp_path, f"file://{far}", verify_checksums=False))
    (far / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"far/manifest\.json is missing"):
        dataset_size(config)
