"""original.yaml against net #145 of the authors' code, and paper.yaml against the text, field by field.

The values stand here as they are in the authors' files (computerhistory/AlexNet-Source-Code, by file and line; CC1 and CC2 are
cuda-convnet and cuda-convnet2) or follow from them by the arithmetic that is written beside them. Nothing is left out: a setting
of the schema that is not known here fails the tests.
"""

import dataclasses
import typing
from typing import Any

from configs.loader import load, to_dict
from configs.schema import Config

NET, RUN = "layers-145.cfg", "layer-params-145.cfg"


def norm(where: str, size: int, k: float, alpha: float, source: str) -> dict[str, tuple[Any, str]]:
    return {
        f"{where}.size": (size, source),
        f"{where}.k": (k, f"{source}; additive constant 1 where minDiv is absent"),
        f"{where}.alpha": (alpha, source),
        f"{where}.beta": (0.75, source),
        f"{where}.divide_alpha_by_window": (True, "layer.py:1183"),
        f"{where}.sees": ("column", f"{NET}:35-45, 95-105: each norm has its own column as its input"),
    }


CONV = ("maps", "kernel", "stride", "padding", "sees", "then", "init_std", "init_bias", "local")


def conv(name: str, lines: str, *values: Any) -> dict[str, tuple[Any, str]]:
    """values: of CONV."""
    return {f"network.convs.{name}.{key}": (value, f"{NET}:{lines}") for key, value in zip(CONV, values, strict=True)}


def dense(name: str, lines: str) -> dict[str, tuple[Any, str]]:
    values = {"units": 2 * 2048, "sees": "all", "dropout": 0.5, "init_std": 0.01, "init_bias": 1.0, "linear": False}
    return {f"network.denses.{name}.{key}": (value, f"{NET}:{lines}; keep = 0.5") for key, value in values.items()}


def stages(*stages: dict[str, Any]) -> list[dict[str, Any]]:
    whole: dict[str, Any] = {"weights": None, "biases": None, "layers": {}}
    return [{**whole, **stage} for stage in stages]


NET_145: dict[str, tuple[Any, str]] = {
    "network.columns": (2, f"{NET}: suffixes a and b, gpu=0 and gpu=1"),
    "network.classes": (1000, f"{NET}:294-299"),
    "network.input_size": (224, "256 - 2 * 16 (convdata_jpeg.py:72-73; the paper, 3.5)"),
    "network.activation": ("relu", f"{NET}:54, 63: neuron=relu"),
    "network.pool.size": (3, f"{NET}:47-63, 119-133, 220-236: sizeX=3, at all three"),
    "network.pool.stride": (2, f"{NET}:47-63, 119-133, 220-236"),
    **norm("network.lrn", 5, 2.0, 1e-4, f"{NET}:35-45, 95-105 and {RUN}: scale, pow, minDiv"),
    **norm("network.spatial_lrn", 5, 1.0, 1e-3, f"{NET}:107-117 and {RUN}: cnorm2a, cnorm2b"),
    **conv("conv1", "9-63", 2 * 48, 11, 4, 0, "column", ["lrn", "pool", "activation"], 0.01, 0.0, False),
    **conv("conv2", "65-133", 2 * 128, 5, 1, 2, "column", ["activation", "lrn", "spatial_lrn", "pool"], 0.01, 1.0, False),
    **conv("conv3", "135-161", 2 * 192, 3, 1, 1, "all", ["activation"], 0.03, 0.0, False),
    **conv("conv4", "163-189", 2 * 192, 3, 1, 1, "column", ["activation"], 0.03, 1.0, False),
    **conv("conv5", "192-236", 2 * 128, 3, 1, 1, "column", ["pool", "activation"], 0.03, 1.0, False),
    **dense("fc6", "238-264"),
    **dense("fc7", "266-292"),
    "network.classifier.init_std": (0.01, f"{NET}:298"),
    "network.classifier.init_bias": (0.0, f"{NET}:294-299: no initB"),
    "augment.crop": ("random", "convdata_jpeg.py:239"),
    "augment.crop_positions": (2 * 16 + 1, "convdata_jpeg.py:239: offsets 0 to 2 * border inclusive"),
    "augment.crop_shared_by": (32, "convdata_jpeg.py:77: crop_chunk"),
    "augment.mirror": (True, "convdata_jpeg.py:244"),
    "augment.mean": ("centre", "convdata_jpeg.py:95, 209-211"),
    "augment.colour_noise.strength": (0.1, f"{RUN}:169-181: colour noise 0.1"),
    "augment.colour_noise.scale": ("standard_deviation", "convdata_jpeg.py:57-66"),
    "augment.colour_noise.rescale": (True, "convdata_jpeg.py:175-179: divided by 1 + 0.1"),
    "augment.colour_noise.statistics": ("authors", "CC2 make-data/input_meta"),
    "augment.colour_noise.until_epoch": (67, f"{RUN}:169-181"),
    "augment.pixel_scale": (1.0, "convdata_jpeg.py:30-41, 209-211: pixels stay at 0..255"),
    "optimizer.momentum": (0.9, f"{RUN}: momW, momB"),
    "optimizer.weight_decay": (0.0005, f"{RUN}: wc"),
    "optimizer.decay_biases": (False, "src/layer.cu:565"),
    "optimizer.weight_decay_of": ({}, f"{RUN}: wc is the same everywhere"),
    "schedule.kind": ("stages", f"{RUN}:169-181: edits at epochs"),
    "schedule.stages": (
        stages(
            {"from_epoch": 0, "weights": 0.01, "biases": 0.02},
            {"from_epoch": 25, "weights": 0.001},
            {"from_epoch": 51, "weights": 0.0001},
            {"from_epoch": 67, "layers": {"conv1": {"weights": 0.00001, "biases": None}}},
            {"from_epoch": 72, "layers": {"conv1": {"weights": 0.0, "biases": 0.0}}},
            {"from_epoch": 79, "weights": 0.00001},
        ),
        f"{RUN}:169-181; biases {RUN}:3, 19",
    ),
    "train.epochs": (91, f"{RUN}:181: killed"),
    "train.steps": (None, "by epochs"),
    "train.batch_size": (128, "convnet.py:177"),
    "train.seed": (0, "theirs is not recorded"),
    "train.order": ("same_every_epoch", "CC1 data.py, advance_batch"),
    "train.init_from": (None, "from random weights"),
    "train.init_layers": (None, "from random weights"),
    "train.report_every_steps": (20, "changes nothing that is learned"),
    "train.evaluate_every_epochs": (1.0, "changes nothing that is learned, with a schedule of epochs"),
    "train.evaluate_batch_size": (128, "changes nothing that is learned"),
    "train.profile_steps": (None, "changes nothing that is learned"),
}  # fmt: skip

