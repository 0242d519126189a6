"""Combinations that the types cannot rule out, each with its path and what to change."""

import itertools
import operator
import re
from collections.abc import Iterable, Iterator

from configs.geometry import layers, share
from configs.schema import Config, DiscreteExponentialSchedule, Network, PlateauSchedule, Train

MOST_PROFILED_STEPS = 20
"""A trace of a step takes some hundreds of kB, and a browser shows no more than some hundreds of MB."""

PLACES = ("runs_folder", "data.path", "data.cache_folder", "checkpoint.folder", "train.init_from")
"""Settings that are folders, or URLs."""
TAKEN = {
    "T_destination", "add_module", "add_submodule", "append", "apply", "bfloat16", "buffers", "call_super_init",
    "children", "clear", "code", "compile", "cpu", "cuda", "delete_all_unused_submodules", "delete_submodule",
    "double", "dump_patches", "eval", "extend", "extra_repr", "float", "forward", "get_buffer", "get_extra_state",
    "get_parameter", "get_submodule", "graph", "half", "insert", "ipu", "items", "keys", "load_state_dict", "meta",
    "modules", "mtia", "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop",
    "print_readable", "recompile", "register_backward_hook", "register_buffer", "register_forward_hook",
    "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook",
    "register_load_state_dict_post_hook", "register_load_state_dict_pre_hook", "register_module",
    "register_parameter", "register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_",
    "set_extra_state", "set_submodule", "shape_env", "share_memory", "state_dict", "to", "to_empty", "to_folder",
    "train", "training", "type", "update", "values", "xpu", "zero_grad",
}  # fmt: skip
"""Names that torch's modules have for themselves: no part of one, in training or exported, can be called so."""


def impossible_combinations(config: Config) -> list[tuple[str, str]]:
    """(path, what is wrong and what to change) for everything that cannot be run."""
    return [
        *_places(config),
        *_network(config.network),
        *_training(config),
        *_schedule(config),
        *_augment(config),
        *_sharing(config),
    ]


def _places(config: Config) -> Iterator[tuple[str, str]]:
    for path in PLACES:
        place = operator.attrgetter(path)(config)
        if place is not None and place.startswith("~"):  # what the loader could not replace
            yield path, f"{place} begins with a home folder that this system does not know; write the folder out"


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
            elif name in TAKEN:
                yield (
                    f"network.{section}.{name}",
                    "is a name that torch's modules have for themselves; take another one",
                )
    uneven = False
    for name, conv in network.convs.items():
        path = f"network.convs.{name}"
        if conv.maps % network.columns:
            uneven = True
            yield f"{path}.maps", f"{conv.maps} maps cannot be split over network.columns = {network.columns}"
        if conv.local and conv.sees == "all" and network.columns > 1 and name != next(iter(network.convs)):
            yield (
                f"{path}.sees",
                "a locally connected layer cannot see other columns; set sees: column, local: false or network.columns: 1",
            )
        for step, setting in (("lrn", network.lrn), ("spatial_lrn", network.spatial_lrn)):
            if step in conv.then and setting is None:
                yield (
                    f"{path}.then",
                    f"says `{step}`, but network.{step} is not set; set it, or take `{step}` out",
                )
            if conv.then.count(step) > 1:
                yield (
                    f"{path}.then",
                    f"says `{step}` {conv.then.count(step)} times, and a layer has one; take the others out",
                )
    for name, dense in network.denses.items():
        if dense.units % network.columns:
            uneven = True
            yield (
                f"network.denses.{name}.units",
                f"{dense.units} units cannot be split over network.columns = {network.columns}",
            )
    if network.spatial_lrn is not None and network.spatial_lrn.sees == "all":
        yield "network.spatial_lrn.sees", "a norm over positions sees one map, so `all` means nothing; leave it out"
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
    yield from _profile(train)
    names = _layer_names(config.network)
    yield from _unknown("optimizer.weight_decay_of", config.optimizer.weight_decay_of, names)
    if train.init_layers is not None and train.init_from is None:
        yield "train.init_layers", "says what to take from train.init_from, which is not set; set it, or leave this out"
    yield from _unknown("train.init_layers", train.init_layers or (), names)


def _sharing(config: Config) -> Iterator[tuple[str, str]]:
    shared, path = config.cluster.columns_per_gpu, "cluster.columns_per_gpu"
    if shared == 1:
        return
    processes = config.network.most_processes
    if config.cluster.device == "cpu":
        yield path, f"is {shared}, and cluster.device is cpu; leave one of them out"
    elif processes < config.network.columns:
        yield path, f"is {shared}, but all columns are in one process, because network.lrn.sees is all; leave it out"
    elif processes % shared:
        yield path, f"{processes} column(s) of a replica cannot share GPUs by {shared}; take a divisor"


def _profile(train: Train) -> Iterator[tuple[str, str]]:
    if train.profile_steps is None:
        return
    first, last = train.profile_steps
    if not first < last <= first + MOST_PROFILED_STEPS - 1:
        yield (
            "train.profile_steps",
            f"is [first, last] of at least 2 and at most {MOST_PROFILED_STEPS} updates, not [{first}, {last}]; for instance "
            f"[{first}, {first + 5}]",
        )
    if train.steps is not None and last > train.steps:
        yield "train.profile_steps", f"ends at update {last}, and the run at train.steps = {train.steps}"


def _layer_names(network: Network) -> list[str]:
    return [*network.convs, *network.denses, "classifier"]


def _unknown(path: str, named: Iterable[str], names: list[str]) -> Iterator[tuple[str, str]]:
    for name in named:
        if name not in names:
            yield f"{path}.{name}", f"no such layer; there are {', '.join(names)}"


def _schedule(config: Config) -> Iterator[tuple[str, str]]:
    names = _layer_names(config.network)
    if isinstance(config.schedule, PlateauSchedule):
        if config.train.evaluate_every_epochs is None:
            yield (
                "train.evaluate_every_epochs",
                "a plateau schedule needs evaluations; set it, for instance to 1",
            )
        return
    if isinstance(config.schedule, DiscreteExponentialSchedule):
        yield from _unknown("schedule.frozen_from", config.schedule.frozen_from, names)
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
        yield from _unknown(f"schedule.stages.{number}.layers", stage.layers, names)


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
