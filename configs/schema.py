"""The settings of a run, as frozen dataclasses. Every field is followed by its meaning and unit.

Sources cited below: [P] is the paper (Krizhevsky, Sutskever and Hinton, NIPS 2012) with its section; "the authors'
code" is the 2012 code released by the Computer History Museum, whose net #145 produced the paper's numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from configs.layers import Classifier, Conv, Dense, Network, Pool, ResponseNorm, Sees, Step
from configs.schedules import (
    DiscreteExponentialSchedule,
    Ladder,
    LayerRates,
    PlateauSchedule,
    Schedule,
    Stage,
    StageSchedule,
)
from configs.sections import Count, CountOrAuto, Field, Fraction, Natural, NonNegative, Positive, Section, TwoOrAuto

__all__ = [
    "Augment",
    "Checkpoint",
    "Classifier",
    "Cluster",
    "ColourNoise",
    "Compute",
    "Config",
    "Conv",
    "Data",
    "Dense",
    "DiscreteExponentialSchedule",
    "DrawnPictures",
    "Ladder",
    "LayerRates",
    "Network",
    "Optimizer",
    "PlateauSchedule",
    "Pool",
    "ResponseNorm",
    "Schedule",
    "Sees",
    "Stage",
    "StageSchedule",
    "Step",
    "Train",
]


@dataclass(frozen=True, kw_only=True)
class DrawnPictures(Section):
    """A labelled picture set of 10 classes that the project draws by itself; no download."""

    size: Annotated[int, Field(ge=24)] = 40
    """Side in pixels."""
    train_per_class: Count = 500
    validation_per_class: Count = 100
    seed: Natural = 0


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    path: str
    """Folder of the prepared data set (`python -m cluster.prepare`)."""
    drawn_pictures: DrawnPictures | None = None
    """If set and `path` does not exist, the pictures are drawn and prepared into it."""
    verify_checksums: bool = True
    """Read every shard once before the first step and compare its SHA-256 with the manifest's."""
    max_corrupt_records: Natural = 100
    """A training image whose stored bytes are damaged is replaced by another one, and named; the run stops when a replica has
    met more of them than this since it was started."""
    cache_folder: str | None = None
    """Where shards of a data set at a URL (s3://, gs://, file://) are kept on each node; null: in the user's cache folder."""
    cache_gigabytes: Positive = 300.0
    """The most that this cache holds; what was not used for longest goes first. A larger data set is refused at the start."""


@dataclass(frozen=True, kw_only=True)
class ColourNoise(Section):
    """PCA colour noise [P 4.1]: one offset per image and use, along the principal components of the RGB values."""

    strength: Positive = 0.1
    """Standard deviation of the random multipliers."""
    scale: Literal["standard_deviation", "eigenvalue"] = "standard_deviation"
    """What the multipliers scale: the authors' code takes standard deviations, in units of 0..255. The paper says
    eigenvalues, which make sense for pixels from 0 to 1 only, and so they are taken here."""
    rescale: bool = True
    """Divide the training image by 1 + strength afterwards, as the authors' code does."""
    statistics: Literal["dataset", "authors"] = "dataset"
    """Principal components of this training set, or the constants that the authors published for ImageNet."""
    until_epoch: Positive | None = None
    """Epoch from which there is no colour noise (nor rescaling) any more, in the middle of one from the next; null: always."""


