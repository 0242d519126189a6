"""Exported files: read by other programs, the same probabilities; read back, the same to the last bit; nothing half-written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alexnet.colour import PixelStatistics
from cluster import export, exported, predict
from cluster.network import LoadedNetwork, assemble, load_network, load_run
from configs.loader import load
from configs.schema import Compute
from tests import reference
from tests.cluster.runs import Run
from tests.cluster.test_bad_input import refused
from tests.data.pictures import jpeg
from tests.parity.cases import CASES
from tests.parity.variants import VARIANTS
from workers.data.facts import DataFacts

# As in tests/alexnet: more threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(bold: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's network as safetensors, and three photos."""
    folder = tmp_path_factory.mktemp("exported")
    assert export.main([str(bold.folder), "--to", str(folder / "bold.safetensors")]) == 0
    (folder / "photos").mkdir()
    for number in range(3):
        (folder / "photos" / f"{number}.jpg").write_bytes(jpeg(number, 28, 28))
    return folder


def predicted(network: Path, pictures: Path, out: Path) -> list[dict[str, Any]]:
    assert predict.main([str(network), str(pictures), "--top", "10", "--json", str(out)]) == 0
    found: list[dict[str, Any]] = json.loads(out.read_text())["pictures"]
    return found


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        found: dict[str, str] = opened.metadata()
    return found


def test_safetensors_alone_predict_the_same_to_the_last_bit(bold: Run, place: Path, tmp_path: Path) -> None:
    run, file = bold.folder, place / "bold.safetensors"
    expected = predicted(run, place / "photos", tmp_path / "run.json")
    assert predicted(file, place / "photos", tmp_path / "file.json") == expected
    assert len({one["top"][0]["class"] for one in expected}) > 1
    # And once more, from the file to a file.
    assert export.main([str(file), "--to", str(tmp_path / "again.safetensors")]) == 0
    before, after = load_file(file), load_file(tmp_path / "again.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert metadata_of(tmp_path / "again.safetensors") == metadata_of(file)
    # They hold the whole network and say what goes in.
    metadata = metadata_of(file)
    layers = ("conv1", "conv2", "conv3", "conv4", "fc5", "classifier")
    assert before.keys() == {"mean_image", *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))}
    assert before["conv2.weight"].shape == (32, 8, 3, 3) and before["fc5.weight"].shape == (64, 32 * 2 * 2)
    assert json.loads(metadata["classes"]) == list(load_run(run).class_names)
    assert "float32 [N, 3, 24, 24], RGB: the shorter side scaled to 28" in metadata["input"]
    assert "times 0.015625" in metadata["input"]


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_other_programs_find_the_same_probabilities(bold: Run, place: Path, tmp_path: Path, kind: str) -> None:
    """Preprocessed by the tests' own code from mean.npy, as the file's metadata says."""
    file = tmp_path / f"bold.{kind}"
    assert export.main([str(bold.folder), "--to", str(file)]) == 0
    facts = load_run(bold.folder).facts
    stored = np.stack([facts.as_stored((place / "photos" / f"{n}.jpg").read_bytes()) for n in range(3)])
    mean, offsets = np.load(bold.folder / "mean.npy"), np.full((3, 2), 2)
    images = reference.preprocessed(stored[:, 2:26, 2:26], mean, offsets, mean="centre", scale=1 / 64)
    inputs = np.ascontiguousarray(images.astype(np.float32))
    if kind == "onnx":
        onnx.checker.check_model(onnx.load(file))
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map

        def run(some: Any) -> Any:
            return session.run(["logits"], {"images": some})[0]
    else:
        extra = {"alexnet.json": ""}
        module = torch.export.load(file, extra_files=extra).module()
        metadata = json.loads(extra["alexnet.json"])

        def run(some: Any) -> Any:
            return module(torch.from_numpy(some)).detach().numpy()

    assert json.loads(metadata["classes"]) == list(facts.classes)
    expected = predicted(bold.folder, place / "photos", tmp_path / "run.json")
    for count in (3, 1):
        logits = run(inputs[:count])
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        found = exponentials / exponentials.sum(axis=1, keepdims=True)
        for number in range(count):
            for one in expected[number]["top"]:
                assert found[number, one["number"]] == pytest.approx(one["probability"], rel=1e-4, abs=1e-7)


