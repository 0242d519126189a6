"""From files and overrides to a config: what is read, what is refused, and whether the message helps."""

from pathlib import Path
from typing import Any

import pytest

from configs import loader
from configs.errors import UserError
from configs.loader import load, parse, to_dict

BUILT_IN = [file.name for file in loader.built_in()]

SMALL = """
name: small
network:
  classes: 4
  input_size: 12
  convs:
    conv1: {maps: 8, kernel: 3}
    conv2: {maps: 8, kernel: 3}
data: {path: data/small}
schedule: {kind: stages, stages: [{from_epoch: 0, weights: 1e-2, biases: 2e-2}]}
train: {epochs: 2}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return written(tmp_path, "small.yaml", SMALL)


def written(folder: Path, name: str, text: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(file: Path | str | None, *overrides: str) -> list[str]:
    """The lines of the message, without indentation."""
    with pytest.raises(UserError) as caught:
        load(file, overrides)
    return [line.strip() for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_files_load_and_make_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load(name)
    assert parse(to_dict(config)) == (config, [])
    assert load(name.removesuffix(".yaml")) == config
    loader.save(config, tmp_path / "saved.yaml")
    assert load(tmp_path / "saved.yaml") == config


def test_original_and_paper_are_built_in() -> None:
    assert {"original.yaml", "paper.yaml"} <= set(BUILT_IN)


def test_defaults_and_numbers_with_an_exponent(small: Path) -> None:
    config = load(small)
    assert config.schedule.kind == "stages"
    assert (config.schedule.stages[0].weights, config.schedule.stages[0].biases) == (0.01, 0.02)
    assert (config.network.columns, config.train.batch_size, config.optimizer.momentum) == (2, 128, 0.9)
    for text, value in (("1e-3", 1e-3), ("2E2", 200.0), ("+1e-3", 1e-3), ("5.e-1", 0.5), ("1.5e+0", 1.5)):
        assert load(small, [f"optimizer.weight_decay={text}"]).optimizer.weight_decay == value


def test_order_of_layers_is_the_files(small: Path) -> None:
    config = load(small, ["network.convs.a_late_one={maps: 2, kernel: 1}"])
    assert list(config.network.convs) == ["conv1", "conv2", "a_late_one"]


# Overrides


def test_overrides(small: Path) -> None:
    config = load(
        small,
        [
            "train.epochs=null",
            "train.steps=7",
            "network.convs.conv1.then=[activation, pool]",
            "schedule.stages.0.weights=0.5",
            "augment.colour_noise=null",
            "checkpoint.every_steps=3",  # of a section that the file does not have
            "name=a=b",
            "name=other",
        ],
    )
    assert (config.train.epochs, config.train.steps, config.name) == (None, 7, "other")
    assert config.network.convs["conv1"].then == ("activation", "pool")
    assert config.schedule.kind == "stages" and config.schedule.stages[0].weights == 0.5
    assert config.augment.colour_noise is None
    assert config.checkpoint.every_steps == 3


def test_overrides_that_cannot_be_applied(small: Path) -> None:
    lines = refused(small, "train", "=3", "train.=3", "train.seed=[", "train.epochs.x=3", "schedule.stages.9.weights=3")
    assert lines[1:] == [
        "train: an override looks like train.epochs=3",
        "=3: an override looks like train.epochs=3",
        "train.=3: an override looks like train.epochs=3",
        "train.seed=[: the value is not valid YAML",
        "train.epochs.x=3: there is nothing below train.epochs",
        "schedule.stages.9.weights=3: there is nothing below schedule.stages.9",
    ]


# Bases


def test_base_is_overlaid_and_null_removes_a_layer(small: Path) -> None:
    file = written(
        small.parent,
        "over.yaml",
        "base: small.yaml\nname: over\nnetwork: {convs: {conv1: {maps: 4}, conv2: null, conv3: {maps: 2, kernel: 1}}}\n",
    )
    config = load(file)
    assert config.name == "over"
    assert list(config.network.convs) == ["conv1", "conv3"]
    assert (config.network.convs["conv1"].maps, config.network.convs["conv1"].kernel) == (4, 3)
    assert config.data.path == "data/small"


def test_base_of_a_base_and_a_built_in_base(tmp_path: Path) -> None:
    written(tmp_path, "one.yaml", "base: paper.yaml\ntrain: {seed: 1, batch_size: 64}\n")
    config = load(written(tmp_path, "two.yaml", "base: one.yaml\nname: two\ntrain: {seed: 2}\n"))
    assert (config.name, config.train.seed, config.train.batch_size, config.train.epochs) == ("two", 2, 64, 90)
    assert config.network == load("paper.yaml").network


def test_another_kind_of_schedule_does_not_inherit(small: Path) -> None:
    file = written(small.parent, "over.yaml", "base: small.yaml\nschedule: {kind: plateau, weights: 0.5}\n")
    schedule = load(file).schedule
    assert schedule.kind == "plateau"
    assert (schedule.weights, schedule.biases) == (0.5, 0.01)


def test_bases_that_lead_in_a_circle(tmp_path: Path) -> None:
    written(tmp_path, "a.yaml", "base: b.yaml\n")
    written(tmp_path, "b.yaml", "base: a.yaml\n")
    assert "`base` leads back to this file" in refused(tmp_path / "a.yaml")[0]
    assert "leads back" in refused(written(tmp_path, "self.yaml", "base: self.yaml\n"))[0]


def test_base_that_is_not_there(tmp_path: Path) -> None:
    assert "base: no such file nowhere.yaml" in refused(written(tmp_path, "a.yaml", "base: nowhere.yaml\n"))[0]


# Files that cannot be read


def test_missing_file_lists_the_built_in_ones() -> None:
    (line,) = refused("nowhere.yaml")
    assert "nowhere.yaml" in line
    assert all(name in line for name in BUILT_IN)
    assert "did you mean no_exchange.yaml?" in refused("no_exchang")[0]


def test_built_in_experiments_are_found_by_name_and_other_files_beside_them_are_not() -> None:
    assert len(BUILT_IN) == len(set(BUILT_IN)) >= 28
    assert load("variants/no_exchange.yaml") == load("no_exchange") == load("no_exchange.yaml")
    folders = {file.parent.name for file in loader.built_in()}
    assert folders == {"configs", "variants"}


def test_base_is_found_among_the_variants(tmp_path: Path) -> None:
    config = load(written(tmp_path, "mine.yaml", "base: six_convs.yaml\nname: mine\n"))
    assert config.network == load("six_convs").network


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: caf\xe9\n", "cannot be read"),
        ("name: [", "is not valid YAML"),
        ("name: a\nname: b\n", "the key `name` stands here twice"),
        ("network: {classes: 3, classes: 4}\n", "the key `classes` stands here twice"),
        ("? [1, 2]\n: 3\n", "a key must be a word"),
        ("2020-01-01: 3\n", "a key must be a word"),
        ("", "must hold settings"),
        ("- 1\n", "must hold settings as `key: value`, but holds list"),
        ("!!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    ],
)
def test_files_that_hold_no_settings(tmp_path: Path, text: str | bytes, message: str) -> None:
    file = written(tmp_path, "bad.yaml", text)
    lines = refused(file)
    assert str(file) in lines[0]
    assert message in "\n".join(lines)


def test_yaml_merge_keys(tmp_path: Path) -> None:
    text = SMALL.replace("conv1: {", "conv1: &first {").replace(
        "{maps: 8, kernel: 3}\ndata", "{<<: *first, maps: 6}\ndata"
    )
    conv = load(written(tmp_path, "merge.yaml", text)).network.convs["conv2"]
    assert (conv.maps, conv.kernel) == (6, 3)


# Settings that are refused. Each with its path and with what to change.

REFUSED: list[tuple[list[str], str, str]] = [
    (["train.bath_size=3"], "train.bath_size", "no such setting; did you mean `batch_size`?"),
    (["network.convs.conv1.mps=3"], "network.convs.conv1.mps", "did you mean `maps`?"),
    (["schedule.stages.0.weigths=3"], "schedule.stages.0.weigths", "did you mean `weights`?"),
    (["qqq=3"], "qqq", "no such setting; there are augment, checkpoint, cluster, compute, data, fault, name, network"),
    (["schedule={kind: plateau, stages: []}"], "schedule.stages", "no such setting; there are biases, factor"),
    (["schedule={kind: steps}"], "schedule", "does not match any of the expected tags: 'stages', 'plateau'"),
    (["network.convs.conv1={maps: 8}"], "network.convs.conv1.kernel", "is missing; set it"),
    (["train.seed=1.5"], "train.seed", "valid integer, not 1.5"),
    (["train.seed=yes"], "train.seed", "valid integer, not True"),
    (["network.classes='4'"], "network.classes", "valid integer, not '4'"),
    (["optimizer.momentum=1"], "optimizer.momentum", "less than 1, not 1"),
    (["train.epochs=.nan"], "train.epochs", "greater than 0, not nan"),
    (["network.convs.conv1.then=[lrm]"], "network.convs.conv1.then.0", "'lrn'"),
    (["name=../up"], "name", "match pattern"),
    (["network=3"], "network", "object, not 3"),
    (["network.convs={}"], "network.convs", "at least one layer"),
    (["network.convs.conv1.maps=7"], "network.convs.conv1.maps", "7 maps cannot be split over network.columns = 2"),
    (
        ["network.denses={fc: {units: 9}}"],
        "network.denses.fc.units",
        "9 units cannot be split over network.columns = 2",
    ),
    (["network.columns=4", "network.classes=3"], "network.classes", "fewer columns or another number of classes"),
    (["network.columns=4", "network.classes=5"], "network.classes", "5 classes leave the last of network.columns = 4"),
    (["network.denses={conv1: {units: 8}}"], "network.denses.conv1", "is the name of another layer too"),
    (["network.denses={classifier: {units: 8}}"], "network.denses.classifier", "is the name of another layer too"),
    (["network.denses={fc 1: {units: 8}}"], "network.denses.fc 1", "is no name for a layer"),
    (["network.denses={a.b: {units: 8}}"], "network.denses.a.b", "is no name for a layer"),
    (["network.convs.conv1_lrn={maps: 8, kernel: 1}"], "network.convs.conv1_lrn", "no _lrn or _dropout last"),
    (["train.steps=5"], "train", "exactly one of train.epochs and train.steps"),
    (["train.epochs=null"], "train", "exactly one of train.epochs and train.steps"),
    (["cluster.replicas=3"], "train.batch_size", "128 images cannot be split over cluster.replicas = 3"),
    (
        ["schedule.stages.0.layers={conv9: {weights: 1}}"],
        "schedule.stages.0.layers.conv9",
        "there are conv1, conv2, classifier",
    ),
    (["schedule.stages=[]"], "schedule.stages", "first stage must have from_epoch: 0"),
    (["schedule.stages.0.from_epoch=1"], "schedule.stages", "first stage must have from_epoch: 0"),
    (["schedule.stages.0.biases=null"], "schedule.stages.0", "must set `weights` and `biases`"),
    (
        ["schedule.stages=[{from_epoch: 0, weights: 1, biases: 1}, {from_epoch: 2}, {from_epoch: 2}]"],
        "schedule.stages",
        "must rise from stage to stage",
    ),
    (
        ["schedule={kind: plateau}", "train.evaluate_every_epochs=null"],
        "train.evaluate_every_epochs",
        "a plateau schedule needs evaluations",
    ),
    (
        [
            "schedule={kind: discrete_exponential, over_epochs: 3, weights: {first: 1, divided_by: 2, steps: 2}, "
            "biases: {first: 1, divided_by: 2, steps: 2}, frozen_from: {conv9: 1}}"
        ],
        "schedule.frozen_from.conv9",
        "there are conv1, conv2, classifier",
    ),
    (
        [
            "schedule={kind: discrete_exponential, over_epochs: 3, weights: {first: 1, divided_by: 2, steps: 1}, "
            "biases: {first: 1, divided_by: 2, steps: 2}}"
        ],
        "schedule.weights.steps",
        "greater than or equal to 2, not 1",
    ),
    (["optimizer.weight_decay_of={conv9: 1}"], "optimizer.weight_decay_of.conv9", "there are conv1, conv2, classifier"),
    (["train.init_layers=[conv1]"], "train.init_layers", "train.init_from, which is not set"),
    (
        ["train.init_from=a", "train.init_layers=[conv9]"],
        "train.init_layers.conv9",
        "there are conv1, conv2, classifier",
    ),
    (["train.profile_steps=[5, 5]"], "train.profile_steps", "at least 2 and at most 20 updates, not [5, 5]"),
    (["train.profile_steps=[5, 25]"], "train.profile_steps", "for instance [5, 10]"),
    (["train.profile_steps=[0, 5]"], "train.profile_steps.0", "greater than 0, not 0"),
    (["train.profile_steps=5"], "train.profile_steps", "not 5"),
    (
        ["train.profile_steps=[3, 8]", "train.epochs=null", "train.steps=7"],
        "train.profile_steps",
        "ends at update 8, and the run at train.steps = 7",
    ),
    (["augment.crop=center"], "augment.crop", "'random' or 'centre', not 'center'"),
    (["network.spatial_lrn={sees: all}"], "network.spatial_lrn.sees", "a norm over positions sees one map"),
    (
        ["network.convs.conv2.local=true", "network.convs.conv2.sees=all"],
        "network.convs.conv2.sees",
        "cannot see other columns",
    ),
    (["network.convs.conv2.then=[pool, pool, pool]"], "network.convs.conv2", "a pooling window of 3 does not fit 2"),
    (["network.convs.conv2.kernel=11"], "network.convs.conv2", "a kernel of 11 does not fit 10 positions"),
    (["network.convs.conv1.then=[lrn]"], "network.convs.conv1.then", "network.lrn is not set"),
    (["network.convs.conv1.then=[spatial_lrn]"], "network.convs.conv1.then", "network.spatial_lrn is not set"),
    (
        ["data.drawn_pictures={size: 24}", "network.classes=10", "network.input_size=25"],
        "data.drawn_pictures.size",
        "draw larger pictures",
    ),
    (
        ["data.drawn_pictures={size: 24}", "network.classes=10", "network.input_size=20", "augment.crop_positions=6"],
        "augment.crop_positions",
        "6 offsets do not fit",
    ),
]


@pytest.mark.parametrize(("overrides", "path", "hint"), REFUSED, ids=["; ".join(row[0]) for row in REFUSED])
def test_refused_with_path_and_hint(small: Path, overrides: list[str], path: str, hint: str) -> None:
    lines = refused(small, *overrides)
    assert lines[0] == f"{small} cannot be run as it is:"
    # One mistake, one line.
    assert len(lines) == 2, lines
    assert lines[1].startswith(f"{path}: ")
    assert hint in lines[1]


@pytest.mark.parametrize("overrides", [["augment.crop_positions=5"], ["network.columns=3", "network.convs.conv1.maps=9",
                                        "network.convs.conv2.maps=6"]])  # fmt: skip
def test_the_last_that_is_possible(small: Path, overrides: list[str]) -> None:
    """Just inside the limits that the cases above are outside of."""
    load(small, ["data.drawn_pictures={size: 24}", "network.classes=10", "network.input_size=20", *overrides])


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


def test_parse_leaves_its_argument_alone(small: Path) -> None:
    data: dict[str, Any] = to_dict(load(small))
    data["network"]["convs"]["conv1"]["mps"] = 3
    data["network"]["convs"]["conv2"] = None
    before = repr(data)
    config, problems = parse(data)
    assert config is None and len(problems) == 1
    assert repr(data) == before