@dataclass(frozen=True, kw_only=True)
class Augment(Section):
    crop: Literal["random", "centre"] = "random"
    """Where training images are cropped: at random offsets, or always in the centre (no translations)."""
    crop_positions: Count | None = None
    """Crop offsets per axis, from 0; null: all that fit (33 for 224 out of 256, as the authors' code; the paper
    counts 32)."""
    crop_shared_by: Count = 1
    """This many consecutive images share one crop offset and one mirror decision; 32 in the authors' code."""
    mirror: bool = True
    """Mirror half of the training images left to right."""
    mean: Literal["centre", "position", "channel"] = "centre"
    """What is subtracted: the central crop of the mean image (the authors' code), the crop of it at the image's own
    position (the paper's text), or one mean per colour channel."""
    colour_noise: ColourNoise | None = field(default_factory=ColourNoise)
    pixel_scale: Positive = 1.0
    """What the finished pixels are multiplied by, in training and testing; 1 keeps the paper's units of 0..255."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(Section):
    """v <- momentum v - weight_decay rate w - rate gradient; w <- w + v [P 5]."""

    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0005
    decay_biases: bool = False
    """The authors' code decays weights only; the paper does not say."""
    weight_decay_of: Mapping[str, NonNegative] = field(default_factory=dict)
    """Decay of single layers that differ from `weight_decay`, by name."""


@dataclass(frozen=True, kw_only=True)
class Train(Section):
    epochs: Positive | None = None
    """Passes over the training set. Exactly one of `epochs` and `steps` is set."""
    steps: Count | None = None
    batch_size: Count = 128
    """Images per update, over all replicas."""
    seed: Natural = 0
    """Of the initial weights, the order, the augmentation and dropout."""
    order: Literal["new_every_epoch", "same_every_epoch"] = "new_every_epoch"
    """Whether the training images are shuffled anew for each epoch, or once. The authors' files of images, shuffled once, go by
    in the same order every epoch (cuda-convnet's data.py); the paper does not say."""
    init_from: str | None = None
    """Folder of another run (its newest checkpoint is taken) or of one checkpoint, whose weights this run starts from. Layers
    that are not there, or have another shape there, start anew; momentum and schedule start from the beginning."""
    init_layers: tuple[str, ...] | None = None
    """Only these layers are taken from `init_from`; null: all that fit."""
    report_every_steps: Count = 20
    evaluate_every_epochs: Positive | None = 1.0
    """Evaluations in the course of training; null: only at the end."""
    evaluate_batch_size: Count = 128
    """Images per replica and forward pass when testing."""
    profile_steps: tuple[Count, Count] | None = None
    """[first, last] of up to 20 updates of which torch's profiler writes a trace into the run's folder; null: none. It
    changes nothing that is learned, and these updates take a little longer."""


@dataclass(frozen=True, kw_only=True)
class Compute(Section):
    """How the same numbers are computed; none of it changes what is learned but for rounding."""

    fused: bool = True
    """Compile response norm and update into one pass over memory each. The first start on a machine takes up to a
    minute longer for it; a short run is done sooner without."""
    channels_last: bool = True
    """Keep maps with their channels side by side in memory."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """What convolutions and matrix products are computed in. tf32: float32 with 10 bits of mantissa inside the products, on GPUs
    that have it. bf16: products, activations, their gradients and the exchange in bfloat16; weights, updates and the loss in
    float32."""
    compile: bool = False
    """Compile all that lies between exchanges and norms as a whole (torch.compile). Takes up to a minute at each start."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Section):
    every_steps: Count | None = None
    """Null: only after each evaluation, when stopped, and at the end."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints that are kept."""
    keep_best: bool = True
    """Keep the one with the lowest top-1 error on the validation set as well."""
    folder: str | None = None
    """Where checkpoints lie: a folder that all nodes see, or a URL (s3://, gs://, file://). Each run has a folder of its own in
    it, by its name. Null: `checkpoints` in the run's folder."""
    save_timeout_seconds: Positive = 1800
    """How long the columns wait for each other's files of a checkpoint before the run fails."""


