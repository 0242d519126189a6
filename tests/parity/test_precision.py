"""bfloat16: near float32 in one process and in two, with pieces that travel in bfloat16 and everything else in float32."""

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics
from alexnet.exchange import ColumnExchange, Exchange, Gathering, NoExchange, Sending
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.precision import Precision, set_precision
from alexnet.schedule import Rates
from alexnet.step import Batch, Step
from configs.schema import Augment, Optimizer
from tests.parity.cases import CASES, IMAGES, Tree
from tests.parity.running import joined
from tests.ranks import run_ranks

CASE = CASES["complete"]
SIDE = CASE.network.input_size
NEAR = 0.25
"""Of a gradient's norm. Inputs of products have 8 bits; after some layers another unit is the largest of a window here and there,
and its gradient goes elsewhere: 14 % in the first layer. A part left out or added twice makes half of the norm or more."""


class Noting(ColumnExchange):
    """Notes in which types pieces travel, and what the loss and the ranks are summed up from."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__(group)
        self.types: set[torch.dtype] = set()
        self.reduced: set[torch.dtype] = set()

    def begin_gather(self, own_BC: Tensor) -> Gathering:
        self.types.add(own_BC.dtype)
        return super().begin_gather(own_BC)

    def begin_send(self, pieces: dict[int, Tensor], like: Tensor) -> Sending:
        self.types |= {piece.dtype for piece in pieces.values()}
        return super().begin_send(pieces, like)

    def sum(self, values: Tensor) -> Tensor:
        self.reduced.add(values.dtype)
        return super().sum(values)

    def maximum(self, values: Tensor) -> Tensor:
        self.reduced.add(values.dtype)
        return super().maximum(values)


def gradients(
    precision: Precision,
    *,
    device: str = "cpu",
    first_column: int = 0,
    columns: int = 2,
    exchange: Exchange | None = None,
) -> Tree:
    set_precision(precision)
    generator = torch.Generator().manual_seed(3)
    model = AlexNet(CASE.network, first_column=first_column, columns=columns, exchange=exchange or NoExchange())
    model = model.to(device)
    statistics = PixelStatistics(
        mean_SSC=torch.zeros(SIDE, SIDE, 3).numpy(), eigenvalues=(1, 1, 1), eigenvectors=((1, 0, 0),) * 3
    )
    preprocess = Preprocess(Augment(colour_noise=None), statistics, SIDE).to(device)
    step = Step(model, preprocess, PaperSGD(model, Optimizer()), None, precision)
    images_BHWC = torch.randint(0, 256, (IMAGES, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    labels_B = torch.randint(7, (IMAGES,), generator=generator)
    batch = Batch(
        images_BHWC=images_BHWC.to(device),
        labels_B=labels_B.to(device),
        offsets_B2=torch.zeros(IMAGES, 2, dtype=torch.int64, device=device),
        keys_B=torch.arange(IMAGES, device=device),
    )
    out = {"sums": step.train(batch, Rates(weights=1e-3, biases=1e-3)), "test sums": step.test(batch)}
    assert not any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    for layer, kind, parameter in model.parameter_layers():
        assert parameter.grad is not None
        assert (parameter.dtype, parameter.grad.dtype) == (torch.float32, torch.float32)
        out[f"{layer} {kind}"] = parameter.grad
    return {name: tensor.cpu() for name, tensor in out.items()}


def of_column(rank: int, device: str) -> tuple[Tree, set[torch.dtype], set[torch.dtype]]:
    world = dist.group.WORLD
    assert world is not None
    exchange = Noting(world)
    tree = gradients("bf16", device=device, first_column=rank, columns=1, exchange=exchange)
    return tree, exchange.types, exchange.reduced


def assert_near(found: Tree, expected: Tree, near: float = NEAR) -> None:
    for name, tensor in expected.items():
        if name.endswith("sums"):
            assert abs(found[name][1] - tensor[1]) < 0.02 * tensor[1], "the losses differ"
        else:
            error = ((found[name] - tensor).norm() / tensor.norm()).item()
            assert error < near, (name, error)


def test_bf16_is_near_fp32_and_not_the_same() -> None:
    expected, found = gradients("fp32"), gradients("bf16")
    assert_near(found, expected)
    assert not torch.equal(found["conv3 weights"], expected["conv3 weights"])


def test_two_columns_in_bf16(device: str) -> None:
    ranks = run_ranks(of_column, 2, device, device=device)
    assert all(types == {torch.bfloat16} for _, types, _ in ranks)
    # The loss's reductions, and the counts of classes ahead.
    assert all(reduced == {torch.float32, torch.int64} for _, _, reduced in ranks)
    found = joined([tree for tree, _, _ in ranks])
    assert_near(found, gradients("fp32"))
    for layer in ("conv3", "fc5", "fc7", "classifier"):
        # Many numbers of 8 bits, summed in float32, need more of them.
        biases = found[f"{layer} biases"]
        assert not torch.equal(biases, biases.bfloat16().float()), layer


def test_tf32_is_allowed_only_when_asked_for_and_changes_nothing_on_cpus() -> None:
    """torch's own default allows it in convolutions."""
    found: dict[str, Tree] = {}
    precisions: tuple[Precision, ...] = ("tf32", "bf16", "fp32")
    for precision in precisions:
        found[precision] = gradients(precision)
        allowed = precision == "tf32"
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == allowed
    assert all(torch.equal(found["tf32"][name], tensor) for name, tensor in found["fp32"].items())
