"""The data set of a run: there already, or drawn first; whether it is whole, and whether it fits the network."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.console import progress
from cluster.plan import DatasetSize
from configs.errors import UserError
from configs.schema import Config

if TYPE_CHECKING:
    from workers.data.manifest import Manifest


def dataset_size(config: Config) -> DatasetSize | None:
    """What is known of the data set without making it; None if it is not there and cannot be drawn.

    Raises UserError if it is there and damaged, or does not fit the config.
    """
    drawn = config.data.drawn_pictures
    if _is_there(config):
        manifest = load_manifest(config)
        check_fit(config, manifest)
        if drawn is not None and manifest.source.endswith(f"/{_pictures(config).name}"):
            _check_drawn(config)
        return DatasetSize(
            train_rows=manifest.splits["train"].rows,
            validation_rows=manifest.splits["validation"].rows,
            image_size=manifest.image_size,
            classes=len(manifest.classes),
        )
    if drawn is None:
        return None
    return DatasetSize(
        train_rows=10 * drawn.train_per_class,
        validation_rows=10 * drawn.validation_per_class,
        image_size=drawn.size,
        classes=10,
        drawn_first=True,
    )


def load_manifest(config: Config) -> "Manifest":
    """The manifest, from a folder or a URL. Raises UserError if it is not there, or damaged."""
    from workers.data.cache import local_folder
    from workers.data.manifest import Manifest

    return Manifest.load(local_folder(config.data))


def _is_there(config: Config) -> bool:
    """Whether a data set is there, or a folder that should be one."""
    from workers.data.storage import is_url

    folder = Path(config.data.path)
    if is_url(config.data.path) or (folder / "manifest.json").is_file():
        return True
    return folder.exists() and config.data.drawn_pictures is None


def check_fit(config: Config, manifest: "Manifest") -> None:
    """Raises UserError, with everything that does not fit, if the network cannot be trained on the data set."""
    from workers.data.draws import crop_positions

    problems = []
    for split in ("train", "validation"):
        if split not in manifest.splits or not manifest.splits[split].rows:
            problems.append(f"it has no {split} images; prepare it from a source that has some")
    if len(manifest.classes) != config.network.classes:
        problems.append(
            f"it has {len(manifest.classes)} classes, but network.classes is {config.network.classes}; "
            f"set network.classes={len(manifest.classes)}"
        )
    try:
        crop_positions(config.augment, manifest.image_size, config.network.input_size)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise UserError(f"the data set at {config.data.path} does not fit: " + "; ".join(problems))


def check_classes(run: str | Path, names: Sequence[str], config: Config, manifest: "Manifest") -> None:
    """Raises UserError if a run's network, which knows classes by these names, cannot be tested on the data set."""
    if tuple(names) != tuple(manifest.classes):
        raise UserError(
            f"{run} was trained on other classes than those of {config.data.path}, or in another order; it can be tested on a "
            "data set that has the same classes"
        )


def verify(config: Config) -> None:
    """Check that the data set fits, and its checksums unless the config says otherwise. Raises UserError if not.

    At a URL, only sizes are compared: checksums are, always, as each node fetches the shards.
    """
    from workers.data.dataset import verify_checksums
    from workers.data.storage import Remote, is_url
    from workers.data.upload import check_listing

    manifest = load_manifest(config)
    check_fit(config, manifest)
    if is_url(config.data.path):
        check_listing(Remote.at(config.data.path), manifest)
    elif config.data.verify_checksums:
        folder = Path(config.data.path)
        with progress("checksums", scale=1e6, unit="MB") as show:
            verify_checksums(folder, manifest, show)


def _pictures(config: Config) -> Path:
    """The folder beside the data set that its pictures are drawn into."""
    out = Path(config.data.path)
    return out.with_name(f"{out.name}-pictures")


def _check_drawn(config: Config) -> None:
    """Raises UserError if the pictures that are there were drawn with other settings."""
    from workers.data.pictures import drawn_as

    pictures, drawn = _pictures(config), config.data.drawn_pictures
    assert drawn is not None
    if pictures.exists() and not drawn_as(pictures, **dataclasses.asdict(drawn)):
        raise UserError(
            f"{pictures} was drawn with other settings than data.drawn_pictures has now; set data.path to another folder, or "
            f"remove this one and {config.data.path}"
        )


def draw(config: Config, ray: Any) -> None:
    """Draw the picture set into class folders beside the data set, and prepare it like anyone's pictures."""
    from cluster.ingest import prepare
    from workers.data.pictures import draw_picture_set
    from workers.data.sources import FolderSource

    drawn, out, pictures = config.data.drawn_pictures, Path(config.data.path), _pictures(config)
    assert drawn is not None, "asked to draw pictures that the config does not describe"
    if pictures.exists():
        _check_drawn(config)
    else:
        print(f"drawing pictures into {pictures}", file=sys.stderr, flush=True)
        with progress("drawing", unit="pictures") as show:
            draw_picture_set(
                pictures,
                size=drawn.size,
                train_per_class=drawn.train_per_class,
                validation_per_class=drawn.validation_per_class,
                seed=drawn.seed,
                progress=show,
            )
    with progress("preparing", unit="images") as show:
        prepare(FolderSource(pictures), out, ray_module=ray, size=drawn.size, on_progress=show)
