"""Testing several networks at once, and by class: whole networks in this process, without Ray, each image decoded once for all.

The members' probabilities are averaged over views, then over networks [P 6, authors' avg-test.py]. One network without
`--by-class` or `--confusion` is tested by the actors of its run instead (cluster/evaluation.py); the two differ by the rounding
of float32 sums that are taken in another order.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.class_errors import check_picture, class_tables, draw_confusion
from cluster.console import errors_table, print_plan, progress
from cluster.cpus import usable_cpus
from cluster.dataset import check_classes
from cluster.evaluations import ERRORS, as_json, keep
from cluster.network import LoadedNetwork, find_run, load_run
from cluster.paths import check_file
from cluster.prediction import MOST_THREADS, ahead, write_json
from cluster.settings import overrides
from configs.errors import UserError
from configs.loader import load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from alexnet.tally import Tally
    from configs.schema import Config, Data
    from workers.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of an evaluation."""

    views: Literal[1, 10] = 1
    weights: Sequence[float] | None = None
    """Of each network; None: all the same."""
    by_class: bool = False
    confusion: Path | None = None
    """A PNG to draw."""
    json_file: str | None = None


def run_ensemble(runs: Sequence[str], settings: Sequence[str], wanted: Wanted) -> int:
    """Test networks and their ensemble on the validation set that they share; returns 0.

    runs: folders of runs or checkpoints. settings: `key=value` that differ from those of every run.
    Raises UserError for wrong input.
    """
    weights = _weights(wanted.weights, len(runs))
    if wanted.json_file is not None:
        check_file(wanted.json_file, "--json")
    if wanted.confusion is not None:
        check_picture(wanted.confusion)
    configs = [load(find_run(run)[0] / "config.yaml", settings) for run in runs]
    manifests = _manifests(runs, configs)
    manifest = manifests[0]
    _verify(configs[0].data, manifest)
    networks = []
    for run, config in zip(runs, configs, strict=True):
        networks.append(load_run(run, settings, device=configs[0].cluster.device))
        check_classes(run, networks[-1].class_names, config, manifest)
    members, ensemble = _test(networks, weights, configs[0], manifest, wanted)
    _tell(runs, networks, weights, members, ensemble, manifest, configs[0].data.path, wanted)
    _keep(runs, networks, manifests, weights, members, ensemble, configs[0].data.path, wanted.views)
    return 0


def _weights(wanted: Sequence[float] | None, runs: int) -> list[float]:
    weights = [1.0] * runs if wanted is None else list(wanted)
    if len(weights) != runs:
        raise UserError(f"--weights has {len(weights)} numbers for {runs} networks; give one for each, in their order")
    if sum(weights) <= 0:
        raise UserError("--weights are all 0; at least one must be more")
    return weights


def _manifests(runs: Sequence[str], configs: "Sequence[Config]") -> "list[Manifest]":
    """Of each run's data set. Raises UserError if one is not there, or their validation sets differ."""
    from cluster.dataset import check_fit, load_manifest

    manifests = []
    for config in configs:
        manifests.append(load_manifest(config))
        check_fit(config, manifests[-1])
    for run, config, manifest in zip(runs, configs, manifests, strict=True):
        if validation_fingerprint(manifest) != validation_fingerprint(manifests[0]):
            raise UserError(
                f"{run} and {runs[0]} have different validation sets ({config.data.path} and {configs[0].data.path}: the "
                "fingerprints of their validation images, labels and classes differ); data.path=... names one data set for all"
            )
    return manifests


def validation_fingerprint(manifest: "Manifest") -> str:
    """SHA-256, in hex, of what a test's errors depend on: the validation images in their order, labels, classes."""
    shards = [(shard.rows, shard.sha256) for shard in manifest.splits["validation"].shards]
    content = [manifest.image_size, manifest.encoding, list(manifest.classes), shards]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _verify(data: "Data", manifest: "Manifest") -> None:
    """Check the checksums of the validation shards, unless they come from a URL: then that is done as they arrive."""
    from workers.data.dataset import verify_checksums
    from workers.data.storage import is_url

    if data.verify_checksums and not is_url(data.path):
        alone = replace(manifest, splits={"validation": manifest.splits["validation"]})
        with progress("checksums", scale=1e6, unit="MB") as show:
            verify_checksums(data.path, alone, show)


