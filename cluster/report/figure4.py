"""What figure 4 shows: eight validation images with their most probable classes, and five with their nearest training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cluster.console import progress
from cluster.dataset import load_manifest
from cluster.report.features import LastHidden
from cluster.report.images import choose, images_of, open_split, spread, stream
from cluster.report.neighbours import Nearest
from configs.errors import UserError

if TYPE_CHECKING:
    from cluster.network import LoadedNetwork
    from configs.schema import Data
    from workers.data.dataset import Dataset
    from workers.data.manifest import Manifest

PREDICTED = 8
QUERIES = 5
NEIGHBOURS = 6
BARS = 5


@dataclass(frozen=True, kw_only=True)
class Predicted:
    image_SSC: NDArray[np.uint8]
    key: str
    """Name of the image in its source."""
    label: int
    top: tuple[tuple[int, float], ...]
    """(class, probability), most probable first."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    image_SSC: NDArray[np.uint8]
    key: str
    label: int
    distance: float


@dataclass(frozen=True, kw_only=True)
class Query:
    image_SSC: NDArray[np.uint8]
    key: str
    label: int
    neighbours: tuple[Neighbour, ...]
    """Nearest first."""


@dataclass(frozen=True, kw_only=True)
class Figure4:
    predicted: tuple[Predicted, ...]
    views: Literal[1, 10]
    queries: tuple[Query, ...] = ()
    """Empty if neighbours were not asked for."""
    searched: int = 0
    """Training images that were compared with each query."""
    training: int = 0
    """Training images there are."""
    damaged: int = 0
    """Training images that could not be read."""


def make_figure4(
    loaded: "LoadedNetwork",
    data: "Data",
    *,
    views: Literal[1, 10],
    neighbours: bool,
    among: int | None,
    seed: int,
    batch: int,
) -> Figure4:
    """Raises UserError, in words, if the data set is not there or is another than the one that the network was trained on."""
    manifest = _manifest(loaded, data)
    validation = open_split(data, manifest, "validation")
    chosen = choose(validation.labels, PREDICTED + QUERIES, seed)
    left, right = chosen[:PREDICTED], chosen[PREDICTED:] or chosen[:QUERIES]
    predicted = _predict(loaded, validation, left, views)
    if not neighbours:
        return Figure4(predicted=predicted, views=views)
    training = open_split(data, manifest, "train")
    rows = spread(len(training), among)
    images, damaged, searched = images_of(validation, right), 0, 0
    with LastHidden(loaded) as features, progress("nearest neighbours", unit="training images") as show:
        nearest = Nearest(features(images), NEIGHBOURS)
        for block in stream(training, rows, batch):
            if len(block.rows_B):
                nearest.add(features(block.images_BSSC), block.rows_B)
            damaged, searched = damaged + block.damaged, searched + len(block.rows_B)
            show(searched + damaged, len(rows))
    return Figure4(
        predicted=predicted,
        views=views,
        queries=_queries(validation, training, right, images, nearest),
        searched=searched,
        training=len(training),
        damaged=damaged,
    )


def _manifest(loaded: "LoadedNetwork", data: "Data") -> "Manifest":
    from dataclasses import replace

    assert loaded.config is not None, "a run's network comes with its config"
    manifest = load_manifest(replace(loaded.config, data=data))
    if manifest.fingerprint != loaded.facts.fingerprint:
        raise UserError(
            f"the data set at {data.path} is another one than the network was trained on (their fingerprints differ); --data "
            "says where that one is"
        )
    return manifest


def _predict(
    loaded: "LoadedNetwork", validation: "Dataset", rows: Sequence[int], views: Literal[1, 10]
) -> tuple[Predicted, ...]:
    images = images_of(validation, rows)
    best = loaded.probabilities(images, views).topk(min(BARS, len(loaded.class_names)), dim=1)
    return tuple(
        Predicted(
            image_SSC=image,
            key=validation.key(row),
            label=validation.label(row),
            top=tuple(zip(classes, values, strict=True)),
        )
        for row, image, classes, values in zip(rows, images, best.indices.tolist(), best.values.tolist(), strict=True)
    )


def _queries(
    validation: "Dataset", training: "Dataset", rows: Sequence[int], images: NDArray[np.uint8], nearest: Nearest
) -> tuple[Query, ...]:
    return tuple(
        Query(
            image_SSC=image,
            key=validation.key(row),
            label=validation.label(row),
            neighbours=tuple(
                Neighbour(
                    image_SSC=images_of(training, [found])[0],
                    key=training.key(found),
                    label=training.label(found),
                    distance=distance,
                )
                for found, distance in zip(found_rows.tolist(), distances.tolist(), strict=True)
            ),
        )
        for row, image, found_rows, distances in zip(rows, images, nearest.rows, nearest.distances, strict=True)
    )
