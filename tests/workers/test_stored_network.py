"""What comes out of a run's checkpoints, in this process and without Ray: its network, or the layers that another run takes.

Bit by bit, on any split; and what is refused.
"""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from alexnet.network import AlexNet
from configs.errors import UserError
from configs.loader import load as load_config
from configs.loader import save as save_config
from configs.loader import to_dict
from configs.schema import Config, Conv, Dense, Network, Train
from tests.alexnet.test_network import Silent
from tests.workers.columns import NETWORK, expected, make, save_whole, saver, state
from workers.checkpoint_list import committed
from workers.checkpoint_store import keyless
from workers.init_from import find_start, init_from
from workers.stored_network import config_of, find_checkpoint, load_network

PROJECT = Path(__file__).parents[2]


def config(run: Path) -> Config:
    made = load_config(None, [f"runs_folder={run.parent}", f"name={run.name}", "data.drawn_pictures=null"])
    return dataclasses.replace(made, network=NETWORK)


@pytest.fixture
def run(alone: dist.ProcessGroup, tmp_path: Path) -> Path:
    """A run's folder with checkpoints after steps 1 and 2."""
    run = tmp_path / "run"
    for step in (1, 2):
        save_whole(run / "checkpoints", alone, step, facts={"config": to_dict(keyless(config(run)))})
    save_config(config(run), run / "config.yaml")
    return run


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit by bit: the values hold NaNs."""
    return torch.equal(one.detach().view(torch.int32), other.detach().view(torch.int32))


def is_of(model: AlexNet, seed: int) -> bool:
    whole = expected(seed)
    return all(same(parameter, whole[f"{layer}.{kind}"]) for layer, kind, parameter in model.parameter_layers())


def test_of_a_run_of_a_checkpoint_and_of_a_copied_one(run: Path, tmp_path: Path) -> None:
    first = run / "checkpoints" / "step-00000001-a1"
    copied = Path(shutil.copytree(first, tmp_path / "any" / first.name))
    for where, seed in ((run, 2), (first, 1), (copied, 1), (f"file://{copied}", 1)):
        found, model = load_network(where, pytest.fail)
        assert found.network == NETWORK and model.columns == 2
        assert is_of(model, seed)


def test_outputs_are_those_of_the_network_that_was_saved(alone: dist.ProcessGroup, run: Path) -> None:
    trained, optimizer = make()
    generator = torch.Generator().manual_seed(0)
    for _, _, parameter in trained.parameter_layers():
        parameter.data.normal_(0.0, 0.1, generator=generator)
    own = saver(run / "checkpoints", trained, optimizer, alone)
    own.save({**state(3), "config": to_dict(keyless(config(run)))})
    own.wait()
    _, model = load_network(run, pytest.fail)
    images = torch.randn(2, 3, NETWORK.input_size, NETWORK.input_size, generator=generator)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), trained.eval()(images))


def test_the_newest_of_a_run_that_is_whole_or_one_that_is_named_and_must_be(run: Path) -> None:
    first, second = (run / "checkpoints" / f"step-0000000{step}-a1" for step in (1, 2))
    (second / "columns-00-to-01.safetensors").write_bytes(b"else")
    said: list[str] = []
    _, model = load_network(run, said.append)
    assert is_of(model, 1)
    assert len(said) == 1 and "step-00000002-a1 is damaged" in said[0]
    assert second.is_dir(), "who only reads moves nothing"
    with pytest.raises(UserError, match=r"step-00000002-a1 is damaged: columns-00-to-01.safetensors has 4 bytes"):
        load_network(second)
    (first / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"step-00000001-a1 is damaged: state.json cannot be understood"):
        load_network(first)


def test_one_without_a_config_takes_its_run_s(run: Path) -> None:
    """As they were before states had it."""
    file = run / "checkpoints" / "step-00000002-a1" / "state.json"
    state = json.loads(file.read_text())
    del state["config"]
    file.write_text(json.dumps(state))
    found, model = load_network(run)
    assert found == config(run) and is_of(model, 2)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="does not say which config it was made with"):
        load_network(run / "checkpoints" / "step-00000002-a1")


def test_settings_of_another_time_are_named(run: Path) -> None:
    [*_, newest] = committed(str(run / "checkpoints"))
    state = json.loads(json.dumps(newest.state))
    state["config"]["train"]["colour"] = "blue"
    with pytest.raises(UserError, match=r"settings that this version does not know:\n  train.colour"):
        config_of(dataclasses.replace(newest, state=state))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint at .*nowhere: it has no state.json"):
        load_network(tmp_path / "nowhere")
    save_config(config(tmp_path), tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"there is no checkpoint at .*/checkpoints; train the run first"):
        find_checkpoint(tmp_path, pytest.fail)


def test_it_needs_no_ray(run: Path) -> None:
    program = (
        "import sys\nsys.modules['ray'] = None  # importing it raises ImportError\n"
        "from workers.stored_network import load_network\n"
        f"print(load_network({str(run)!r})[0].name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "run", ran.stderr


# Layers that a run begins with

OTHER = dataclasses.replace(NETWORK, classes=9)
"""Another number of classes, so the classifier does not fit."""
ALL = ("conv1", "conv2", "conv3", "conv4", "fc5", "fc6", "fc7")


def train(folder: Path, *init_layers: str) -> Train:
    return Train(steps=1, init_from=str(folder), init_layers=init_layers or None)


def taken(model: AlexNet, seed: int) -> set[str]:
    """Layers of which every parameter is that of the checkpoint's seed, bit by bit; the others are as new."""
    values, found = expected(seed), set()
    new = {f"{layer}.{kind}": p for layer, kind, p in AlexNet(model.network, seed=5).parameter_layers()}
    for layer, kind, parameter in model.parameter_layers():
        owned: Any = model.parts[layer].owned
        name = f"{layer}.{kind}"
        there = values.get(name)
        if there is not None and there[owned].shape == parameter.shape and same(parameter, there[owned]):
            found.add(layer)
        else:
            assert same(parameter, new[name][owned]), name
            assert layer not in found, "half of a layer"
    return found


