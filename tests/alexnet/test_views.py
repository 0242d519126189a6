"""Ten views: which pixels they are, and that a test by them is the mean of ten plain ones."""

import dataclasses
import math
from typing import Any

import numpy as np
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


def images() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (IMAGES, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)


def statistics() -> PixelStatistics:
    mean = torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(5)) * 255
    return PixelStatistics(mean_SSC=mean.numpy(), eigenvalues=(1, 1, 1), eigenvectors=((1, 0, 0),) * 3)


def labels() -> Tensor:
    return torch.arange(IMAGES) % 7


def test_corners_centre_and_mirrors() -> None:
    corners = {(0, 0), (0, 6), (6, 0), (6, 6), (3, 3)}
    found = set()
    for crops, offsets, mirror in ten_views(images(), CROP):
        [(y, x)] = {tuple(offset) for offset in offsets.tolist()}
        assert torch.equal(crops, images()[:, y : y + CROP, x : x + CROP])
        assert len(offsets) == len(mirror) == IMAGES and mirror.unique().numel() == 1
        found.add((y, x, bool(mirror[0])))
    assert found == {(y, x, mirrored) for y, x in corners for mirrored in (False, True)}


def sums_of(columns: int, column: int = 0, exchange: ColumnExchange | None = None, mean: Any = "centre") -> Tensor:
    model = AlexNet(NETWORK, first_column=column, columns=columns, exchange=exchange, seed=3).double()
    settings = dataclasses.replace(Augment(), mean=mean)
    step = Step(model, Preprocess(settings, statistics(), CROP).double(), None, None)
    return step.test_ten_views(Batch(images_BHWC=images(), labels_B=labels(), offsets_B2=torch.zeros(0, 2).long()))


def expected(mean: str) -> Tensor:
    """With the plain network and plain NumPy: softmax of each view, mean, and what follows from it."""
    model = reference.Reference(NETWORK)
    model.copy_weights(AlexNet(NETWORK, seed=3).double().parameter_layers())
    found = []
    for y, x in ((0, 0), (0, 6), (6, 0), (6, 6), (3, 3)):
        crops = images().numpy()[:, y : y + CROP, x : x + CROP]
        offsets = np.full((IMAGES, 2), (y, x))
        for mirrored in (False, True):
            pixels = reference.preprocessed(
                crops, statistics().mean_SSC.astype(np.float64), offsets, mean=mean, mirror_B=np.full(IMAGES, mirrored)
            )
            with torch.no_grad():
                found.append(model.eval()(torch.from_numpy(pixels), {}).softmax(dim=1))
    probabilities = torch.stack(found).mean(dim=0)
    top = probabilities.topk(5, dim=1).indices
    top1, top5 = ((top[:, :k] != labels()[:, None]).all(dim=1).sum().double() for k in (1, 5))
    loss = -probabilities.gather(1, labels()[:, None]).log().sum()
    return torch.stack([torch.tensor(float(IMAGES)).double(), loss, top1, top5])


@pytest.mark.parametrize("mean", ["centre", "position"])
def test_mean_of_ten_probabilities(mean: str) -> None:
    torch.testing.assert_close(sums_of(2, mean=mean), expected(mean), rtol=1e-12, atol=0)


def of_column(rank: int) -> Tensor:
    world = dist.group.WORLD
    assert world is not None
    return sums_of(1, rank, ColumnExchange(world))


def test_two_columns_find_the_same() -> None:
    for sums in run_ranks(of_column, 2):
        torch.testing.assert_close(sums, expected("centre"), rtol=1e-12, atol=0)


def test_a_class_that_no_view_finds_possible_costs_a_finite_loss_and_is_an_error() -> None:
    """Its probability is 0 in float32, which counts as the least that float32 holds."""
    model = AlexNet(NETWORK, seed=3)
    with torch.no_grad():
        model.parameter_layers()[-1][2][0] = -1e4
    step = Step(model, Preprocess(Augment(), statistics(), CROP), None, None)
    batch = Batch(images_BHWC=images(), labels_B=torch.zeros(IMAGES).long(), offsets_B2=torch.zeros(0, 2).long())
    assert step.probabilities(images(), 10)[:, 0].max() == 0
    assert step.test_ten_views(batch).tolist() == pytest.approx([IMAGES, IMAGES * 126 * math.log(2), IMAGES, IMAGES])


@pytest.mark.parametrize("mean", ["centre", "position", "channel"])
def test_probabilities_by_the_centre_are_those_of_plain_testing(mean: Any) -> None:
    model = AlexNet(NETWORK, seed=3).double()
    settings = dataclasses.replace(Augment(), mean=mean)
    step = Step(model, Preprocess(settings, statistics(), CROP).double(), None, None)
    crops, offsets = images().numpy()[:, 3 : 3 + CROP, 3 : 3 + CROP], np.full((IMAGES, 2), 3)
    pixels = reference.preprocessed(crops, statistics().mean_SSC, offsets, mean=mean)
    plain = reference.Reference(NETWORK)
    plain.copy_weights(model.parameter_layers())
    with torch.no_grad():
        expected = plain.eval()(torch.from_numpy(pixels), {}).softmax(dim=1)
    found = step.probabilities(images(), 1)
    # The mean image is float32's, and so is the mean colour that is taken of it.
    torch.testing.assert_close(found, expected, rtol=1e-7 if mean == "channel" else 1e-12, atol=0)
