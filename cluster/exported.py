"""A trained network as one file: safetensors, which this project reads back, ONNX, or torch's own .pt2.

Each is read again and compared before it gets its name. All three hold the testing form: preprocessed images in, logits out.
What the images must be stands in the file, in words (`input`) and in numbers: class names, mean image or its mean colour, sizes.
"""

import importlib.util
import json
import os
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.failures import RunFailed
from cluster.network import Device, LoadedNetwork, assemble
from configs.errors import UserError
from configs.schema import Augment, Compute, Network

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = "1"
MEAN = "mean_image"
"""Name of the mean image among the weights; no layer's parameter has a name without a dot."""
INPUT, OUTPUT = "images", "logits"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
COMPARED_IMAGES = 3
TOLERANCE = 1e-4
"""Of the largest logit's magnitude: float32 has 7 digits; sums of up to 10,000 terms in another order, eight layers deep, cost
two of them. Anything that is wrong shows in the third digit or before."""

Outputs = Callable[["Tensor"], "Tensor"]
"""The logits of an exported file's network."""


def describe(loaded: LoadedNetwork) -> dict[str, str]:
    """What goes into a file beside the weights."""
    from pydantic import TypeAdapter

    return {
        "format": "pt",
        "made_by": "two-column-alexnet",
        "format_version": FORMAT_VERSION,
        "input": input_in_words(loaded),
        "output": f"logits [N, {len(loaded.class_names)}] in the order of `classes`; probabilities are their softmax",
        "classes": json.dumps(loaded.class_names, ensure_ascii=False),
        "network": TypeAdapter(Network).dump_json(loaded.network).decode(),
        "augment": TypeAdapter(Augment).dump_json(loaded.augment).decode(),
        "preprocess": json.dumps(loaded.facts.to_json(), ensure_ascii=False),
        "mean_rgb": json.dumps([round(value, 6) for value in _mean_rgb(loaded)]),
        "updates": str(loaded.updates),
    }


def input_in_words(loaded: LoadedNetwork) -> str:
    """How a picture becomes the network's input."""
    side, size = loaded.network.input_size, loaded.facts.image_size
    mean = {
        "centre": "minus the central part of the mean image",
        "position": "minus the part of the mean image that the crop covers",
        "channel": f"minus the mean colour {', '.join(f'{value:.3f}' for value in _mean_rgb(loaded))}",
    }[loaded.augment.mean]
    scale = "" if loaded.augment.pixel_scale == 1 else f", times {loaded.augment.pixel_scale:g}"
    return (
        f"float32 [N, 3, {side}, {side}], RGB: the shorter side scaled to {size}, the central {size}x{size} cut out, of that the "
        f"central {side}x{side}; values 0..255 {mean}{scale}"
    )


def write_safetensors(loaded: LoadedNetwork, path: Path) -> float:
    """Write all that `read_safetensors` needs; returns the largest difference of its logits, 0 of course.

    Raises UserError if it cannot be written, RunFailed if what was written is not what is in memory.
    """
    import torch
    from safetensors.torch import save

    plain = _plain(loaded)
    mean = torch.from_numpy(loaded.facts.statistics.mean_SSC)
    tensors = {**{name: tensor.contiguous() for name, tensor in plain.state_dict().items()}, MEAN: mean.contiguous()}

    def write(temporary: Path) -> Outputs:
        temporary.write_bytes(save(tensors, describe(loaded)))
        again = _plain(read_safetensors(temporary, device="cpu"))
        return lambda images: again(images)

    return _commit(path, write, loaded)


def write_pt2(loaded: LoadedNetwork, path: Path) -> float:
    """Write what `torch.export.load(FILE).module()` makes a module of, where there is only torch; else as `write_safetensors`."""
    import torch

    plain, example = _plain(loaded), _example(loaded)

    def write(temporary: Path) -> Outputs:
        batch = torch.export.Dim("batch")
        program = torch.export.export(plain, (example,), dynamic_shapes=({0: batch},))
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files={"alexnet.json": json.dumps(describe(loaded))})
        with temporary.open("rb") as file:
            again = torch.export.load(file).module()
        return lambda images: again(images)

    return _commit(path, write, loaded)