def model_of(column: int | None) -> AlexNet:
    """The whole network, or one column of it."""
    if column is None:
        return AlexNet(OTHER, seed=5)
    return AlexNet(OTHER, first_column=column, columns=1, exchange=Silent(2), seed=5)


@pytest.mark.parametrize("column", [None, 0, 1])
def test_all_layers_that_fit_are_taken_on_any_split(run: Path, column: int | None) -> None:
    model = model_of(column)
    start = init_from(train(run), model)
    assert start is not None and (start.taken, start.new) == (ALL, ("classifier",))
    assert taken(model, seed=2) == set(ALL)
    assert start.checkpoint.step == 2, "a run's newest checkpoint"


@pytest.mark.parametrize("column", [None, 0, 1])
def test_rows_are_found_in_whichever_file_has_them(run: Path, column: int | None) -> None:
    """A checkpoint of three processes, uneven shares, cut from that of one."""
    folder = run / "checkpoints" / "step-00000002-a1"
    content = json.loads((folder / "state.json").read_text())
    [file] = folder.glob("*.safetensors")
    tensors, entries = load_file(file), list[dict[str, Any]]()
    for number in range(3):
        cuts = {name: [len(t) * number // 3, len(t) * (number + 1) // 3] for name, t in tensors.items()}
        part = folder / f"part-{number}.safetensors"
        save_file({name: tensors[name][start:stop].clone() for name, (start, stop) in cuts.items()}, part)
        sha256 = hashlib.sha256(part.read_bytes()).hexdigest()
        entries.append({"file": part.name, "bytes": part.stat().st_size, "sha256": sha256, "rows": cuts})
    (folder / "state.json").write_text(json.dumps({**content, "files": entries}))
    model = model_of(column)
    assert init_from(train(run), model) is not None
    assert taken(model, seed=2) == set(ALL)
    del entries[2]["rows"]["conv1.weights"]
    (folder / "state.json").write_text(json.dumps({**content, "files": entries}))
    if column == 0:
        assert init_from(train(run), model) is not None
    else:
        with pytest.raises(UserError, match=r"does not hold all rows of conv1\.weights"):
            init_from(train(run), model)


def test_a_checkpoint_of_its_own_and_some_layers_only(run: Path) -> None:
    model, folder = AlexNet(OTHER, seed=5), run / "checkpoints" / "step-00000001-a1"
    start = init_from(train(folder, "conv2", "fc6"), model)
    assert start is not None
    assert taken(model, seed=1) == {"conv2", "fc6"}
    assert start.record == {
        "folder": str(folder.resolve()), "step": 1, "taken": ["conv2", "fc6"],
        "new": ["conv1", "conv3", "conv4", "fc5", "fc7", "classifier"],
    }  # fmt: skip
    assert str(start) == (f"starting from {folder}: conv2, fc6 taken, new: conv1, conv3, conv4, fc5, fc7, classifier")


def test_more_layers_and_other_widths(run: Path) -> None:
    convs: dict[str, Conv] = {**NETWORK.convs, "conv5": Conv(maps=4, kernel=1)}
    convs["conv2"] = dataclasses.replace(convs["conv2"], maps=16)
    denses: dict[str, Dense] = {name: dense for name, dense in NETWORK.denses.items() if name != "fc7"}
    model = AlexNet(dataclasses.replace(NETWORK, convs=convs, denses=denses), seed=5)
    start = init_from(train(run), model)
    assert start is not None
    # conv3 sees more maps than there, fc5 sees conv5's. The classifier sees as many units as there were in fc7.
    assert start.taken == ("conv1", "conv4", "fc6", "classifier")
    assert taken(model, seed=2) == set(start.taken)


def test_without_it_nothing_happens(run: Path) -> None:
    model = AlexNet(OTHER, seed=5)
    assert init_from(Train(steps=1), model) is None and find_start(Train(steps=1), OTHER) is None
    assert taken(model, seed=2) == set()
    same_network = find_start(train(run), NETWORK)
    assert same_network is not None and str(same_network).endswith("classifier taken, none is new")


NARROW: Network = dataclasses.replace(
    NETWORK, classes=9, convs={"other": Conv(maps=4, kernel=3)}, denses={"fc5": Dense(units=4)}
)


@pytest.mark.parametrize(
    ("where", "layers", "network", "message"),
    [
        ("nowhere", (), OTHER, r"no checkpoint at .*nowhere.*Give the folder of a run"),
        ("run/checkpoints/step-00000009", (), OTHER, "there is no checkpoint at"),
        ("run", ("conv1", "classifier"), OTHER, r"classifier\.weights has shape \[9, 16\] here, and there shape \[7, 16\]"),
        ("run", (), NARROW, r"no layer of .*step-00000002-a1 fits.*other\.weights has shape .* .*fc5\.weights"),
    ],
)  # fmt: skip
def test_refused(run: Path, where: str, layers: tuple[str, ...], network: Network, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_start(train(run.parent / where, *layers), network)


def test_damage_is_found(run: Path) -> None:
    folder = run / "checkpoints" / "step-00000002-a1"
    [file] = folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: .*take another checkpoint"):
        init_from(train(folder), AlexNet(OTHER, seed=5))
    # Of a run, the newest that is whole.
    start = init_from(train(run), AlexNet(OTHER, seed=5))
    assert start is not None and start.checkpoint.step == 1
    file.unlink()
    with pytest.raises(UserError, match="is damaged"):
        init_from(train(folder), AlexNet(OTHER, seed=5))
