"""Networks and batches of the parity tests, and one run of them: with the code of training, and with the reference.

Both runs return the same tree of float64 tensors, so that one comparison covers outputs, losses, gradients and weights.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from alexnet import counter
from alexnet.augment import Preprocess
from alexnet.colour import PixelStatistics
from alexnet.compiled import NotCompiledWarning
from alexnet.exchange import ColumnExchange, Exchange, NoExchange
from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from alexnet.schedule import Stages
from alexnet.step import Batch, Step
from configs.loader import load
from configs.schema import (
    Augment,
    Classifier,
    ColourNoise,
    Conv,
    Dense,
    LayerRates,
    Network,
    Optimizer,
    Pool,
    ResponseNorm,
    Stage,
    StageSchedule,
)
from tests import reference

Tree = dict[str, Tensor]

TOLERANCE = 1e-12
"""Of a tensor's largest magnitude. A column adds up its own maps first and a library picks its own order for a smaller matrix, so
sums differ in their last bits: float64 has 16 digits, a few thousand terms and five updates cost two or three of them. Any real
mistake changes the third digit or an earlier one."""

IMAGES, MARGIN = 8, 6  # per batch over all replicas; stored images are this much larger than the crops
MOMENTUM, DECAY, NOISE = 0.9, 0.03, 0.25


@dataclass(frozen=True, kw_only=True)
class Case:
    network: Network
    mean: str = "centre"
    decay_biases: bool = False
    decay_of: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of single layers, by name."""
    updates: int = 5
    as_trained: bool = False
    """Compiled norms and update, and channels_last, as column workers have them by default."""
    compiled: bool = False
    """All that lies between two exchanges compiled as a whole."""


def _complete(**changes: Any) -> Network:
    """Every feature of the schema in a few thousand weights."""
    lrn = ResponseNorm(size=3, k=2.0, alpha=0.3, beta=0.75)
    network = Network(
        columns=2,
        classes=7,  # uneven: four classes and three
        input_size=24,  # 24 -> 8 by a window that hangs over by 2, -> 4 by one that hangs over by 1
        lrn=lrn,
        spatial_lrn=dataclasses.replace(lrn, k=1.0, alpha=0.8),
        pool=Pool(size=3, stride=2),
        convs={
            "conv1": Conv(maps=8, kernel=5, stride=3, then=("lrn", "pool", "activation"), init_std=0.01),
            "conv2": Conv(
                maps=12, kernel=3, padding=1, then=("activation", "lrn", "spatial_lrn"), init_std=0.2, init_bias=0.5
            ),
            "conv3": Conv(maps=16, kernel=3, padding=1, sees="all", init_std=0.1),
            "conv4": Conv(maps=12, kernel=3, padding=1, then=("pool", "activation"), init_std=0.1, init_bias=0.3),
        },
        denses={
            "fc5": Dense(units=20, dropout=0.5, init_std=0.1, init_bias=0.3),
            "fc6": Dense(units=16, sees="column", dropout=0.3, init_std=0.2, init_bias=0.3),
            "fc7": Dense(units=16, dropout=0.25, init_std=0.2, init_bias=0.3),
        },
        classifier=Classifier(init_std=0.2, init_bias=0.1),
    )
    return dataclasses.replace(network, **changes)


