"""Combinations that the types cannot rule out, each with its path and what to change."""

import itertools
import re
from collections.abc import Iterator

from configs.geometry import layers, share
from configs.schema import Config, Network, StageSchedule


def impossible_combinations(config: Config) -> list[tuple[str, str]]:
    """(path, what is wrong and what to change) for everything that cannot be run."""
    return [*_network(config.network), *_training(config), *_schedule(config), *_augment(config)]


def _network(network: Network) -> Iterator[tuple[str, str]]:
    if not network.convs:
        yield "network.convs", "needs at least one layer"
        return
    shared = set(network.convs) & set(network.denses)
    for name in sorted(shared | ({"classifier"} & ({*network.convs} | {*network.denses}))):
        yield f"network.denses.{name}", "is the name of another layer too; rename one of them"
    for section, names in (("convs", network.convs), ("denses", network.denses)):
        for name in names:
            # Names become parts of parameters' names, next to those of norms and dropout.
            if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name.endswith(("_lrn", "_dropout")):
                yield (
                    f"network.{section}.{name}",
                    "is no name for a layer; take letters, digits and _, a letter first, and no _lrn or _dropout last",
                )
    uneven = False
    for name, conv in network.convs.items():
        path = f"network.convs.{name}"
        if conv.maps % network.columns:
            uneven = True
            yield f"{path}.maps", f"{conv.maps} maps cannot be split over network.columns = {network.columns}"
        for step, setting in (("lrn", network.lrn), ("spatial_lrn", network.spatial_lrn)):
            if step in conv.then and setting is None:
                yield (
                    f"{path}.then",
                    f"says `{step}`, but network.{step} is not set; set it, or take `{step}` out",
                )
    for name, dense in network.denses.items():
        if dense.units % network.columns:
            uneven = True
            yield (
                f"network.denses.{name}.units",
                f"{dense.units} units cannot be split over network.columns = {network.columns}",
            )
    last = share(network.classes, network.columns, network.columns - 1)
    if last.start == last.stop:
        yield (
            "network.classes",
            f"{network.classes} classes leave the last of network.columns = {network.columns} without any, as each "
            "column before it owns the same number, rounded up; use fewer columns or another number of classes",
        )
    if not uneven:
        try:
            layers(network)
        except ValueError as error:
            path, _, message = str(error).partition(": ")
            yield path, message


def _training(config: Config) -> Iterator[tuple[str, str]]:
    train, replicas = config.train, config.cluster.replicas
    if (train.epochs is None) == (train.steps is None):
        yield "train", "set exactly one of train.epochs and train.steps (the other to null)"
    if replicas != "auto" and train.batch_size % replicas:
        yield (
            "train.batch_size",
            f"{train.batch_size} images cannot be split over cluster.replicas = {replicas}",
        )


def _schedule(config: Config) -> Iterator[tuple[str, str]]:
    names = [*config.network.convs, *config.network.denses, "classifier"]
    if not isinstance(config.schedule, StageSchedule):
        if config.train.evaluate_every_epochs is None:
            yield (
                "train.evaluate_every_epochs",
                "a plateau schedule needs evaluations; set it, for instance to 1",
            )
        return
    stages = config.schedule.stages
    if not stages or stages[0].from_epoch != 0:
        yield "schedule.stages", "the first stage must have from_epoch: 0"
    elif stages[0].weights is None or stages[0].biases is None:
        yield "schedule.stages.0", "the first stage must set `weights` and `biases`"
    starts = [stage.from_epoch for stage in stages]
    if any(later <= earlier for earlier, later in itertools.pairwise(starts)):
        yield "schedule.stages", f"from_epoch must rise from stage to stage, not {starts}"
    for number, stage in enumerate(stages):
        for name in stage.layers:
            if name not in names:
                yield (
                    f"schedule.stages.{number}.layers.{name}",
                    f"no such layer; there are {', '.join(names)}",
                )


def _augment(config: Config) -> Iterator[tuple[str, str]]:
    drawn, size = config.data.drawn_pictures, config.network.input_size
    if drawn is None:
        return
    if config.network.classes != 10:
        yield "network.classes", f"must be 10 for drawn pictures, not {config.network.classes}"
    if drawn.size < size:
        yield (
            "data.drawn_pictures.size",
            f"{drawn.size} is smaller than the crop, network.input_size = {size}; draw larger pictures",
        )
    elif (config.augment.crop_positions or 1) > drawn.size - size + 1:
        yield (
            "augment.crop_positions",
            f"{config.augment.crop_positions} offsets do not fit: a crop of {size} has {drawn.size - size + 1} "
            f"in a picture of {drawn.size}",
        )
