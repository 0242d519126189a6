"""`bench data` compares like with like: the same bytes, the same pixels, each image once. No test asserts a speed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.benchmarks.data import data, same_pixels
from cluster.benchmarks.loaders import compare, material
from cluster.benchmarks.loaders.contender import Contender
from cluster.benchmarks.loaders.material import Material
from cluster.benchmarks.loaders.peer import FOLDER, PEERS, missing
from cluster.benchmarks.loaders.plain import Transform
from configs.errors import UserError
from tests.workers import by_hand
from workers.data.dataset import Dataset

IMAGES, BATCH = 128, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material.make(tmp_path_factory.mktemp("bench") / "material", IMAGES, None)[0]


def contender(made: Material, name: str, *, write: bool = False) -> Contender:
    module, kind, _, _ = PEERS[name]
    return Contender(made, module, kind, batch=BATCH, workers=2, write=write)


def test_every_form_holds_the_same_bytes_and_ids(made: Material) -> None:
    stored = Dataset(made.folder / "data", "train")
    assert len(stored) == made.images == IMAGES
    jpegs = made.jpegs()
    assert [stored.jpeg(row).tobytes() for row in range(IMAGES)] == jpegs
    assert stored.labels.tolist() == list(range(IMAGES))
    assert len(set(jpegs)) == IMAGES
    assert Image.open(made.file(5)).size == (256, 256)


def test_opponents_make_the_same_pixels_of_the_same_draws(made: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    found = same_pixels(made, BATCH)
    # Both decode by libjpeg-turbo, of versions that may round the odd value differently.
    assert found["largest"] <= 3 and found["share_different"] < 0.01
    honest = Transform.with_draws

    def mirrored(self: Transform, file: Any, y: int, x: int, mirror: bool, colour: Any) -> Any:
        return honest(self, file, y, x, not mirror, colour)

    monkeypatch.setattr(Transform, "with_draws", mirrored)
    assert same_pixels(made, BATCH)["share_different"] > 0.5


def test_a_given_data_set_is_taken_evenly_or_repeated(made: Material, tmp_path: Path) -> None:
    fewer, _ = material.make(tmp_path / "fewer", 16, made.folder / "data")
    assert len(set(fewer.jpegs())) == 16
    assert set(fewer.jpegs()) <= set(made.jpegs())
    more, what = material.make(tmp_path / "more", 40, fewer.folder / "data")
    assert more.jpegs()[:16] == more.jpegs()[16:32] and "40 images (16 different)" in what


def test_a_data_set_of_small_pictures_is_refused(tmp_path: Path) -> None:
    by_hand.make_data_set(tmp_path)
    with pytest.raises(UserError, match=r"40x40.*--size 256"):
        material.make(tmp_path / "material", 8, tmp_path / "data")


def test_data_benchmark_runs_and_prints_every_contender(capsys: pytest.CaptureFixture[str]) -> None:
    figures = data(2, images=16, batch=8, ray_data=False)
    assert json.loads(json.dumps(figures)) == figures
    assert len(figures["passes"]) == 4
    for passes in figures["passes"].values():
        assert [one["images"] for one in passes] == [16, 16]
        assert all(one["seconds"] > one["first_seconds"] > 0 and one["cpu_seconds"] > 0 for one in passes)
    printed = capsys.readouterr().out
    for name in figures["passes"]:
        assert len(re.findall(rf"^  {re.escape(name)}  ", printed, re.MULTILINE)) == 2


@pytest.mark.slow
def test_ours_goes_on_where_a_dataloader_ends() -> None:
    """Real processes: stopped in mid-epoch and continued in others, and a worker killed, for both."""
    found = compare.peers(1, images=IMAGES, batch=BATCH, names=("ours", "DataLoader"))["peers"]
    assert found["ours"]["resume"]["verdict"] == "exact, every pixel"
    assert found["DataLoader"]["resume"]["verdict"] == "no state; the epoch starts again"
    ours, theirs = (found[name]["kill"] for name in ("ours", "DataLoader"))
    assert (ours["ended"], ours["lost"], ours["doubled"]) == ("", 0, 0)
    assert "DataLoader worker" in theirs["ended"] and theirs["lost"] > 0
    for figures in found.values():
        assert [(one["lost"], one["doubled"]) for one in figures["edges"]] == [(0, 0)]


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("ours", "DataLoader")])
def test_peer_delivers_each_image_once(made: Material, name: str) -> None:
    if missing(name):
        pytest.skip(f"{name} is not installed: pip install '{missing(name)}'")
    contender(made, name, write=True).end()
    with contender(made, name) as running:
        figures = running.ask("edge")
    assert (figures["lost"], figures["doubled"]) == (0, 0)


def test_a_contender_that_fails_says_why(made: Material) -> None:
    with pytest.raises(RuntimeError, match="has no attribute 'Nobody'"):
        Contender(made, f"{FOLDER}.dataloader", "Nobody", batch=BATCH, workers=0)


def test_verdicts_on_a_continuation() -> None:
    batches = [[(1, 11), (2, 12)], [(3, 13), (4, 14)]]

    def verdict(got: list[Any], *, has_state: bool = True) -> str:
        return str(compare.compare(has_state, batches, got)["verdict"])

    assert verdict([[(1, 11), (2, 12)], [(3, 13), (4, 14)]]) == "exact, every pixel"
    assert verdict([[(1, 11), (2, 12)], [(3, 13), (4, 99)]]) == "same images and order, other crops"
    assert verdict([[(3, 13), (4, 14)], [(1, 11), (2, 12)]]) == "same images, other order"
    assert verdict([[(1, 11), (5, 15)], [(3, 13), (3, 13)]]) == "2 of 4 do not come, 2 come that should not"
    assert verdict(batches, has_state=False).startswith("no state")
