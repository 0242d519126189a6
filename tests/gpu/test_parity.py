"""The parity tests, with the code of training on a GPU and the reference on the CPU: float64, to the same tolerance.

In one process, in two columns and in 2 x 2 that share the GPU and talk over NCCL: collectives one by one, losses, gradients
averaged by DDP, and five updates.
"""

# ruff: noqa: F401 - pytest collects what is imported here

import dataclasses
import typing
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics
from alexnet.precision import Precision, set_precision
from configs.schema import Augment
from tests.parity.cases import CASES, draw, mean_image
from tests.parity.running import assert_same, run, run_reference
from tests.parity.test_exchange import (
    ranks,
    test_each_column_gets_the_piece_meant_for_it_and_reductions,
    test_layers_that_see_all_columns_equal_autograds_own,
)
from tests.parity.test_gradient_scale import columns, expected, test_gradient_scale
from tests.parity.test_parity import (
    test_a_batch_in_parts_is_the_same_batch,
    test_floats_sent_are_those_of_the_layer_table,
    test_two_processes_share_the_columns,
    test_two_replicas_of_two_columns_with_half_the_batch_each,
    test_whole_network_in_one_process,
    two_columns,
)
from tests.parity.test_precision import NEAR, assert_near, gradients, test_two_columns_in_bf16
from tests.parity.variants import VARIANTS


@pytest.mark.parametrize(("precision", "near"), [("fp32", 0.02), ("tf32", 0.1), ("bf16", NEAR)])
def test_each_precision_is_near_the_cpus_fp32(precision: Precision, near: float, device: str) -> None:
    """fp32 is exact to a millionth, but for a window here and there whose largest unit is another one then."""
    found = gradients(precision, device=device)
    assert_near(found, gradients("fp32"), near)


def test_fp32_is_not_tf32(device: str) -> None:
    """Relative errors of a product of 1,024 terms: 24 bits, or 11 where tf32 was asked for. torch's default mixes them."""
    a, b = torch.randn(2, 1024, 1024, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = torch.randn(16, 64, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    w = torch.randn(64, 64, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    errors: dict[Precision, list[float]] = {}
    for precision in typing.get_args(Precision):
        set_precision(precision)
        product = a.float().to(device) @ b.float().to(device)
        conv = F.conv2d(x.float().to(device), w.float().to(device))
        errors[precision] = [
            ((found.cpu().double() - exact).norm() / exact.norm()).item()
            for found, exact in ((product, a @ b), (conv, F.conv2d(x, w)))
        ]
    assert max(errors["fp32"] + errors["bf16"]) < 5e-5, "bf16 is autocast's affair; what stays in float32 is exact"
    assert errors["tf32"][0] > 1e-4 or device == "cpu"


@pytest.mark.parametrize("mean", ["centre", "position", "channel"])
def test_preprocessing_is_the_cpus_bit_for_bit(mean: Literal["centre", "position", "channel"], device: str) -> None:
    """One operation at a time on each pixel, and no sums."""
    case = dataclasses.replace(CASES["complete"], mean=mean)
    drawn, side = draw(case, 3), case.network.input_size
    statistics = PixelStatistics(mean_SSC=mean_image(case), eigenvalues=(1, 1, 1), eigenvectors=((1, 0, 0),) * 3)
    arrays = (drawn.images_BHWC, drawn.offsets_B2, drawn.mirror_B, drawn.colour_BC.astype("float32"), drawn.noisy_B)
    on_cpu, on_gpu = (
        Preprocess(Augment(mean=mean, pixel_scale=0.3), statistics, side).to(where)(
            *(torch.from_numpy(array).to(where) for array in arrays)
        )
        for where in ("cpu", device)
    )
    assert torch.equal(on_gpu.cpu(), on_cpu)
