"""What settings differ between two configs, and which of them make another experiment."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from configs.loader import to_dict
from configs.schema import Config

ALIKE = (
    "name",
    "runs_folder",
    "data",
    "cluster",
    "fault",
    "checkpoint",
    "compute.fused",
    "compute.channels_last",
    "compute.compile",
    "train.seed",
    "train.report_every_steps",
    "train.evaluate_every_epochs",
    "train.evaluate_batch_size",
    "train.profile_steps",
)
"""Settings that do not make another configuration: where, how fast and how often, and the seed. Data sets are told apart by
their fingerprints."""
ABSENT = "absent"
"""In place of the value of a setting, such as of a layer, that is not there."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One setting, or a section that is there in one config alone."""

    path: str
    before: Any
    after: Any


def differences(before: Any, after: Any, path: str = "") -> list[Difference]:
    """Between two configs as plain data; lists are compared as wholes."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in [*before, *(key for key in after if key not in before)]:
            at = f"{path}.{key}" if path else str(key)
            found += differences(before.get(key, ABSENT), after.get(key, ABSENT), at)
        return found
    return [] if before == after else [Difference(path=path, before=before, after=after)]


def without(settings: Any, ignored: Iterable[str], path: str = "") -> Any:
    """The same plain data without these paths."""
    if not isinstance(settings, dict):
        return settings
    kept = {}
    for key, value in settings.items():
        at = f"{path}.{key}" if path else str(key)
        if at not in ignored:
            kept[key] = without(value, ignored, at)
    return kept


def overrides(own: Config, used: Config) -> list[str]:
    """Names of settings, other than those of places and speeds, that an evaluation had otherwise than the run it tested."""
    before, after = (without(to_dict(config), ALIKE) for config in (own, used))
    return [one.path for one in differences(before, after)]
