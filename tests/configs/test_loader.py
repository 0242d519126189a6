"""From files and overrides to a config: what is read, what is refused, and whether the message helps."""

from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from configs import loader
from configs.checks import PLACES
from configs.loader import load, parse, to_dict
from tests.configs.files import SMALL, refused, written

BUILT_IN = [file.name for file in loader.built_in()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_files_load_and_make_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load(name)
    assert parse(to_dict(config)) == (config, [])
    assert load(name.removesuffix(".yaml")) == config
    loader.save(config, tmp_path / "saved.yaml")
    assert load(tmp_path / "saved.yaml") == config


def test_defaults_and_numbers_with_an_exponent(small: Path) -> None:
    config = load(small)
    assert config.schedule.kind == "stages"
    assert (config.schedule.stages[0].weights, config.schedule.stages[0].biases) == (0.01, 0.02)
    assert (config.network.columns, config.train.batch_size, config.optimizer.momentum) == (2, 128, 0.9)
    for text, value in (("1e-3", 1e-3), ("2E2", 200.0), ("+1e-3", 1e-3), ("5.e-1", 0.5), ("1.5e+0", 1.5)):
        assert load(small, [f"optimizer.weight_decay={text}"]).optimizer.weight_decay == value


@pytest.mark.parametrize("setting", ["name", "data.path", "checkpoint.folder"])
@pytest.mark.parametrize("typed", ["2012", "1e3", "no", "12.30", "2026-01-02", "null1", "'quoted'"])
def test_text_is_what_was_typed(small: Path, setting: str, typed: str) -> None:
    assert attrgetter(setting)(load(small, [f"{setting}={typed}"])) == typed.strip("'")


def test_places_may_hold_what_yaml_would_take_for_more(small: Path) -> None:
    config = load(small, ["data.path=#x", "train.init_from=a #b", "data.cache_folder=null", "runs_folder={a: 1}"])
    assert (config.data.path, config.train.init_from, config.data.cache_folder) == ("#x", "a #b", None)
    assert config.runs_folder == "{a: 1}"


@pytest.mark.parametrize("place", PLACES)
def test_a_home_folder_is_meant_everywhere(small: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for typed, meant in (("~/d", "/home/me/d"), ("~", "/home/me"), ("a/~", "a/~"), ("s3://b/~x", "s3://b/~x")):
        assert attrgetter(place)(load(small, [f"{place}={typed}"])) == meant
    keys = place.split(".")
    data = to_dict(load(small))
    (data if len(keys) == 1 else data[keys[0]])[keys[-1]] = "~/d"
    config, problems = parse(data)
    assert config is not None and attrgetter(place)(config) == "/home/me/d" and not problems


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
            "network.convs.a_late_one={maps: 2, kernel: 1}",
            "name=a=b",
            "name=other",
        ],
    )
    assert list(config.network.convs) == ["conv1", "conv2", "a_late_one"]
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


def test_base_is_overlaid_and_null_removes_a_layer(small: Path) -> None:
    convs = "{conv1: {maps: 4}, conv2: null, conv3: {maps: 2, kernel: 1}}"
    text = f"base: small.yaml\nname: over\nnetwork: {{convs: {convs}}}\n"
    config = load(written(small.parent, "over.yaml", text))
    assert config.name == "over"
    assert list(config.network.convs) == ["conv1", "conv3"]
    assert (config.network.convs["conv1"].maps, config.network.convs["conv1"].kernel) == (4, 3)
    assert config.data.path == "data/small"


def test_base_of_a_base_and_a_built_in_base(tmp_path: Path) -> None:
    written(tmp_path, "one.yaml", "base: paper.yaml\ntrain: {seed: 1, batch_size: 64}\n")
    config = load(written(tmp_path, "two.yaml", "base: one.yaml\nname: two\ntrain: {seed: 2}\n"))
    assert (config.name, config.train.seed, config.train.batch_size, config.train.epochs) == ("two", 2, 64, 90)
    assert config.network == load("paper.yaml").network
    variant = load(written(tmp_path, "mine.yaml", "base: six_convs.yaml\nname: mine\n"))
    assert variant.network == load("six_convs").network


def test_another_kind_of_schedule_does_not_inherit(small: Path) -> None:
    file = written(small.parent, "over.yaml", "base: small.yaml\nschedule: {kind: plateau, weights: 0.5}\n")
    schedule = load(file).schedule
    assert schedule.kind == "plateau"
    assert (schedule.weights, schedule.biases) == (0.5, 0.01)


def test_bases_that_lead_in_a_circle_or_nowhere(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "a"), ("self", "self"), ("lost", "nowhere")):
        written(tmp_path, f"{name}.yaml", f"base: {base}.yaml\n")
    for name, told in (("a", "leads back to this file"), ("self", "leads back"), ("lost", "no such file nowhere.yaml")):
        assert told in refused(tmp_path / f"{name}.yaml")[0] and "base" in refused(tmp_path / f"{name}.yaml")[0]


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


def test_parse_leaves_its_argument_alone(small: Path) -> None:
    data: dict[str, Any] = to_dict(load(small))
    data["network"]["convs"]["conv1"]["mps"] = 3
    data["network"]["convs"]["conv2"] = None
    before = repr(data)
    config, problems = parse(data)
    assert config is None and len(problems) == 1
    assert repr(data) == before
