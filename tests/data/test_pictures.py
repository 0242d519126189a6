"""The drawn picture set: repeatable, balanced, whole or absent, and no easier than it claims to be."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from workers.data.pictures import CLASS_NAMES, MIN_SIZE, draw_picture, draw_picture_set

SIZE = 40


def _draw(root: Path, *, train: int = 3, validation: int = 2, seed: int = 0, **more: Any) -> Path:
    draw_picture_set(root, size=SIZE, train_per_class=train, validation_per_class=validation, seed=seed, **more)
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _pictures(split_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a split, float64 [pictures, size, size, 3] in [0, 1], and their class indices."""
    paths = [path for name in CLASS_NAMES for path in sorted((split_folder / name).iterdir())]
    pictures = [simplejpeg.decode_jpeg(path.read_bytes()) for path in paths]
    return np.stack(pictures) / 255, np.array([CLASS_NAMES.index(path.parent.name) for path in paths])


def _error(train: np.ndarray, train_labels: np.ndarray, held_out: np.ndarray, labels: np.ndarray) -> float:
    """Error of the nearest class mean, after every feature [pictures, features] is scaled to unit spread."""
    centre, spread = train.mean(axis=0), train.std(axis=0)
    train, held_out = (train - centre) / spread, (held_out - centre) / spread
    means = np.stack([train[train_labels == label].mean(axis=0) for label in range(len(CLASS_NAMES))])
    distances = ((held_out[:, None] - means) ** 2).sum(axis=2)
    return float((distances.argmin(axis=1) != labels).mean())


@pytest.fixture(scope="module")
def picture_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _draw(tmp_path_factory.mktemp("pictures") / "set", train=200, validation=100)


def test_a_set_follows_from_its_seed_and_a_larger_one_begins_with_it(tmp_path: Path) -> None:
    first, again, other, larger = (
        _files(_draw(tmp_path / str(number), **settings))
        for number, settings in enumerate(({}, {}, {"seed": 1}, {"train": 5, "validation": 4}))
    )
    assert first == again
    assert first.keys() == other.keys() and all(first[name] != other[name] for name in first)
    assert first.items() <= larger.items()


def test_one_folder_per_class_of_different_rgb_pictures_of_the_given_size(picture_set: Path) -> None:
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 10
    files = _files(picture_set)
    assert files.keys() == {
        f"{split}/{name}/{index:05d}.jpg"
        for split, count in (("train", 200), ("validation", 100))
        for name in CLASS_NAMES
        for index in range(count)
    }
    assert len(set(files.values())) == len(files)
    for content in files.values():
        assert simplejpeg.decode_jpeg_header(content)[:3] == (SIZE, SIZE, "YCbCr")
        assert simplejpeg.decode_jpeg(content).shape == (SIZE, SIZE, 3)


def test_pixels_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for class_index in range(len(CLASS_NAMES)):
        rng = np.random.Generator(np.random.PCG64(class_index))
        digest.update(draw_picture(SIZE, class_index, rng).tobytes())
    # Whoever changes the drawing on purpose writes the new value here; nothing else may change it.
    assert digest.hexdigest() == "138a1519bddd9f7f91682318e12894e6aa1a6e3a7fc01d34d910873e272f60a6"


def test_colour_does_not_give_the_class_away(picture_set: Path) -> None:
    (train, train_labels), (held_out, labels) = (_pictures(picture_set / s) for s in ("train", "validation"))

    def mean_and_covariance(pictures: np.ndarray) -> np.ndarray:
        mean = pictures.mean(axis=(1, 2))
        offsets = (pictures - mean[:, None, None]).reshape(len(pictures), -1, 3)
        covariance = np.einsum("npi,npj->nij", offsets, offsets) / offsets.shape[1]
        rows, columns = np.triu_indices(3)
        return np.concatenate([mean, covariance[:, rows, columns]], axis=1)

    error = _error(mean_and_covariance(train), train_labels, mean_and_covariance(held_out), labels)
    assert error >= 0.85  # chance is 0.90, give or take 0.01


def test_the_set_appears_only_when_whole(tmp_path: Path) -> None:
    root, calls = tmp_path / "parent" / "set", []

    def note(done: int, total: int) -> None:
        calls.append((done, total))
        assert not root.exists()

    _draw(root, train=12, validation=3, progress=note)
    assert calls == [(100, 150), (150, 150)]
    assert list(root.parent.iterdir()) == [root]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _draw(tmp_path / "other", train=12, progress=interrupt)
    assert list(tmp_path.iterdir()) == [root.parent]


def test_a_folder_that_is_there_or_comes_meanwhile_is_refused_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "set"

    def appear(*progress: int) -> None:
        root.mkdir()
        (root / "mine.txt").write_text("keep")

    with pytest.raises(FileExistsError, match="meanwhile"):
        _draw(root, train=12, progress=appear)
    for _ in range(2):
        assert [path.name for path in tmp_path.iterdir()] == ["set"]
        assert [path.name for path in root.iterdir()] == ["mine.txt"]
        with pytest.raises(FileExistsError):
            _draw(root)


@pytest.mark.parametrize(
    "wrong", [{"size": MIN_SIZE - 1}, {"seed": -1}, {"train_per_class": 0}, {"validation_per_class": 0}]
)
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    settings: dict[str, Any] = {"size": SIZE, "train_per_class": 1, "validation_per_class": 1, "seed": 0}
    with pytest.raises(ValueError, match=r"at least|negative"):
        draw_picture_set(tmp_path / "set", **(settings | wrong))
    assert list(tmp_path.iterdir()) == []
    for class_index in (-1, len(CLASS_NAMES)):
        with pytest.raises(ValueError, match="class_index"):
            draw_picture(SIZE, class_index, np.random.default_rng(0))
