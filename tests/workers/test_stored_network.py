"""A network from a checkpoint, in this process and without Ray, is the one that was saved."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alexnet.network import AlexNet
from configs.errors import UserError
from configs.loader import load as load_config
from configs.loader import save as save_config
from configs.loader import to_dict
from configs.schema import Config
from tests.workers.columns import NETWORK, expected, make, save_whole, saver, state
from workers.checkpoint_list import committed
from workers.checkpoint_store import keyless
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


def same(model: AlexNet, seed: int) -> bool:
    whole = expected(seed)
    return all(
        torch.equal(parameter.data.view(torch.int32), whole[f"{layer}.{kind}"].view(torch.int32))
        for layer, kind, parameter in model.parameter_layers()
    )


def test_of_a_run_of_a_checkpoint_and_of_a_copied_one(run: Path, tmp_path: Path) -> None:
    alone_standing = Path(
        shutil.copytree(run / "checkpoints" / "step-00000001-a1", tmp_path / "any" / "step-00000001-a1")
    )
    for where, seed in (
        (run, 2),
        (run / "checkpoints" / "step-00000001-a1", 1),
        (alone_standing, 1),
        (f"file://{alone_standing}", 1),
    ):
        found, model = load_network(where, pytest.fail)
        assert found.network == NETWORK and model.columns == 2
        assert same(model, seed)


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


def test_the_newest_of_a_run_that_is_whole(run: Path) -> None:
    (run / "checkpoints" / "step-00000002-a1" / "columns-00-to-01.safetensors").write_bytes(b"else")
    said: list[str] = []
    _, model = load_network(run, said.append)
    assert same(model, 1)
    assert len(said) == 1 and "step-00000002-a1 is damaged" in said[0]
    assert (run / "checkpoints" / "step-00000002-a1").is_dir(), "who only reads moves nothing"


def test_one_that_is_named_must_be_whole(run: Path) -> None:
    (run / "checkpoints" / "step-00000002-a1" / "columns-00-to-01.safetensors").write_bytes(b"else")
    with pytest.raises(
        UserError, match=r"step-00000002-a1 is damaged: columns-00-to-01.safetensors has 4 bytes instead"
    ):
        load_network(run / "checkpoints" / "step-00000002-a1")
    (run / "checkpoints" / "step-00000001-a1" / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"step-00000001-a1 is damaged: state.json cannot be understood"):
        load_network(run / "checkpoints" / "step-00000001-a1")


def test_one_without_a_config_takes_its_run_s(run: Path) -> None:
    """As they were before states had it."""
    file = run / "checkpoints" / "step-00000002-a1" / "state.json"
    state = json.loads(file.read_text())
    del state["config"]
    file.write_text(json.dumps(state))
    found, model = load_network(run)
    assert found == config(run) and same(model, 2)
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