def _test(
    networks: Sequence[LoadedNetwork],
    weights: list[float],
    config: "Config",
    manifest: "Manifest",
    wanted: Wanted,
) -> "tuple[list[Tally], Tally]":
    """Of each network, and of all together; of these, if it is asked for, also which class is taken for which."""
    import torch

    from alexnet.tally import Tally, weighted_mean

    place, classes = networks[0].preprocess.mean_SSC.device, len(manifest.classes)
    members = [Tally(classes, place) for _ in networks]
    ensemble = Tally(classes, place, pairs=wanted.by_class or wanted.confusion is not None)
    rows, done = manifest.splits["validation"].rows, 0
    with progress("testing", unit="images") as show:
        for images, labels in validation_batches(config.data, manifest, config.train.evaluate_batch_size):
            labels_B = torch.from_numpy(labels).to(place)
            found = [network.probabilities(images, wanted.views) for network in networks]
            for tally, probabilities in zip(members, found, strict=True):
                tally.add(probabilities, labels_B)
            ensemble.add(weighted_mean(found, weights), labels_B)
            done += len(labels)
            show(done, rows)
    return members, ensemble


def validation_batches(
    data: "Data", manifest: "Manifest", batch: int
) -> "Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]":
    """Whole validation images uint8 [B, S, S, 3] and labels int64 [B], in their order; the last batch may be smaller.

    Raises UserError if an image or a shard is damaged.
    """

    import numpy as np

    from workers.data.cache import open_data
    from workers.data.dataset import Dataset

    folder, cache = open_data(data)
    dataset, size = Dataset(folder, "validation", manifest, cache.fetch if cache else None), manifest.image_size

    def read(rows: range) -> "tuple[NDArray[np.uint8], NDArray[np.int64]]":
        images = np.empty((len(rows), size, size, 3), np.uint8)
        dataset.will_need(rows)
        for image, row in zip(images, rows, strict=True):
            dataset.decode_into(row, image)
        return images, np.array([dataset.label(row) for row in rows], np.int64)

    threads = min(MOST_THREADS, usable_cpus())
    starts = (range(start, min(start + batch, len(dataset))) for start in range(0, len(dataset), batch))
    for _, both in ahead(read, starts, threads=threads, waiting=threads + 1):
        yield both


def _tell(
    runs: Sequence[str],
    networks: Sequence[LoadedNetwork],
    weights: list[float],
    members: "list[Tally]",
    ensemble: "Tally",
    manifest: "Manifest",
    data: str,
    wanted: Wanted,
) -> None:
    what = "centre view" if wanted.views == 1 else "ten views"
    several = len(networks) > 1
    rows = [
        (f"{run}, step {network.updates:,}{f', weight {weight:g}' if wanted.weights else ''}", tally.errors())
        for run, network, weight, tally in zip(runs, networks, weights, members, strict=True)
    ]
    if several:
        rows.append((f"ensemble of {len(networks)}", ensemble.errors()))
    errors_table(rows)
    print_plan([("validation", f"{what} of each image"), ("data", data)])
    classes = ensemble.by_class() if wanted.by_class else []
    if wanted.by_class:
        class_tables(manifest.classes, classes)
    if wanted.confusion is not None:
        assert ensemble.taken_CC is not None, "it is counted where a picture is asked for"
        draw_confusion(manifest.classes, ensemble.taken_CC.cpu().numpy(), wanted.confusion)
        print_plan([("confusion", str(wanted.confusion))])
    if wanted.json_file is None:
        return
    each = [
        {"checkpoint": network.source, "updates": network.updates, "weight": weight, **tally.errors()}
        for network, weight, tally in zip(networks, weights, members, strict=True)
    ]
    content = as_json(wanted.views, data, ensemble.errors(), each)
    if wanted.by_class:
        content["by_class"] = [
            {"class": name, **found, "most_taken_for": _named(found["most_taken_for"], manifest.classes)}
            for name, found in zip(manifest.classes, classes, strict=True)
        ]
    write_json(wanted.json_file, content)


def _keep(
    runs: Sequence[str],
    networks: Sequence[LoadedNetwork],
    manifests: "Sequence[Manifest]",
    weights: list[float],
    members: "list[Tally]",
    ensemble: "Tally",
    data: str,
    views: int,
) -> None:
    """Put each run's errors, and those of all together, into the folders of the runs."""
    folders = [find_run(run)[0] for run in runs]
    configs = [network.config for network in networks]
    other = [overrides(load(run / "config.yaml"), one) for run, one in zip(folders, configs, strict=True) if one]
    together: dict[str, Any] = {"members": [network.source for network in networks], "weights": weights}
    together["pretrained"] = [one is not None and one.train.init_from is not None for one in configs]
    together |= {"overrides": sorted({path for paths in other for path in paths})}
    together |= {key: ensemble.errors()[key] for key in ERRORS}
    for run, network, manifest, own, tally in zip(folders, networks, manifests, other, members, strict=True):
        about = {"step": network.updates, "views": views, "data": data, "dataset": manifest.fingerprint}
        alone = {"checkpoint": network.source, "overrides": own} | {key: tally.errors()[key] for key in ERRORS}
        keep(run, about | alone)
        if len(runs) > 1:
            keep(run, about | together)


def _named(taken: tuple[int, int] | None, names: Sequence[str]) -> dict[str, Any] | None:
    return None if taken is None else {"class": names[taken[0]], "images": taken[1]}