@dataclass(frozen=True, kw_only=True)
class Cluster(Section):
    nodes: Count | None = None
    """Machines that must have joined the Ray cluster before the run starts; null: not checked."""
    replicas: CountOrAuto = 1
    """Copies of the network that train on different images of a batch (data parallel). auto: as many as there are GPUs for, one
    per column and all of a replica on one node, among the numbers that divide `train.batch_size`; 1 without them."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: one GPU per column (or `columns_per_gpu`) if there are enough; else all columns of a replica in one process on one
    GPU; else CPUs. `--plan` says which and why."""
    columns_per_gpu: Count = 1
    """Column processes of a replica that share a GPU, each asking Ray for its part of one. More than 1 is for trying columns
    where GPUs are few: they take turns and talk over sockets, and all columns in one process are faster."""
    gpu_backend: Literal["nccl", "gloo"] = "nccl"
    """Between GPUs. gloo goes by way of host memory, and is for finding out whether a fault is NCCL's."""
    cpus_per_column: Count = 1
    """CPUs, and compute threads, of a column's process."""
    data_workers: CountOrAuto = 1
    """Data workers per replica. auto: for each GPU of a replica 3, 13 or 22 with a `compute.precision` of fp32, tf32 or bf16, as
    an H200 wants by the forecast of docs/scaling.md; fewer if the node has no CPUs left for them, at least 1. On CPUs: 1."""
    cpus_per_data_worker: Positive = 1
    window_batches: TwoOrAuto = "auto"
    """Batches per replica that may be under way or waiting; bounds the object store. A data worker makes one at a time, so fewer
    than there are data workers leave some idle. auto: one for each data worker, and four more."""
    dashboard: bool = True
    """Whether a Ray that is started here has its dashboard (http://127.0.0.1:8265)."""
    start_timeout_seconds: Positive = 180
    """How long nodes may take to join, and actors to be placed and to find each other."""
    collective_timeout_seconds: Positive = 300
    """How long a column waits for another one in a collective before it fails."""

    @property
    def replica_count(self) -> int:
        """`replicas`, in a config whose `auto` counts have become numbers (as in `Plan.config`)."""
        assert self.replicas != "auto", "cluster.replicas is still auto"
        return self.replicas

    @property
    def data_worker_count(self) -> int:
        """`data_workers`, likewise."""
        assert self.data_workers != "auto", "cluster.data_workers is still auto"
        return self.data_workers

    @property
    def window(self) -> int:
        """`window_batches` as a number, once `data_workers` is one."""
        return self.data_worker_count + 4 if self.window_batches == "auto" else self.window_batches


@dataclass(frozen=True, kw_only=True)
class Fault(Section):
    """What happens when a process, a node or a network fails while training. Nothing here changes what is learned."""

    max_failures: Natural = 5
    """Failures tolerated between two checkpoints: a process that dies, a hang, a node that is lost. After each the
    actors are placed anew and go on from the last checkpoint; one more, and the run ends with the cause. 0: the first one
    ends it."""
    max_preemptions: Natural | None = None
    """The same for nodes that say beforehand that they will be taken away; null: any number."""
    backoff_seconds: NonNegative = 2.0
    """Pause before the second restart without a new checkpoint in between; doubled for each further one, up to a minute. The
    first restart comes at once."""
    hang_timeout_seconds: Positive = 120.0
    """How long no column may make progress before the attempt counts as hung. Must be longer than the longest step, evaluation
    step and pause of the network; first steps, and data that come from a URL, have `cluster.collective_timeout_seconds`, and
    checkpoints `checkpoint.save_timeout_seconds`."""
    stop_grace_seconds: Positive = 30.0
    """How long a stop waits if no column answers any more, as when their processes were ended too; and after that, how long for
    Ray to let go."""
    rejoin_timeout_seconds: Positive = 1800.0
    """How long a restart waits for nodes to come back if there is no room for it."""
    elastic: bool = False
    """With fewer GPUs than before, go on with fewer replicas, which then take several parts of each batch one after the other,
    and with more again when there is room for them after a checkpoint. The images of each update stay the same."""


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the run; its folder is `runs_folder`/`name`."""
    runs_folder: str = "runs"
    network: Network
    data: Data
    augment: Augment = field(default_factory=Augment)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule
    train: Train
    compute: Compute = field(default_factory=Compute)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    cluster: Cluster = field(default_factory=Cluster)
    fault: Fault = field(default_factory=Fault)
