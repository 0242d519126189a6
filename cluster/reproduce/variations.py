"""What the ablations take away, as settings on top of ablation.yaml; what that is worth in the paper is in `cluster.paper`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Variation:
    what: str
    settings: tuple[str, ...] = ()


FULL = "all"
VARIATIONS = {
    FULL: Variation(what="the full network"),
    "no_normalisation": Variation(
        what="no response norms",
        settings=(
            "network.lrn=null",
            "network.spatial_lrn=null",
            "network.convs.conv1.then=[pool, activation]",
            "network.convs.conv2.then=[activation, pool]",
        ),
    ),
    # At these sizes windows of 2 give maps of the same sides as windows of 3 that hang over, so no padding changes.
    "non_overlapping_pooling": Variation(what="pooling without overlap", settings=("network.pool.size=2",)),
    "no_dropout": Variation(
        what="no dropout",
        settings=("network.denses.fc6.dropout=0.0", "network.denses.fc7.dropout=0.0"),
    ),
    "no_crops": Variation(
        what="no crops, no mirror images",
        settings=("augment.crop=centre", "augment.crop_positions=null", "augment.mirror=false"),
    ),
    "no_colour_noise": Variation(what="no colour noise", settings=("augment.colour_noise=null",)),
    "tanh": Variation(what="tanh", settings=("network.activation=tanh",)),
    "one_gpu": Variation(
        what="the one-GPU net",
        settings=(
            "network.columns=1",
            "network.convs.conv1.maps=16",
            "network.convs.conv2.maps=32",
            "network.convs.conv3.maps=48",
            "network.convs.conv4.maps=48",
            "cluster.cpus_per_column=2",
        ),
    ),
    "no_exchange": Variation(
        what="columns meet in the classifier only",
        settings=(
            "network.convs.conv2.maps=80",
            "network.convs.conv3.sees=column",
            "network.denses.fc6.units=1024",
            "network.denses.fc6.sees=column",
            "network.denses.fc7.sees=column",
        ),
    ),
}
