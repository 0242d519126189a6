"""Ten views: which pixels they are, and that a test by them is the mean of ten plain ones."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics
from alexnet.exchange import ColumnExchange
from alexnet.network import AlexNet
from alexnet.step import Batch, Step
from alexnet.views import ten_views
from configs.schema import Augment
from tests import reference
from tests.parity.cases import CASES
from tests.ranks import run_ranks

NETWORK = CASES["complete"].network
CROP, SIZE = NETWORK.input_size, NETWORK.input_size + 6
IMAGES = 9
PICTURES = torch.randint(0, 256, (IMAGES, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
LABELS = torch.arange(IMAGES) % 7


def statistics() -> PixelStatistics:
    mean = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5)) * 255
    return PixelStatistics(mean_SSC=mean.numpy(), eigenvalues=(1, 1, 1), eigenvectors=((1, 0, 0),) * 3)


def test_corners_centre_and_mirrors() -> None:
    corners = {(0, 0), (0, 6), (6, 0), (6, 6), (3, 3)}
    found = set()
    for crops, offsets, mirror in ten_views(PICTURES, CROP):
        [(y, x)] = {tuple(offset) for offset in offsets.tolist()}
        assert torch.equal(crops, PICTURES[:, y : y + CROP, x : x + CROP])
        assert len(offsets) == len(mirror) == IMAGES and mirror.unique().numel() == 1
        found.add((y, x, bool(mirror[0])))
    assert found == {(y, x, mirrored) for y, x in corners for mirrored in (False, True)}


def step_of(model: AlexNet, mean: Any = "centre") -> Step:
    settings = dataclasses.replace(Augment(), mean=mean)
    return Step(model, Preprocess(settings, statistics(), CROP).to(next(model.parameters()).dtype), None, None)


def sums_of(columns: int, column: int = 0, exchange: ColumnExchange | None = None, mean: Any = "centre") -> Tensor:
    model = AlexNet(NETWORK, first_column=column, columns=columns, exchange=exchange, seed=3).double()
    return step_of(model, mean).test_ten_views(batch_of(LABELS))


def batch_of(labels_B: Tensor) -> Batch:
    return Batch(images_BHWC=PICTURES, labels_B=labels_B, offsets_B2=torch.zeros(0, 2).long())


def expected(mean: str, views: int = 10) -> Tensor:
    """Probabilities, with the plain network and plain NumPy."""
    model = reference.Reference(NETWORK)
    model.copy_weights(AlexNet(NETWORK, seed=3).double().parameter_layers())
    return reference.probabilities_of(model, PICTURES.numpy(), statistics().mean_SSC, views, mean=mean)


@pytest.mark.parametrize("mean", ["centre", "position"])
def test_mean_of_ten_probabilities(mean: str) -> None:
    torch.testing.assert_close(sums_of(2, mean=mean), reference.sums(expected(mean).log(), LABELS), rtol=1e-12, atol=0)


def of_column(rank: int) -> Tensor:
    world = dist.group.WORLD
    assert world is not None
    return sums_of(1, rank, ColumnExchange(world))


def test_two_columns_find_the_same() -> None:
    for sums in run_ranks(of_column, 2):
        torch.testing.assert_close(sums, reference.sums(expected("centre").log(), LABELS), rtol=1e-12, atol=0)


def test_a_class_that_no_view_finds_possible_costs_a_finite_loss_and_is_an_error() -> None:
    """Its probability is 0 in float32, which counts as the least that float32 holds."""
    model = AlexNet(NETWORK, seed=3)
    with torch.no_grad():
        model.parameter_layers()[-1][2][0] = -1e4
    step, batch = step_of(model), batch_of(torch.zeros(IMAGES).long())
    assert step.probabilities(PICTURES, 10)[:, 0].max() == 0
    assert step.test_ten_views(batch).tolist() == pytest.approx([IMAGES, IMAGES * 126 * math.log(2), IMAGES, IMAGES])


@pytest.mark.parametrize("mean", ["centre", "position", "channel"])
def test_probabilities_by_the_centre_are_those_of_plain_testing(mean: Any) -> None:
    found = step_of(AlexNet(NETWORK, seed=3).double(), mean).probabilities(PICTURES, 1)
    # The mean image is float32's, and so is the mean colour that is taken of it.
    torch.testing.assert_close(found, expected(mean, 1), rtol=1e-7 if mean == "channel" else 1e-12, atol=0)
