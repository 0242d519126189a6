"""The settings of a run, as frozen dataclasses. Every field is followed by its meaning and unit.

Sources cited below: [P] is the paper (Krizhevsky, Sutskever and Hinton, NIPS 2012) with its section; "the authors'
code" is the 2012 code released by the Computer History Museum, whose net #145 produced the paper's numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from pydantic import ConfigDict, Field, PlainValidator
else:
    try:
        from pydantic import ConfigDict, Field, PlainValidator
    except ImportError:
        # A machine that has torch and nothing else can build these classes by hand; only loading files checks them.
        def Field(**limits: Any) -> Any:
            return tuple(limits.items())

        def PlainValidator(function: Any) -> Any:
            return function

        ConfigDict = dict


def _count_or_auto(value: Any) -> Any:
    # A union of types would be told in two messages, one per type.
    if value == "auto" or (type(value) is int and value > 0):
        return value
    from pydantic_core import PydanticCustomError

    raise PydanticCustomError("count_or_auto", "must be a whole number greater than 0, or auto")


Count = Annotated[int, Field(gt=0)]
CountOrAuto = Annotated[int | Literal["auto"], PlainValidator(_count_or_auto)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

Step = Literal["activation", "lrn", "spatial_lrn", "pool"]
Sees = Literal["column", "all"]


class Section:
    """What all sections share: a key that the schema does not know is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class ResponseNorm(Section):
    """b = a * (k + alpha * (sum of a² over the window)) ** -beta [P 3.3]."""

    size: Count = 5
    """Window: this many neighbouring maps, or this many positions each way for `spatial_lrn`."""
    k: Positive = 2.0
    alpha: Positive = 1e-4
    beta: Positive = 0.75
    divide_alpha_by_window: bool = True
    """The authors' code divides alpha by the number of elements in the window; the paper's formula does not."""


@dataclass(frozen=True, kw_only=True)
class Pool(Section):
    """Max pooling; overlapping when size > stride [P 3.4]. A last window may hang over the edge."""

    size: Count = 3
    stride: Count = 2


@dataclass(frozen=True, kw_only=True)
class Conv(Section):
    """A convolutional layer of the whole network, and what follows it."""

    maps: Count
    """Output maps of the whole network; each column computes an equal share."""
    kernel: Count
    stride: Count = 1
    padding: Natural = 0
    """Zeros on each side. Where the stride leaves a remainder the last window hangs over the right and bottom edge
    and reads zeros there: out = 1 + ceil((in + 2 padding - kernel) / stride), as in the authors' code."""
    sees: Sees = "column"
    """`column`: this column's own maps of the layer below; `all`: every column's, by exchange. The first layer sees
    the image, which every column has."""
    then: tuple[Step, ...] = ("activation",)
    """What is applied to the output, in this order."""
    init_std: Positive = 0.01
    """Weights start from a normal distribution with mean 0 and this standard deviation."""
    init_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dense(Section):
    """A fully connected hidden layer of the whole network, with its activation and dropout."""

    units: Count
    """Units of the whole network; each column computes an equal share."""
    sees: Sees = "all"
    """As in `Conv`."""
    dropout: Fraction = 0.0
    """Probability that a unit is silent in training. Units are not rescaled then; in testing all are multiplied by
    1 - dropout [P 4.2]."""
    init_std: Positive = 0.01
    init_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Classifier(Section):
    """The last layer. It sees every column; its classes are split over the columns."""

    init_std: Positive = 0.01
    init_bias: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Network(Section):
    columns: Count = 2
    """Columns that compute side by side, one per GPU where there are enough [P 3.5]."""
    classes: Annotated[int, Field(ge=2)]
    input_size: Count
    """Side of the square crop that the network sees, in pixels."""
    activation: Literal["relu", "tanh"] = "relu"
    lrn: ResponseNorm | None = None
    """Response norm over neighbouring maps of one column; used where a layer's `then` says `lrn`."""
    spatial_lrn: ResponseNorm | None = None
    """Response norm over neighbouring positions of one map; used where `then` says `spatial_lrn`."""
    pool: Pool = field(default_factory=Pool)
    convs: Mapping[str, Conv]
    """In order, by name. A `null` in a file that has a base removes the base's layer."""
    denses: Mapping[str, Dense] = field(default_factory=dict)
    """In order, by name."""
    classifier: Classifier = field(default_factory=Classifier)


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
    """Epoch from which there is no colour noise (nor rescaling) any more; null: always."""


@dataclass(frozen=True, kw_only=True)
class Augment(Section):
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


@dataclass(frozen=True, kw_only=True)
class LayerRates(Section):
    weights: NonNegative | None = None
    biases: NonNegative | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(Section):
    """Learning rates from an epoch on. What a stage leaves out stays as it was; a rate of 0 freezes."""

    from_epoch: NonNegative
    weights: NonNegative | None = None
    """For every layer that no stage so far has named in `layers`."""
    biases: NonNegative | None = None
    layers: Mapping[str, LayerRates] = field(default_factory=dict)
    """Rates of single layers, by name; they hold until another stage names the layer again."""


@dataclass(frozen=True, kw_only=True)
class StageSchedule(Section):
    kind: Literal["stages"]
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class PlateauSchedule(Section):
    """Divide the rates when the validation error rate has stopped improving [P 5]."""

    kind: Literal["plateau"]
    weights: Positive = 0.01
    biases: Positive = 0.01
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience_evaluations: Count = 5
    """Evaluations in a row without improvement before the rates are multiplied by `factor`."""
    min_improvement: NonNegative = 0.001
    """Top-1 error must fall below the best by this much to count (0.001 is 0.1 %)."""
    reductions: Natural = 3
    """The rates are reduced this often at most."""


Schedule = Annotated[StageSchedule | PlateauSchedule, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Train(Section):
    epochs: Positive | None = None
    """Passes over the training set. Exactly one of `epochs` and `steps` is set."""
    steps: Count | None = None
    batch_size: Count = 128
    """Images per update, over all replicas."""
    seed: Natural = 0
    """Of the initial weights, the order, the augmentation and dropout."""
    report_every_steps: Count = 20
    evaluate_every_epochs: Positive | None = 1.0
    """Evaluations in the course of training; null: only at the end."""
    evaluate_batch_size: Count = 128
    """Images per replica and forward pass when testing."""


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
    """Compile the layers between two exchanges as a whole (torch.compile). Takes a minute or more at each start."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Section):
    every_steps: Count | None = None
    """Null: only after each evaluation, when stopped, and at the end."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints that are kept."""


@dataclass(frozen=True, kw_only=True)
class Cluster(Section):
    nodes: Count | None = None
    """Machines that must have joined the Ray cluster before the run starts; null: not checked."""
    replicas: CountOrAuto = 1
    """Copies of the network that train on different images of a batch (data parallel). auto: as many as there are GPUs for, one
    per column and all of a replica on one node, among the numbers that divide `train.batch_size`; 1 without them."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: one GPU per column if there are enough; else all columns of a replica in one process on one GPU; else
    CPUs. `--plan` says which and why."""
    cpus_per_column: Count = 1
    """CPUs, and compute threads, of a column's process."""
    data_workers: CountOrAuto = 1
    """Data workers per replica. auto: two for each GPU of a replica, as each makes about 1,500 images/s of 256x256 photos on one
    core and a GPU is taken to train up to twice as many; fewer if the node has no CPUs left for them, at least 1. On CPUs: 1."""
    cpus_per_data_worker: Positive = 1
    window_batches: Annotated[int, Field(ge=2)] = 4
    """Batches per replica that may be under way or waiting; bounds the object store."""
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


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
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
