"""The plain module: the same logits as ours and as the reference's, and of use where this project is not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alexnet.export import plain_module
from alexnet.network import AlexNet
from configs.checks import TAKEN
from tests import reference
from tests.parity.cases import CASES, TOLERANCE
from tests.parity.variants import VARIANTS

ALL = {**CASES, **VARIANTS}


def images(name: str) -> Tensor:
    side = ALL[name].network.input_size
    return torch.from_numpy(np.random.default_rng(1).normal(0, 60, (3, 3, side, side)))


def model_of(name: str) -> AlexNet:
    return AlexNet(ALL[name].network, seed=3).double().eval()


@pytest.mark.parametrize("name", ["complete", "four columns", *VARIANTS])
def test_logits_are_ours_and_the_reference_s(name: str) -> None:
    model, plain = model_of(name), plain_module(model_of(name))
    other = reference.Reference(ALL[name].network)
    other.copy_weights(model.parameter_layers())
    with torch.no_grad():
        found, ours, theirs = plain(images(name)), model(images(name)), other.eval()(images(name), {})
    allowed = TOLERANCE * float(ours.abs().max())
    assert float(ours.std()) > 1e3 * allowed
    assert float((found - ours).abs().max()) <= allowed
    assert float((found - theirs).abs().max()) <= allowed


def test_weights_are_copies_under_plain_names_in_modules_of_torch() -> None:
    model = model_of("complete")
    plain = plain_module(model)
    named = {f"{layer}.{kind[:-1].replace('biase', 'bias')}": value for layer, kind, value in model.parameter_layers()}
    shapes = ({name: value.shape[:2] for name, value in values.items()} for values in (plain.state_dict(), named))
    assert next(shapes) == next(shapes)
    with torch.no_grad():
        next(plain.parameters()).zero_()
    assert model.parameter_layers()[0][2].detach().abs().sum() > 0
    for module in (plain, plain_module(model_of("four columns"))):
        kinds = {type(part) for part in module.modules()}
        assert {kind.__module__.split(".")[0] for kind in kinds} == {"torch"}
        assert {nn.Conv2d, nn.Linear, nn.LocalResponseNorm, nn.MaxPool2d} <= kinds


def test_it_follows_the_model_s_type_and_computes_gradients() -> None:
    plain = plain_module(AlexNet(CASES["complete"].network))
    inputs = images("complete").float().requires_grad_()
    plain(inputs).square().sum().backward()
    assert inputs.grad is not None and inputs.grad.dtype == torch.float32 and float(inputs.grad.abs().sum()) > 0
    assert all(parameter.grad is not None for parameter in plain.parameters())


def test_saved_by_torch_it_loads_where_there_is_only_torch(tmp_path: Path) -> None:
    plain, name = plain_module(model_of("four columns")), "four columns"
    with torch.no_grad():
        expected = plain(images(name))
    torch.save({"module": plain, "images": images(name), "expected": expected}, tmp_path / "plain.pt")
    program = """
import sys
for package in ("alexnet", "configs", "workers", "cluster", "tests"):
    sys.modules[package] = None  # importing it raises ImportError
import torch
saved = torch.load("plain.pt", weights_only=False)
print(torch.equal(saved["module"](saved["images"]), saved["expected"]))
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout.strip() == "True", ran.stderr


def test_names_of_torch_are_refused_and_all_others_can_be_exported() -> None:
    torchs = (nn.ModuleDict(), nn.Sequential(), torch.fx.symbolic_trace(nn.Identity()))
    assert {name for module in torchs for name in dir(module) if name[0] != "_"} <= TAKEN
    network = ALL["complete"].network
    names = ["flatten", "flatten_0_activation", "flatten_overhang"]
    convs = {names[place] if place < 3 else name: conv for place, (name, conv) in enumerate(network.convs.items())}
    model = AlexNet(replace(network, convs=convs), seed=3).double().eval()
    assert torch.allclose(plain_module(model)(images("complete")), model(images("complete")))
