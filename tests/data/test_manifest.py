"""The manifest: round trip, fingerprint, and refusal of what is not whole."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from tests.data import made_up
from tests.data.made_up import split_of
from workers.data.manifest import Manifest, Quarantined
from workers.data.shards import ShardInfo


def shard(number: int, rows: int = 10) -> ShardInfo:
    """A shard that exists on paper only."""
    return ShardInfo(file=f"train-{number:05d}-of-00002.arrow", rows=rows, bytes=1000, sha256=f"{number:064x}")


def manifest() -> Manifest:
    """A manifest of two training shards and one for validation; floats have no short decimal form."""
    third = 1 / 3
    return made_up.manifest(
        8,
        (),
        classes=("naïve cat", "dog"),
        splits={"train": split_of([shard(0), shard(1)]), "validation": split_of([shard(2, 3)])},
        rgb_mean=(third, 2 * third, 100.1),
        rgb_covariance=((1.0, third, 0.1), (third, 2.0, 0.2), (0.1, 0.2, 3.0)),
        rgb_eigenvalues=(third, 2.0, 3.0),
        rgb_eigenvectors=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, third)),
        quarantined=(Quarantined(split="train", key="dog/7.jpg", reason="the file is empty"),),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest()
    assert loaded.fingerprint == manifest().fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_fingerprint_changes_with_what_training_depends_on_and_with_nothing_else() -> None:
    base = manifest()
    train, validation = base.splits["train"], base.splits["validation"]
    other = dataclasses.replace(shard(1), sha256="f" * 64)
    changes: list[dict[str, Any]] = [
        {"image_size": 9},
        {"encoding": "raw"},
        {"classes": ("dog", "naïve cat")},
        {"splits": {"train": train}},
        {"splits": {"train": split_of(train.shards[::-1]), "validation": validation}},
        {"splits": {"train": split_of([shard(0), other]), "validation": validation}},
    ]
    fingerprints = {base.fingerprint, *(dataclasses.replace(base, **change).fingerprint for change in changes)}
    assert len(fingerprints) == len(changes) + 1
    same = dataclasses.replace(base, source="elsewhere", quarantined=())
    assert same.fingerprint == base.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("classes"), "no field 'classes'"),
        (lambda content: content["rgb_mean"].pop(), "not enough values"),
        (lambda content: content["classes"].reverse(), "fingerprint does not match"),
        (lambda content: content["splits"]["train"].update(rows=21), "do not add up to 21"),
        (lambda content: content["splits"]["train"]["shards"][0].update(file="../x"), "not the name of a file"),
        (lambda content: content.update(version=2), "version 2; this program reads version 1"),
        (lambda content: content.update(encoding="tiff"), "unknown encoding"),
    ],
)
def test_changed_manifest_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1', "\x00", "{}"])
def test_broken_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json is damaged.*--overwrite"):
        Manifest.load(tmp_path)


def test_mean_image_is_checked_against_the_manifest(tmp_path: Path) -> None:
    made = manifest()
    mean = np.broadcast_to(np.array(made.rgb_mean, np.float32), (8, 8, 3)).copy()
    np.save(tmp_path / "mean.npy", mean)
    assert np.array_equal(made.pixel_mean(tmp_path), mean)
    for wrong in (mean[:4], mean.astype(np.float64), mean + 1):
        np.save(tmp_path / "mean.npy", wrong)
        with pytest.raises(UserError, match=r"mean\.npy is damaged"):
            made.pixel_mean(tmp_path)
    (tmp_path / "mean.npy").unlink()
    with pytest.raises(UserError, match=r"mean\.npy is damaged"):
        made.pixel_mean(tmp_path)