def made_up(name: str) -> LoadedNetwork:
    """A network of the parity tests, with weights as they start."""
    network = {**CASES, **VARIANTS}[name].network
    size = network.input_size + 6
    statistics = PixelStatistics(
        mean_SSC=np.random.default_rng(0).uniform(90, 150, (size, size, 3)).astype(np.float32),
        eigenvalues=(1.0, 1.0, 1.0),
        eigenvectors=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    )
    classes = tuple(f"class {number}" for number in range(network.classes))
    facts = DataFacts(classes=classes, image_size=size, encoding="raw", fingerprint="made up", statistics=statistics)
    augment = dataclasses.replace(load().augment, mean="channel")
    return assemble(network, augment, facts, source=name, updates=7, compute=Compute(), device="cpu")


@pytest.mark.parametrize("name", ["complete", "four columns", "caffe", "fall2011", "cifar10_13pct", "local columns"])
@pytest.mark.parametrize("kind", ["safetensors", "onnx", "pt2"])
def test_every_feature_of_the_schema_can_be_exported(name: str, kind: str, tmp_path: Path) -> None:
    loaded, file = made_up(name), tmp_path / f"made.{kind}"
    difference = getattr(exported, f"write_{kind}")(loaded, file)
    assert difference <= exported.TOLERANCE
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert "minus the mean colour" in exported.input_in_words(loaded)
    if kind == "safetensors":
        again = load_network(file)
        assert (again.network, again.augment, again.updates) == (loaded.network, loaded.augment, 7)
        assert again.class_names == loaded.class_names


def test_bad_input(
    bold: Run, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, there = str(bold.folder), tmp_path / "there.onnx"
    there.write_text("mine")
    for command, words in (
        ([run, "--to", "model.pkl"], "must end in one of .safetensors, .onnx, .pt2"),
        ([run, "--to", str(there)], "is there already"),
        ([run, "--to", str(tmp_path / "none" / "a.onnx")], "there is no folder"),
        ([str(tmp_path), "--to", str(tmp_path / "a.onnx")], "is not the folder of a run"),
        ([str(tmp_path / "a.safetensors"), "--to", str(tmp_path / "a.onnx")], "there is no file"),
    ):
        assert words in refused(capsys, command, module=export)
    assert there.read_text() == "mine"
    monkeypatch.setattr(exported, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    told = refused(capsys, [run, "--to", str(tmp_path / "a.onnx")], module=export)
    assert "needs no_such_package" in told and "pip install -e '.[export]'" in told


def test_foreign_and_damaged_safetensors_and_a_network_that_gives_no_numbers(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, file = str(place / "photos" / "0.jpg"), tmp_path / "a.safetensors"
    whole, metadata = (place / "bold.safetensors").read_bytes(), metadata_of(place / "bold.safetensors")
    tensors = load_file(place / "bold.safetensors")
    save_file({"weight": torch.zeros(3)}, file)
    assert "was not written by `python -m cluster.export`" in refused(capsys, [str(file), photo], module=predict)
    for content in (whole[:-1], whole[:100], b""):
        file.write_bytes(content)
        assert "is damaged" in refused(capsys, [str(file), photo], module=predict)
    for change in ({"network": "{}"}, {"preprocess": "{"}, {"updates": "many"}):
        save_file(tensors, file, {**metadata, **change})
        assert "is damaged" in refused(capsys, [str(file), photo], module=predict)
    save_file({name: tensor for name, tensor in tensors.items() if name != "conv1.bias"}, file, metadata)
    assert "is damaged" in refused(capsys, [str(file), photo], module=predict)
    tensors["conv3.bias"][0] = float("nan")
    save_file(tensors, file, metadata)
    assert export.main([str(file), "--to", str(tmp_path / "broken.pt2")]) == 1
    assert "broken.pt2 was not written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
