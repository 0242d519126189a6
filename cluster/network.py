"""A trained network in this process, without Ray: from a run's folder, one of its checkpoints, or an exported file."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import UserError
from configs.loader import load
from configs.schema import Augment, Compute, Config, Network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from alexnet.augment import Preprocess
    from alexnet.network import AlexNet
    from alexnet.step import Step
    from workers.checkpoint import Checkpoint
    from workers.data.facts import DataFacts

Device = Literal["auto", "cuda", "cpu"]


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """The whole network, all columns of it, on one device, in its testing form."""

    source: str
    """The checkpoint's folder, or the exported file."""
    updates: int
    """That its weights have had."""
    network: Network
    augment: Augment
    config: Config | None
    """All settings of the run; None if it comes from an exported file, which holds the two above alone."""
    facts: "DataFacts"
    """Of the data set that it was trained on."""
    step: "Step"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.facts.classes

    @property
    def model(self) -> "AlexNet":
        return self.step.model

    @property
    def preprocess(self) -> "Preprocess":
        return self.step.preprocess

    def probabilities(
        self, images_BSSC: "NDArray[np.uint8] | Sequence[NDArray[np.uint8]]", views: Literal[1, 10]
    ) -> "Tensor":
        """Of all classes, [B, classes], on the network's device.

        images: uint8 [B, S, S, 3] RGB of the stored size, or a sequence of B such images (see `DataFacts.as_stored`).
        views: of each; the centre, or the mean of four corners and the centre with their mirror images.
        """
        import numpy as np
        import torch

        from alexnet.precision import set_precision

        set_precision(self.step.precision)
        images = torch.from_numpy(np.ascontiguousarray(images_BSSC)).to(self.preprocess.mean_SSC.device)
        return self.step.probabilities(images, views)


def load_network(path: str | Path, settings: Iterable[str] = (), *, device: Device = "auto") -> LoadedNetwork:
    """From a run's folder (its newest checkpoint), a checkpoint's folder inside a run's, or an exported .safetensors file.

    settings: `key=value` that differ from the run's, such as data.path, where an older run finds class names and mean image.
    device: auto takes a GPU if there is one. Raises UserError, with what to do, if there is no network or it is damaged.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from cluster.exported import read_safetensors

        if list(settings):
            raise UserError(f"{path} is an exported network, which has no settings to change; name a run instead")
        return read_safetensors(path, device=device)
    return load_run(path, settings, device=device)


def load_run(path: str | Path, settings: Iterable[str] = (), *, device: Device = "auto") -> LoadedNetwork:
    """As `load_network`, of a run's folder or a checkpoint's."""
    from workers.checkpoint import load as load_weights

    run, wanted = find_run(path)
    config = load(run / "config.yaml", settings)
    checkpoint = find_checkpoint(run, config, wanted)
    facts = facts_of(run, config, checkpoint)
    if len(facts.classes) != config.network.classes:
        raise UserError(f"{run} has {config.network.classes} classes, but its data set has {len(facts.classes)}")
    loaded = assemble(
        config.network,
        config.augment,
        facts,
        source=checkpoint.folder,
        updates=checkpoint.step,
        compute=config.compute,
        device=device,
    )
    load_weights(checkpoint, loaded.model)
    return replace(loaded, config=config)


def assemble(
    network: Network,
    augment: Augment,
    facts: "DataFacts",
    *,
    source: str,
    updates: int,
    compute: Compute,
    device: Device,
) -> LoadedNetwork:
    """All parts put together, with weights still to be loaded."""
    import torch

    from alexnet.augment import Preprocess
    from alexnet.layout import channels_last
    from alexnet.network import AlexNet
    from alexnet.step import Step

    if network.input_size > facts.image_size:
        raise UserError(
            f"{source} sees crops of {network.input_size}, but its data set has images of {facts.image_size} pixels a side"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use here; leave --device out, or give --device cpu")
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model = AlexNet(network).to(place).eval()
    if compute.channels_last:
        model = channels_last(model)
    last = compute.channels_last
    preprocess = Preprocess(augment, facts.statistics, network.input_size, channels_last=last).to(place)
    step = Step(model, preprocess, None, None, compute.precision)
    return LoadedNetwork(
        source=source, updates=updates, network=network, augment=augment, config=None, facts=facts, step=step
    )


def find_run(path: str | Path) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint's if that was given. Raises UserError if it is neither."""
    path = Path(path)
    if (path / "config.yaml").is_file():
        return path, None
    run = path.absolute().parent.parent
    if (path / "state.json").is_file():
        if (run / "config.yaml").is_file():
            return path.parent.parent if len(path.parts) > 2 else run, path
        raise UserError(
            f"{path} is a checkpoint outside the folder of its run: {run / 'config.yaml'}, which says what network it is, is not "
            "there; copy the run's folder as a whole, or export the network (python -m cluster.export)"
        )
    what = "it is a file" if path.is_file() else "has no config.yaml" if path.is_dir() else "there is no such folder"
    raise UserError(f"{path} is not the folder of a run ({what}); runs are in runs/ unless told otherwise")


def find_checkpoint(run: Path, config: Config, wanted: str | Path | None) -> "Checkpoint":
    """The newest whole one of a run's checkpoints, or the one at folder or URL `wanted`.

    Raises UserError if there is none.
    """
    from cluster.console import progress
    from workers.stored_network import checkpoint_at, newest_of_run

    if wanted is not None:
        return checkpoint_at(str(wanted))
    with progress("checking the checkpoint", scale=1e6, unit="MB") as show:
        return newest_of_run(run, config, lambda text: print(f"note: {text}", file=sys.stderr, flush=True), show)


def keep_facts(run: Path, config: Config) -> None:
    """Put what prediction needs of the data set into a run's folder. Raises UserError if that cannot be written."""
    from workers.data.cache import local_folder
    from workers.data.facts import DataFacts
    from workers.data.manifest import Manifest

    folder = local_folder(config.data)
    try:
        DataFacts.of(Manifest.load(folder), folder).keep(run)
    except OSError as error:
        raise UserError(f"the run's folder {run} cannot be written: {error}") from None


def facts_of(run: Path, config: Config, checkpoint: "Checkpoint") -> "DataFacts":
    """What the run's folder keeps, or the data set says. Raises UserError if neither is there, or it is another data set's."""
    from workers.data.cache import local_folder
    from workers.data.facts import FILE, DataFacts
    from workers.data.manifest import Manifest

    facts, where = DataFacts.load(run), str(run / FILE)
    if facts is None:
        where = config.data.path
        try:
            folder = local_folder(config.data)
            facts = DataFacts.of(Manifest.load(folder), folder)
        except UserError as error:
            raise UserError(
                f"{run} keeps no class names and mean image ({FILE}), and the data set has none to offer: {error} If it lies "
                "elsewhere, say where with data.path=... (predict and export: --data DIR)"
            ) from None
    trained_on: Any = checkpoint.state.get("dataset", facts.fingerprint)
    if facts.fingerprint != trained_on:
        raise UserError(
            f"{where} belongs to another data set than the one that {checkpoint.folder} was trained on (their fingerprints "
            "differ); say where that one is with data.path=... (predict and export: --data DIR)"
        )
    return facts