def _small_original() -> Network:
    """original.yaml's layers at their full size of image, with a sixteenth of the maps and a thirty-second of the units."""
    network = load("original.yaml").network
    return dataclasses.replace(
        network,
        classes=31,
        convs={name: dataclasses.replace(conv, maps=conv.maps // 16) for name, conv in network.convs.items()},
        denses={name: dataclasses.replace(dense, units=dense.units // 32) for name, dense in network.denses.items()},
    )


CASES = {
    "complete": Case(network=_complete()),
    # Windows of even size are not symmetric, so their sum is not its own adjoint; 4 columns make 2 processes own two each.
    "four columns": Case(
        network=_complete(
            columns=4,
            activation="tanh",
            lrn=ResponseNorm(size=2, k=1.0, alpha=0.5, beta=0.6, divide_alpha_by_window=False),
            spatial_lrn=ResponseNorm(size=4, k=1.5, alpha=0.2, beta=0.75, divide_alpha_by_window=False),
        ),
        mean="position",
        decay_biases=True,
    ),
    "original in the small": Case(network=_small_original(), updates=2),
    "as trained": Case(network=_complete(), as_trained=True),
    "compiled": Case(network=_complete(), as_trained=True, compiled=True, updates=2),
}

SCHEDULE = StageSchedule(
    kind="stages",
    stages=(
        Stage(from_epoch=0, weights=0.002, biases=0.004, layers={"conv2": LayerRates(weights=0.001)}),
        Stage(from_epoch=1, weights=0.0002),
        Stage(from_epoch=3, layers={"conv1": LayerRates(weights=0, biases=0), "fc5": LayerRates(biases=0.001)}),
    ),
)
"""An update takes one epoch here. After the rate falls, the momentum of the paper and that of torch's SGD differ."""


def rate_by_hand(update: int, layer: str, kind: str) -> float:
    """What SCHEDULE says, written out."""
    if layer == "conv1" and update >= 3:
        return 0.0
    if kind == "biases":
        return 0.001 if layer == "fc5" and update >= 3 else 0.004
    if layer == "conv2":
        return 0.001
    return 0.002 if update < 1 else 0.0002


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Numpy arrays of one batch."""

    images_BHWC: Any
    labels_B: Any
    offsets_B2: Any
    mirror_B: Any
    colour_BC: Any
    noisy_B: Any
    keys_B: Any


def draw(case: Case, update: int) -> Drawn:
    generator, side = np.random.default_rng(update), case.network.input_size
    return Drawn(
        images_BHWC=generator.integers(0, 256, (IMAGES, side, side, 3), dtype=np.uint8),
        labels_B=generator.integers(0, case.network.classes, IMAGES),
        offsets_B2=generator.integers(0, MARGIN + 1, (IMAGES, 2)),
        mirror_B=np.arange(IMAGES) % 2 == 0,
        colour_BC=generator.normal(0, 10, (IMAGES, 3)),
        noisy_B=np.arange(IMAGES) % 3 != 0,
        keys_B=counter.keys(5, update, np.arange(IMAGES)),
    )


def mean_image(case: Case) -> Any:
    side = case.network.input_size + MARGIN
    return np.random.default_rng(99).uniform(90, 150, (side, side, 3)).astype(np.float32)


def _batch(drawn: Drawn, rows: slice) -> Batch:
    arrays = {field.name: np.ascontiguousarray(getattr(drawn, field.name)[rows]) for field in dataclasses.fields(drawn)}
    arrays["keys_B"] = arrays["keys_B"].view(np.int64)
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def run(
    case: Case,
    *,
    first_column: int = 0,
    columns: int | None = None,
    exchange: Exchange | None = None,
    replica_group: dist.ProcessGroup | None = None,
    parts: int = 1,
) -> Tree:
    """The updates with the code of training, on the columns and the share of each batch that are this process's.

    parts: that this share is taken in, one after the other.
    """
    # A compiler that fails would leave the plain form to be compared, without a word.
    warnings.simplefilter("error", NotCompiledWarning)
    replicas, replica = (1, 0) if replica_group is None else (replica_group.size(), dist.get_rank(replica_group))
    rows = slice(replica * IMAGES // replicas, (replica + 1) * IMAGES // replicas)
    model = AlexNet(
        case.network,
        first_column=first_column,
        columns=columns,
        exchange=exchange or NoExchange(),
        seed=3,
        fused=case.as_trained,
        compiled=case.compiled,
    ).double()
    if case.as_trained:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    augment = Augment(mean=case.mean, colour_noise=ColourNoise(strength=NOISE))  # type: ignore[arg-type]
    statistics = PixelStatistics(mean_SSC=mean_image(case), eigenvalues=(1, 1, 1), eigenvectors=((1, 0, 0),) * 3)
    preprocess = Preprocess(augment, statistics, case.network.input_size).double()
    settings = Optimizer(
        momentum=MOMENTUM, weight_decay=DECAY, decay_biases=case.decay_biases, weight_decay_of=case.decay_of
    )
    optimizer = PaperSGD(model, settings, fused=case.as_trained)
    step, schedule = Step(model, preprocess, optimizer, replica_group), Stages(SCHEDULE)

    first = _batch(draw(case, 0), rows)
    inputs = (first.images_BHWC, first.offsets_B2, first.mirror_B, first.colour_BC, first.noisy_B)
    with torch.no_grad():
        out = {
            "train logits": model.train()(preprocess(*inputs), first.keys_B),
            "eval logits": model.eval()(preprocess(*inputs)),
            "test sums": step.test(first),
        }
    for update in range(case.updates):
        each = (rows.stop - rows.start) // parts
        sums = [
            step.train(
                _batch(draw(case, update), slice(rows.start + part * each, rows.start + (part + 1) * each)),
                schedule.rates(update),
                part=part,
                parts=parts,
            )
            for part in range(parts)
        ]
        out[f"{update} sums"] = torch.stack(sums).sum(dim=0)
        for layer, kind, parameter in model.parameter_layers():
            assert parameter.grad is not None
            out[f"{update} {layer} {kind} gradient"] = parameter.grad.clone()
    for layer, kind, parameter in model.parameter_layers():
        out[f"{layer} {kind} value"] = parameter.detach().clone()
        out[f"{layer} {kind} momentum"] = optimizer.steps[f"{layer}.{kind}"].clone()
    return out


def run_reference(case: Case) -> Tree:
    """The same updates on whole batches with the reference, started from the whole network's weights."""
    network = case.network
    model = reference.Reference(network)
    initial = AlexNet(network, seed=3).double().parameter_layers()
    model.copy_weights(initial)
    steps = {(layer, kind): torch.zeros_like(parameter) for layer, kind, parameter in initial}

    def images(drawn: Drawn, **training: Any) -> Tensor:
        array = reference.preprocessed(
            drawn.images_BHWC, mean_image(case), drawn.offsets_B2, mean=case.mean, **training
        )
        return torch.from_numpy(array)

    def training(drawn: Drawn) -> dict[str, Any]:
        noise = {"colour_BC": drawn.colour_BC, "noisy_B": drawn.noisy_B, "divisor": 1 + NOISE}
        return {"mirror_B": drawn.mirror_B, **noise}

    first = draw(case, 0)
    noisy, plain, labels = images(first, **training(first)), images(first), torch.from_numpy(first.labels_B)
    with torch.no_grad():
        out = {
            "train logits": model.train()(noisy, reference.masks(network, first.keys_B)),
            "eval logits": model.eval()(noisy, {}),
            "test sums": _sums(model.eval()(plain, {}), labels),
        }
    model.train()
    for update in range(case.updates):
        drawn = draw(case, update)
        labels = torch.from_numpy(drawn.labels_B)
        logits = model(images(drawn, **training(drawn)), reference.masks(network, drawn.keys_B))
        out[f"{update} sums"] = _sums(logits.detach(), labels)
        model.zero_grad()
        F.cross_entropy(logits, labels).backward()
        for (layer, kind), step in steps.items():
            parameter = model.parameter(layer, kind)
            assert parameter.grad is not None
            out[f"{update} {layer} {kind} gradient"] = parameter.grad.clone()
            decay = case.decay_of.get(layer, DECAY) if kind == "weights" or case.decay_biases else 0.0
            rate = rate_by_hand(update, layer, kind)
            reference.paper_update(parameter, step, parameter.grad, rate=rate, momentum=MOMENTUM, decay=decay)
    for (layer, kind), step in steps.items():
        out[f"{layer} {kind} value"] = model.parameter(layer, kind).detach().clone()
        out[f"{layer} {kind} momentum"] = step
    return out


def _sums(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """[images, loss, top-1 errors, top-5 errors]."""
    top = logits_BC.topk(5, dim=1).indices
    top1, top5 = ((top[:, :k] != labels_B[:, None]).all(dim=1).sum() for k in (1, 5))
    loss = F.cross_entropy(logits_BC, labels_B, reduction="sum")
    return torch.stack([torch.tensor(float(len(labels_B)), dtype=torch.float64), loss, top1, top5])


def run_columns(rank: int, names: list[str]) -> dict[str, tuple[Tree, int]]:
    """One of the processes that share the columns of one replica, for each of the named cases; and the floats that it sent."""
    return share_columns(rank, {name: CASES[name] for name in names})


def share_columns(rank: int, cases: Mapping[str, Case]) -> dict[str, tuple[Tree, int]]:
    """As `run_columns`, for any cases."""
    world = dist.group.WORLD
    assert world is not None
    out = {}
    for name, case in cases.items():
        columns = case.network.columns // world.size()
        exchange = ColumnExchange(world)
        tree = run(case, first_column=rank * columns, columns=columns, exchange=exchange)
        out[name] = tree, exchange.floats_sent
    return out


def run_replicas(rank: int, name: str, parts: int = 1) -> Tree:
    """One of 2 x 2 processes: two replicas, each of two columns."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "column"))
    return run(
        CASES[name],
        first_column=mesh.get_local_rank("column"),
        columns=1,
        exchange=ColumnExchange(mesh.get_group("column")),
        replica_group=mesh.get_group("replica"),
        parts=parts,
    )


def joined(columns: list[Tree]) -> Tree:
    """The whole network's tree from the trees of its columns, in order."""
    out = {}
    for name, first in columns[0].items():
        parts = [tree[name] for tree in columns]
        if name.endswith("sums"):
            assert all(torch.equal(first, part) for part in parts), f"columns disagree about {name}"
            out[name] = first
        else:
            out[name] = torch.cat(parts, dim=1 if name.endswith("logits") else 0)
    return out


def assert_same(found: Tree, expected: Tree) -> None:
    """Every tensor within TOLERANCE of its largest magnitude; all failures in one message."""
    assert found.keys() == expected.keys()
    wrong = []
    for name, tensor in expected.items():
        largest = tensor.abs().max().item()
        assert largest > 0 or name.endswith("sums"), f"{name} is zero throughout, so the comparison would say nothing"
        error = (found[name] - tensor).abs().max().item()
        if not error <= TOLERANCE * largest:
            wrong.append(f"{name}: off by {error:.3g}, largest magnitude {largest:.3g}")
    assert not wrong, "\n".join(wrong)
