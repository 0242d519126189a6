"""From YAML files and command-line overrides to a checked `Config`, with all errors in one message."""

import copy
import dataclasses
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from configs import schema
from configs.checks import PLACES, impossible_combinations
from configs.errors import UserError

BUILT_IN = Path(__file__).parent
FOLDERS = (BUILT_IN, BUILT_IN / "variants")
"""Where built-in experiments are; other folders beside them hold other things."""
DEFAULT = BUILT_IN / "demo.yaml"


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`, which the base class resolves
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key}` stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot in a number with an exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load(path: str | Path | None = None, overrides: Iterable[str] = ()) -> schema.Config:
    """The config in `path` (default: the built-in demo) with `key.subkey=value` overrides applied.

    A path that does not exist is looked up by its name among the built-in configs as well. Raises UserError with
    every error found, each with its path and what to change.
    """
    file = _find(path)
    data = _read(file, ())
    problems: list[str] = []
    for override in overrides:
        problem = _override(data, override)
        if problem:
            problems.append(problem)
    config, found = parse(data)
    problems += found
    if problems or config is None:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{file} cannot be run as it is:\n{listed}")
    return config


def parse(data: Mapping[str, Any]) -> tuple[schema.Config | None, list[str]]:
    """A config from plain data, and all problems found in it. The config is None only if there is a problem."""
    adapter = TypeAdapter(schema.Config)
    data = _without_removed_layers(data)
    _expand_home(data)
    try:
        config = adapter.validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        # What is impossible in the rest should be said in the same breath, so try again without the culprits. The last goes
        # first, so that those before it in a list keep their places.
        remaining = copy.deepcopy(data)
        for item in reversed(error.errors()):
            _delete(remaining, item["loc"])
        try:
            partial = adapter.validate_json(json.dumps(remaining, default=str), strict=True)
        except ValidationError:
            return None, problems
        culprits = [problem.split(":")[0] for problem in problems]
        # A combination that involves a culprit's own section may be wrong only because the culprit was left out.
        rest = [
            problem
            for problem in _combinations(partial)
            if not any(culprit.startswith(problem.split(":")[0]) for culprit in culprits)
        ]
        return None, problems + rest
    return config, _combinations(config)


def to_dict(config: schema.Config) -> dict[str, Any]:
    """Plain data that `parse` turns into the same config again."""
    plain: dict[str, Any] = json.loads(TypeAdapter(schema.Config).dump_json(config))
    return plain


def to_yaml(config: schema.Config) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def save(config: schema.Config, path: Path) -> None:
    path.write_text(to_yaml(config), encoding="utf-8")


def _combinations(config: schema.Config) -> list[str]:
    return [f"{path}: {message}" for path, message in impossible_combinations(config)]


def built_in() -> list[Path]:
    """The files of all built-in experiments, main ones first."""
    return [file for folder in FOLDERS for file in sorted(folder.glob("*.yaml"))]


def _find(path: str | Path | None) -> Path:
    if path is None:
        return DEFAULT
    for candidate in (Path(path), *(folder / name for folder in FOLDERS for name in (str(path), f"{path}.yaml"))):
        if candidate.is_file():
            return candidate
    names = [file.name for file in built_in()]
    near = difflib.get_close_matches(Path(path).with_suffix(".yaml").name, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"no config file {path}; {meant}The built-in ones are {', '.join(names)}; configs/README.md says what each is"
    )