def write_onnx(loaded: LoadedNetwork, path: Path) -> float:
    """Write an ONNX model in one file, run it in onnxruntime; returns the largest difference of its logits.

    Raises UserError if a package is missing or the file cannot be written, RunFailed if the logits differ.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"an .onnx file needs {', '.join(missing)}, which is not installed here; install the project with its extra "
            "`export`: pip install -e '.[export]'"
        )
    import torch

    plain, example = _plain(loaded), _example(loaded)

    def write(temporary: Path) -> Outputs:
        import onnxruntime

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's parts for each other
            program = torch.onnx.export(
                plain,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(describe(loaded))
        program.save(str(temporary), external_data=False)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return _commit(path, write, loaded)


def read_safetensors(path: str | Path, *, device: Device = "auto") -> LoadedNetwork:
    """The network that `write_safetensors` wrote. Raises UserError if it is not there, damaged, or something else."""
    import torch
    from pydantic import TypeAdapter
    from safetensors import SafetensorError, safe_open

    from workers.data.facts import DataFacts

    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("made_by") != "two-column-alexnet":
                raise UserError(
                    f"{path} was not written by `python -m cluster.export`: it does not say what network it is and what it was "
                    "trained on"
                )
            if metadata["format_version"] != FORMAT_VERSION:
                raise UserError(
                    f"{path} was written by another version of this program; use that version, or export again"
                )
            network = TypeAdapter(Network).validate_json(metadata["network"], strict=True)
            augment = TypeAdapter(Augment).validate_json(metadata["augment"], strict=True)
            facts = DataFacts.from_json(json.loads(metadata["preprocess"]), file.get_tensor(MEAN).numpy())
            loaded = assemble(
                network,
                augment,
                facts,
                source=str(path),
                updates=int(metadata["updates"]),
                compute=Compute(),
                device=device,
            )
            with torch.no_grad():
                for layer, kind, parameter in loaded.model.parameter_layers():
                    stored = file.get_tensor(f"{layer}.{'weight' if kind == 'weights' else 'bias'}")
                    parameter.copy_(stored.view_as(parameter))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} is damaged ({lines[0]}); restore it from a copy, or export the network again"
        ) from None
    return loaded


def _plain(loaded: LoadedNetwork) -> Any:
    """The network on the CPU, in plain torch, contiguous."""
    from alexnet.export import plain_module

    return plain_module(loaded.model).cpu()


def _example(loaded: LoadedNetwork) -> "Tensor":
    """Preprocessed images of random pixels, float32 on the CPU."""
    import torch

    preprocess, crop = loaded.preprocess, loaded.network.input_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COMPARED_IMAGES, crop, crop, 3), generator=generator, dtype=torch.uint8)
    place = preprocess.mean_SSC.device
    offsets = torch.full((COMPARED_IMAGES, 2), (loaded.facts.image_size - crop) // 2, device=place)
    return preprocess(pixels.to(place), offsets).cpu().contiguous()


def _commit(path: Path, write: Callable[[Path], Outputs], loaded: LoadedNetwork) -> float:
    """Write a file beside `path`, compare its logits with our own, and give it its name only if they are the same.

    Compared on three images at once and on one, for the batch may have any size. Returns the largest difference.
    """
    import torch

    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        outputs, worst = write(temporary), 0.0
        images, place = _example(loaded), loaded.preprocess.mean_SSC.device
        for some in (images, images[:1]):
            with torch.no_grad():
                ours = loaded.model(some.to(place)).float().cpu()
                theirs = outputs(some)
            difference, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
            if not difference <= TOLERANCE * largest:
                raise RunFailed(
                    f"{path} was not written: the exported network's logits differ from ours by {difference:.3g}, where the "
                    f"largest is {largest:.3g} and {TOLERANCE:g} of that is allowed"
                )
            worst = max(worst, difference)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return worst


def _mean_rgb(loaded: LoadedNetwork) -> list[float]:
    means: list[float] = loaded.facts.statistics.mean_SSC.mean(axis=(0, 1), dtype="float64").tolist()
    return means
