"""What Ray's dashboard shows of a run's job."""

from collections.abc import Iterable
from pathlib import Path

from cluster.dataset import load_manifest
from cluster.provenance import commit
from configs.errors import UserError
from configs.schema import Config
from workers.data.storage import without_keys, without_keys_in


def job_metadata(config: Config, config_path: str | None, settings: Iterable[str]) -> dict[str, str]:
    """Run, config, settings that differ from it, commit, data set and folder, in words."""
    try:
        fingerprint = load_manifest(config).fingerprint
    except UserError:
        fingerprint = "drawn when the run starts"
    return {
        "run": config.name,
        "config": config_path or "demo.yaml",
        "settings": without_keys_in(" ".join(settings)),
        "commit": commit() or "no checkout",
        "data": without_keys(config.data.path),
        "data fingerprint": fingerprint,
        "run folder": str(Path(config.runs_folder, config.name).resolve()),
    }