def _read(file: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The file's data on top of its base's."""
    if file.resolve() in below:
        raise UserError(f"{file}: `base` leads back to this file")
    data = read_yaml(file)
    base = data.pop("base", None)
    if base is None:
        return data
    base_file = next((c for c in (folder / str(base) for folder in (file.parent, *FOLDERS)) if c.is_file()), None)
    if base_file is None:
        raise UserError(f"{file}: base: no such file {base}")
    return _merge(_read(base_file, (*below, file.resolve())), data)


def read_yaml(file: Path) -> dict[str, Any]:
    """The file's settings as plain data. Raises UserError if it cannot be read, or holds none."""
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{file} must hold settings as `key: value`, but holds {type(data).__name__}")
    return data


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    # Settings of one kind of schedule mean nothing to another, so a change of kind starts afresh.
    if "kind" in over and base.get("kind") != over["kind"]:
        return dict(over)
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _override(data: dict[str, Any], override: str) -> str | None:
    """Apply `a.b=value` in place; returns a problem, or None."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        return f"{override}: an override looks like train.epochs=3"
    value: Any = text
    # What is text stays as it was typed, also where YAML would find a number, a time or a comment in it.
    if not _is_text(keys) or text.startswith(("'", '"')) or text in ("", "null"):
        try:
            value = yaml.load(text, Loader=_Loader)  # a SafeLoader
        except yaml.YAMLError:
            return f"{override}: the value is not valid YAML"
    at: Any = data
    for key in keys[:-1]:
        step = at.get(key) if isinstance(at, dict) else _item(at, key)
        if step is None and isinstance(at, dict):
            step = at[key] = {}
        at = step
    if isinstance(at, list) and _item(at, keys[-1]) is not None:
        at[int(keys[-1])] = value
    elif isinstance(at, dict):
        at[keys[-1]] = value
    else:
        return f"{override}: there is nothing below {'.'.join(keys[:-1])}"
    return None


def _is_text(keys: list[str]) -> bool:
    """Whether the schema has text, or nothing, at this path."""
    hint: Any = schema.Config
    for key in keys:
        hint = typing.get_type_hints(hint).get(key) if dataclasses.is_dataclass(hint) else None
    return hint is str or set(typing.get_args(hint)) == {str, type(None)}


def _expand_home(data: dict[str, Any]) -> None:
    """In place, `~` at the beginning of places of files: no shell does it behind `key=`, nor in a file."""
    for path in PLACES:
        *sections, key = path.split(".")
        at: Any = data
        for section in sections:
            at = at.get(section) if isinstance(at, dict) else None
        if isinstance(at, dict) and isinstance(at.get(key), str):
            at[key] = os.path.expanduser(at[key])


def _item(at: Any, key: str) -> Any:
    return at[int(key)] if isinstance(at, list) and key.isdigit() and int(key) < len(at) else None


def _without_removed_layers(data: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = copy.deepcopy(dict(data))
    network = plain.get("network")
    for kind in ("convs", "denses"):
        if isinstance(network, dict) and isinstance(network.get(kind), dict):
            network[kind] = {name: layer for name, layer in network[kind].items() if layer is not None}
    return plain


def _delete(data: Any, loc: tuple[int | str, ...]) -> None:
    at = data
    keys = _keys(loc)
    for key in keys[:-1]:
        try:
            at = at[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(at, dict):
        at.pop(keys[-1], None)
    elif isinstance(at, list) and isinstance(keys[-1], int) and keys[-1] < len(at):
        del at[keys[-1]]


def _keys(loc: tuple[int | str, ...]) -> list[int | str]:
    """pydantic names the chosen member of a union in the path: schedule.stages.stages.0; the first is no key."""
    return [key for position, key in enumerate(loc) if not (position == 1 and loc[0] == "schedule")]


def _explain(item: Any) -> str:
    """One line: path, what is wrong, what to change."""
    loc = tuple(item["loc"])
    keys = [str(key) for key in _keys(loc)]
    path, given = ".".join(keys), item.get("input")
    kind = item["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _fields_at(keys[:-1], schedule=str(loc[1]) if loc[0] == "schedule" else None)
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
        return f"{path}: no such setting; {hint}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path}: is missing; set it"
    if kind == "string_type":
        return f"{path}: must be text, not {given!r}; in a file, text that looks like something else stands in quotes"
    if kind == "string_pattern_mismatch":
        return f"{path}: must be letters, digits, dots, _ and -, with a letter or digit first, not {given!r}"
    return f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, not {given!r}"


def _fields_at(keys: list[str], schedule: str | None) -> list[str]:
    """Names of the settings at a path of the schema. schedule: which kind of schedule, if the path is inside it."""
    kinds: list[Any] = [schema.Config]
    for key in keys:
        below: list[Any] = []
        for kind in kinds:
            if dataclasses.is_dataclass(kind):
                hint = typing.get_type_hints(kind).get(key)
                below += [part for part in _sections(hint) if _is_of(part, schedule)] if hint is not None else []
            else:
                below.append(kind)
        kinds = below or kinds
    return sorted({f.name for kind in kinds if dataclasses.is_dataclass(kind) for f in dataclasses.fields(kind)})


def _is_of(section: Any, schedule: str | None) -> bool:
    kind = typing.get_type_hints(section).get("kind")
    return kind is None or schedule is None or schedule in typing.get_args(kind)


def _sections(hint: Any) -> list[Any]:
    """The dataclasses inside a type such as `A | None`, `Mapping[str, A]`, `tuple[A, ...]` or `Annotated[A | B, ...]`."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is not None:
        return [found for part in typing.get_args(hint) for found in _sections(part)]
    return []