LEARNED = {"network", "augment", "optimizer", "schedule", "train"}
"""The sections that decide what is learned."""
RUNNING = {"name", "runs_folder", "data", "compute", "checkpoint", "cluster", "fault"}
"""The others: where and how it runs."""
RUNNING_SETTINGS = {
    "name": "original", "data.path": "data/imagenet", "checkpoint.every_steps": 2000, "cluster.data_workers": "auto",
}  # fmt: skip
"""What original.yaml says of these; the rest is the schema's default."""

# What the text says otherwise: value, section.
PAPER: dict[str, tuple[Any, str]] = {
    "network.lrn.divide_alpha_by_window": (False, "3.3: alpha = 1e-4 stands in the formula undivided"),
    "network.spatial_lrn": (None, "3.5: no such layer"),
    "network.convs.conv1.then": (["activation", "lrn", "pool"], "3.3: after applying the ReLU; 3.5"),
    "network.convs.conv2.then": (["activation", "lrn", "pool"], "3.5"),
    "network.convs.conv3.init_std": (0.01, "5: in each layer"),
    "network.convs.conv4.init_std": (0.01, "5"),
    "network.convs.conv5.init_std": (0.01, "5"),
    "network.convs.conv5.then": (["activation", "pool"], "3.5"),
    "augment.crop_positions": (32, "4.1: a factor of 2048 = 32 * 32 * 2"),
    "augment.crop_shared_by": (1, "4.1"),
    "augment.mean": ("position", "2: the mean activity of each pixel"),
    "augment.colour_noise.scale": ("eigenvalue", "4.1"),
    "augment.colour_noise.rescale": (False, "4.1: says nothing of it"),
    "augment.colour_noise.statistics": ("dataset", "4.1"),
    "augment.colour_noise.until_epoch": (None, "4.1: says nothing of an end"),
    "schedule.kind": ("plateau", "5: when the validation error rate stopped improving"),
    "schedule.weights": (0.01, "5"),
    "schedule.biases": (0.01, "5: equal for all layers"),
    "schedule.factor": (0.1, "5"),
    "schedule.reductions": (3, "5"),
    "schedule.patience_evaluations": (5, "5 does not say when it has stopped improving; the schema's default"),
    "schedule.min_improvement": (0.001, "as before"),
    "train.epochs": (90, "5: roughly 90 cycles"),
}
GONE = {"schedule.stages"} | {path for path in NET_145 if path.startswith("network.spatial_lrn.")}
"""Settings of net #145 that mean nothing by the text."""


def flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted path. Empty sections and lists are values."""
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    return {
        path: value
        for key, below in data.items()
        for path, value in flat(below, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def section(path: str) -> str:
    return path.split(".")[0]


def differences(found: dict[str, Any], expected: dict[str, tuple[Any, str]]) -> list[str]:
    lines = [f"{path}: {found[path]!r}, not known here" for path in found if path not in expected]
    lines += [f"{path}: missing" for path in expected if path not in found]
    return lines + [
        f"{path}: {found[path]!r}, but {value!r} by {source}"
        for path, (value, source) in expected.items()
        if path in found and found[path] != value
    ]


def learned(name: str) -> dict[str, Any]:
    return {path: value for path, value in flat(to_dict(load(name))).items() if section(path) in LEARNED}


def test_original_is_net_145() -> None:
    assert not differences(learned("original.yaml"), NET_145)


def test_paper_is_net_145_but_for_what_the_text_says() -> None:
    expected = {path: entry for path, entry in NET_145.items() if path not in GONE} | PAPER
    assert not differences(learned("paper.yaml"), expected)
    # Else it would be no difference.
    assert all(path not in NET_145 or NET_145[path][0] != value for path, (value, _) in PAPER.items())


def test_how_original_runs() -> None:
    """Settings that do not decide what is learned are the schema's defaults, but for those listed."""
    sections = {field.name for field in dataclasses.fields(Config)}
    assert sections <= LEARNED | RUNNING, "say whether it decides what is learned"
    data = to_dict(load("original.yaml"))
    defaults: dict[str, Any] = {}
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        if field.name in LEARNED:
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            kind: Any = hints[field.name]
            required = {"path": ""} if field.name == "data" else {}
            defaults |= flat(dataclasses.asdict(kind(**required)), field.name)
        else:
            defaults[field.name] = None if field.default is dataclasses.MISSING else field.default
    found = {path: value for path, value in flat(data).items() if section(path) not in LEARNED}
    assert found == defaults | RUNNING_SETTINGS
