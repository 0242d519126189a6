"""A run's folder: its config, log, checkpoints and result; and whether a command begins, continues or has completed it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.provenance import note_start
from configs.errors import UserError
from configs.loader import save, to_dict
from configs.schema import Config

if TYPE_CHECKING:
    from workers.checkpoint import Checkpoint

# A run may go on with other values of these: where and how fast it runs, how long, and what is kept.
CHANGEABLE = (
    "cluster.",
    "compute.",
    "checkpoint.",
    "runs_folder",
    "data.path",
    "data.verify_checksums",
    "data.cache_folder",
    "data.cache_gigabytes",
    "data.max_corrupt_records",
    "train.epochs",
    "train.steps",
    "train.report_every_steps",
)


class RunFolder:
    """`config.yaml` (all settings), `environment.json` (what each start ran on), `log.jsonl` (one report per line), `events/`
    (the same for TensorBoard), `checkpoints/`, and at the end `result.json`."""

    def __init__(self, config: Config) -> None:
        self.path = Path(config.runs_folder) / config.name
        self.config = config
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.jsonl"
        self.events = self.path / "events"

    def result(self) -> dict[str, Any] | None:
        """Of the last time that the run came to the end of its program; None if it never did."""
        return _read_json(self.path / "result.json")

    def check_same_experiment(self) -> None:
        """Raises UserError if the folder holds a run with other settings that change what is learned."""
        file = self.path / "config.yaml"
        if not file.is_file():
            return
        try:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"{file} is damaged ({error}); choose another name (name=...) or remove {self.path}"
            ) from None
        then, now = _flat(before), _flat(to_dict(self.config))
        changed = [
            f"  {key}: {then.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted({*then, *now})
            if then.get(key) != now.get(key) and not key.startswith(CHANGEABLE)
        ]
        if changed:
            raise UserError(
                f"{self.path} holds a run with other settings:\n"
                + "\n".join(changed)
                + f"\ngive this one another name (name={self.config.name}-2), or remove that folder"
            )

    def open(self) -> None:
        """Make the folder, and write the config and what this process runs on."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            save(self.config, self.path / "config.yaml")
            note_start(self.path)
        except OSError as error:
            raise UserError(f"the run's folder {self.path} cannot be written: {error}") from None

    def latest(self) -> "Checkpoint | None":
        """The newest committed checkpoint. Raises UserError if there is a damaged one."""
        from workers.checkpoint import committed

        found = committed(self.checkpoints)
        return found[-1] if found else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        temporary = self.path / "result.tmp"
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
        temporary.replace(self.path / "result.json")


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    return {
        path: value
        for key, below in data.items()
        for path, value in _flat(below, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
