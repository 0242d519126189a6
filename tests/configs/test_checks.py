"""Settings that are refused, and whether the message helps."""

from pathlib import Path

import pytest

from configs.loader import load
from tests.configs.files import refused

LADDER = "{first: 1, divided_by: 2, steps: 2}"
LADDERS = f"schedule={{kind: discrete_exponential, over_epochs: 3, biases: {LADDER}, weights: "
DRAWN = "data.drawn_pictures={size: 24}; network.classes=10; network.input_size="
REFUSED: list[tuple[str, str]] = [
    ("train.bath_size=3", "train.bath_size: no such setting; did you mean `batch_size`?"),
    ("network.convs.conv1.mps=3", "network.convs.conv1.mps: did you mean `maps`?"),
    ("qqq=3", "qqq: no such setting; there are augment, checkpoint, cluster, compute, data, fault, name, network"),
    ("schedule={kind: plateau, stages: []}", "schedule.stages: no such setting; there are biases, factor"),
    ("schedule={kind: steps}", "schedule: does not match any of the expected tags: 'stages', 'plateau'"),
    ("network.convs.conv1={maps: 8}", "network.convs.conv1.kernel: is missing; set it"),
    ("train.seed=1.5", "train.seed: valid integer, not 1.5"),
    ("train.seed=yes", "train.seed: valid integer, not True"),
    ("network.classes='4'", "network.classes: valid integer, not '4'"),
    ("optimizer.momentum=1", "optimizer.momentum: less than 1, not 1"),
    ("train.epochs=.nan", "train.epochs: finite number, not nan"),
    ("network.convs.conv1.init_bias=.nan", "network.convs.conv1.init_bias: finite number, not nan"),
    ("schedule.stages.0.weights=.inf", "schedule.stages.0.weights: finite number, not inf"),
    ("network.denses={values: {units: 8}}", "network.denses.values: is a name that torch's modules have"),
    ("network.convs.conv1.then=[lrm]", "network.convs.conv1.then.0: 'lrn'"),
    ("name=../up", "name: letters, digits, dots, _ and -"),
    ("name=", "name: must be text, not None"),
    (f"name={'n' * 300}", "name: at most 100 characters"),
    ("runs_folder=~nobody-at-all/runs", "runs_folder: a home folder that this system does not know"),
    ("network=3", "network: object, not 3"),
    ("network.convs={}", "network.convs: at least one layer"),
    ("network.convs.conv1.maps=7", "network.convs.conv1.maps: 7 maps cannot be split over network.columns = 2"),
    ("network.denses={fc: {units: 9}}", "network.denses.fc.units: 9 units cannot be split over network.columns = 2"),
    ("network.columns=4; network.classes=3", "network.classes: fewer columns or another number of classes"),
    ("network.columns=4; network.classes=5", "network.classes: 5 classes leave the last of network.columns = 4"),
    ("network.denses={conv1: {units: 8}}", "network.denses.conv1: is the name of another layer too"),
    ("network.denses={classifier: {units: 8}}", "network.denses.classifier: is the name of another layer too"),
    ("network.denses={fc 1: {units: 8}}", "network.denses.fc 1: is no name for a layer"),
    ("network.convs.conv1_lrn={maps: 8, kernel: 1}", "network.convs.conv1_lrn: no _lrn or _dropout last"),
    ("train.steps=5", "train: exactly one of train.epochs and train.steps"),
    ("train.epochs=null", "train: exactly one of train.epochs and train.steps"),
    ("cluster.replicas=3", "train.batch_size: 128 images cannot be split over cluster.replicas = 3"),
    ("schedule.stages.0.layers={conv9: {weights: 1}}", "schedule.stages.0.layers.conv9: there are conv1, conv2"),
    ("schedule.stages=[]", "schedule.stages: first stage must have from_epoch: 0"),
    ("schedule.stages.0.from_epoch=1", "schedule.stages: first stage must have from_epoch: 0"),
    ("schedule.stages.0.biases=null", "schedule.stages.0: must set `weights` and `biases`"),
    ("schedule.stages=[{from_epoch: 0, weights: 1, biases: 1}, {from_epoch: 0}]", "schedule.stages: must rise"),
    ("schedule={kind: plateau}; train.evaluate_every_epochs=null", "train.evaluate_every_epochs: a plateau"),
    (LADDERS + LADDER + ", frozen_from: {conv9: 1}}", "schedule.frozen_from.conv9: there are conv1, conv2, classifier"),
    (LADDERS + "{first: 1, divided_by: 2, steps: 1}}", "schedule.weights.steps: greater than or equal to 2, not 1"),
    ("optimizer.weight_decay_of={conv9: 1}", "optimizer.weight_decay_of.conv9: there are conv1, conv2, classifier"),
    ("train.init_layers=[conv1]", "train.init_layers: train.init_from, which is not set"),
    ("train.init_from=a; train.init_layers=[conv9]", "train.init_layers.conv9: there are conv1, conv2, classifier"),
    ("train.profile_steps=[5, 5]", "train.profile_steps: at least 2 and at most 20 updates, not [5, 5]"),
    ("train.profile_steps=[5, 25]", "train.profile_steps: for instance [5, 10]"),
    ("train.profile_steps=[0, 5]", "train.profile_steps.0: greater than 0, not 0"),
    ("train.profile_steps=[3, 8]; train.epochs=null; train.steps=7", "train.profile_steps: ends at update 8, and the"),
    ("cluster.columns_per_gpu=2; cluster.device=cpu", "cluster.columns_per_gpu: cluster.device is cpu"),
    ("cluster.columns_per_gpu=4", "cluster.columns_per_gpu: 2 column(s) of a replica cannot share GPUs by 4"),
    ("cluster.columns_per_gpu=2; network.lrn={sees: all}", "cluster.columns_per_gpu: network.lrn.sees is all"),
    ("augment.crop=center", "augment.crop: 'random' or 'centre', not 'center'"),
    ("network.spatial_lrn={sees: all}", "network.spatial_lrn.sees: a norm over positions sees one map"),
    ("network.convs.conv2.local=true; network.convs.conv2.sees=all", "network.convs.conv2.sees: cannot see other"),
    ("network.convs.conv2.then=[pool, pool, pool]", "network.convs.conv2: a pooling window of 3 does not fit 2"),
    ("network.convs.conv2.kernel=11", "network.convs.conv2: a kernel of 11 does not fit 10 positions"),
    ("network.convs.conv1.then=[lrn]", "network.convs.conv1.then: network.lrn is not set"),
    ("network.lrn={size: 5}; network.convs.conv1.then=[lrn, activation, lrn]", "network.convs.conv1.then: `lrn` 2"),
    ("network.convs.conv1.then=[spatial_lrn]", "network.convs.conv1.then: network.spatial_lrn is not set"),
    (DRAWN + "25", "data.drawn_pictures.size: draw larger pictures"),
    (DRAWN + "20; augment.crop_positions=6", "augment.crop_positions: 6 offsets do not fit"),
]
"""Overrides, and what is said of them: the setting, and a part of the rest."""


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_with_path_and_hint(small: Path, overrides: str, said: str) -> None:
    path, hint = said.split(": ", 1)
    lines = refused(small, *overrides.split("; "))
    assert lines[0] == f"{small} cannot be run as it is:"
    # One mistake, one line.
    assert len(lines) == 2, lines
    assert lines[1].startswith(f"{path}: ")
    assert hint in lines[1]


def test_the_last_that_is_possible(small: Path) -> None:
    """Just inside the limits that the cases above are outside of."""
    three = "20; network.columns=3; network.convs.conv1.maps=9; network.convs.conv2.maps=6"
    for settings in ("20; augment.crop_positions=5", three):
        load(small, (DRAWN + settings).split("; "))


def test_all_mistakes_in_one_message(small: Path) -> None:
    """Wrong keys, wrong types and impossible combinations, so that nobody has to start again for each."""
    lines = refused(
        small,
        "train.sed=1",
        "optimizer.momentum=2",
        "schedule.stages.0.weigths=3",
        "network.convs.conv1.then=[pol, activation, pul]",
        "network.convs.conv2.maps=7",
        "network.denses={fc: {units: 9}}",
        "schedule.stages.0.layers={conv9: {weights: 1}}",
        "nonsense",
    )
    paths = [line.split(":")[0] for line in lines[1:]]
    assert sorted(paths) == [
        "network.convs.conv1.then.0",
        "network.convs.conv1.then.2",
        "network.convs.conv2.maps",
        "network.denses.fc.units",
        "nonsense",
        "optimizer.momentum",
        "schedule.stages.0.layers.conv9",
        "schedule.stages.0.weigths",
        "train.sed",
    ]
