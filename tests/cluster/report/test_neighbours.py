"""Nearest neighbours against every distance at once, and features against another build of the same network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.export import plain_module
from cluster.network import LoadedNetwork, load_run
from cluster.report import figure4_shown
from cluster.report.features import LastHidden
from cluster.report.figure4 import Figure4, Neighbour, Predicted, Query, make_figure4
from cluster.report.images import choose, images_of, open_split, spread, stream
from cluster.report.neighbours import Nearest
from tests.cluster.runs import Run
from workers.data.manifest import Manifest

torch.set_num_threads(1)


def brute_force(queries: np.ndarray, features: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances, by all differences at once."""
    distances = np.linalg.norm(queries[:, None].astype(np.float64) - features[None], axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :keep]
    return rows, np.take_along_axis(distances, rows, axis=1)


@pytest.mark.parametrize("block", [1, 7, 128, 1000])
def test_blocks_of_any_size_give_what_brute_force_gives(block: int) -> None:
    generator = np.random.default_rng(1)
    # Far from the origin and near each other: a formula with squares of lengths would lose the order.
    features = (1000 + 1e-3 * generator.standard_normal((500, 40))).astype(np.float32)
    queries = (1000 + 1e-3 * generator.standard_normal((5, 40))).astype(np.float32)
    nearest = Nearest(queries, 6)
    for start in range(0, len(features), block):
        some = features[start : start + block]
        nearest.add(some, np.arange(start, start + len(some)))
    rows, distances = brute_force(queries, features, 6)
    np.testing.assert_array_equal(nearest.rows, rows)
    np.testing.assert_allclose(nearest.distances, distances, rtol=1e-12)  # other orders of summation


def test_of_equal_distances_the_lower_row_is_first_in_whatever_order_blocks_come() -> None:
    """There may be fewer images than neighbours; features that are no numbers are refused."""
    features = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    nearest = Nearest(np.eye(3, dtype=np.float32)[:1], 5)
    for rows in (np.arange(8, 12), np.arange(4, 8), np.arange(4)):
        nearest.add(features[rows], rows)
    assert nearest.rows.tolist() == [[0, 1, 2, 3, 4]]
    few = Nearest(np.zeros((2, 3)), 6)
    few.add(np.ones((2, 3)), np.array([0, 1]))
    assert few.rows.shape == (2, 2)
    with pytest.raises(ValueError, match="no numbers"):
        Nearest(np.zeros((1, 2)), 1).add(np.array([[0.0, np.nan]]), np.array([0]))


def test_chosen_images_are_of_different_classes_and_some_of_many_evenly_spread() -> None:
    labels = [0] * 50 + [1] * 3 + [2] * 3
    chosen = choose(labels, 5, seed=3)
    assert {labels[row] for row in chosen[:3]} == {0, 1, 2}
    assert len(set(chosen)) == 5
    assert chosen == choose(labels, 5, seed=3)
    assert chosen != choose(labels, 5, seed=4)
    assert len(choose(labels[:2], 5, seed=0)) == 2
    assert spread(10, None).tolist() == spread(10, 20).tolist() == list(range(10))
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]


IMAGE = np.zeros((8, 8, 3), np.uint8)


def shown(classes: int, *, query: str = "w") -> tuple[str, str]:
    """What is said of the predictions and of the neighbours, where there are few classes and few images."""
    top = tuple((number, 1 / classes) for number in range(min(classes, 5)))
    near = Neighbour(image_SSC=IMAGE, key="t", label=0, distance=1.0)
    found = Figure4(
        predicted=(Predicted(image_SSC=IMAGE, key="v", label=0, top=top),),
        views=1,
        queries=(Query(image_SSC=IMAGE, key=query, label=0, neighbours=(near,)),),
        searched=1,
        training=1,
    )
    names = [f"c{number}" for number in range(classes)]
    return figure4_shown.predictions(found, names), figure4_shown.neighbours(found, names)


def test_as_many_classes_are_named_as_are_shown_and_queries_are_others_only_where_there_are_others() -> None:
    predictions = shown(10)[0].replace("&#x27;", "'")
    assert "the network's 5 most probable classes" in predictions and "1 among the 5" in predictions
    predictions, neighbours = shown(3)
    assert "all 3 classes" in predictions and "among the" not in predictions and "five" not in predictions
    assert "1 other validation images" in neighbours
    assert "1 of the same validation images" in shown(3, query="v")[1]


@pytest.fixture
def loaded(bold: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedNetwork:
    monkeypatch.chdir(folder)
    return load_run(bold.folder)


def test_neighbours_of_a_trained_network_over_its_whole_training_set(loaded: LoadedNetwork) -> None:
    assert loaded.config is not None
    data = loaded.config.data
    found = make_figure4(loaded, data, views=1, neighbours=True, among=None, seed=0, batch=100)
    manifest = Manifest.load(Path(data.path))
    training, validation = (open_split(data, manifest, split) for split in ("train", "validation"))
    assert found.searched == len(training) == 1200

    # The same weights in torch's own layers; what its last layer is given are the features.
    module, given = plain_module(loaded.model).eval(), list[torch.Tensor]()
    last = [one for one in module.modules() if isinstance(one, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))

    def features(split: str) -> np.ndarray:
        dataset = open_split(data, manifest, split)
        images = torch.from_numpy(images_of(dataset, range(len(dataset))))
        crop, size = loaded.network.input_size, dataset.image_size
        at = (size - crop) // 2
        inputs = loaded.preprocess(images[:, at : at + crop, at : at + crop], torch.full((len(images), 2), at))
        with torch.no_grad():
            module(inputs)
        return given.pop().numpy()

    all_training, all_validation = features("train"), features("validation")
    keys = [validation.key(row) for row in range(len(validation))]
    queries = [keys.index(query.key) for query in found.queries]
    rows, distances = brute_force(all_validation[queries], all_training, 6)
    for query, wanted_rows, wanted in zip(found.queries, rows, distances, strict=True):
        assert [one.key for one in query.neighbours] == [training.key(row) for row in wanted_rows]
        # float32 sums, in another order
        np.testing.assert_allclose([one.distance for one in query.neighbours], wanted, rtol=1e-3)
    assert len({query.neighbours[0].key for query in found.queries}) > 1, (
        "a network that sees no difference shows nothing"
    )


def test_streamed_features_are_those_of_single_images(loaded: LoadedNetwork) -> None:
    assert loaded.config is not None
    data = loaded.config.data
    training = open_split(data, Manifest.load(Path(data.path)), "train")
    rows = spread(len(training), 50)
    with LastHidden(loaded) as hidden:
        blocks = [(block.rows_B, hidden(block.images_BSSC)) for block in stream(training, rows, 16)]
        assert np.concatenate([some for some, _ in blocks]).tolist() == rows.tolist()
        alone = hidden(images_of(training, [int(rows[20])]))
    together = np.concatenate([some for _, some in blocks])[20]
    np.testing.assert_allclose(together, alone[0], rtol=1e-4, atol=1e-5)  # float32 sums by batch size
