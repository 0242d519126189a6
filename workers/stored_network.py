"""The network of a checkpoint, whole, in this process: for commands that need no cluster."""

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from alexnet.network import AlexNet
from configs.errors import UserError
from configs.loader import load as load_config
from configs.loader import parse
from configs.schema import Config
from workers import json_lines
from workers.checkpoint import VERSION, Checkpoint, load
from workers.checkpoint_list import newest_whole
from workers.checkpoint_store import STATE, open_store, place_of, without_scheme
from workers.data.storage import is_url


def load_network(where: str | Path, say: Callable[[str], None] = print) -> tuple[Config, AlexNet]:
    """The whole network, on the CPU, and its config. where: a checkpoint's folder or URL, or a run's folder.

    say: told which newer checkpoints of a run are damaged and passed over.
    Raises UserError if there is none, it is damaged, or the config that it was made with is not known.
    """
    checkpoint = find_checkpoint(where, say)
    config = config_of(checkpoint)
    model = AlexNet(config.network, seed=config.train.seed)
    load(checkpoint, model)
    return config, model


def find_checkpoint(where: str | Path, say: Callable[[str], None]) -> Checkpoint:
    """The checkpoint at a folder or URL; of a run's folder, its newest whole one. Raises UserError if there is none."""
    run = None if is_url(str(where)) else Path(where)
    if run is None or not (run / "config.yaml").is_file():
        return checkpoint_at(str(where))
    return newest_of_run(run, load_config(run / "config.yaml"), say)


def newest_of_run(
    run: Path,
    config: Config,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checkpoint:
    """Its newest whole checkpoint. say, progress: as of `newest_whole`. Raises UserError if there is none."""
    place = place_of(config, run)
    found = newest_whole(place, say, progress=progress)
    if found is None and (run / "stock.pt").is_file():
        raise UserError(
            f"{run} is a run of `cluster.reproduce stock`, whose network is PyTorch's own and cannot be loaded here; its errors "
            f"are in {run / 'result.json'} at its end"
        )
    if found is None:
        raise UserError(
            f"there is no checkpoint at {open_store(place).name}; train the run first: "
            f"python -m cluster.train {quote(str(run / 'config.yaml'))}"
        )
    return found


def checkpoint_at(where: str) -> Checkpoint:
    """The checkpoint in a folder or at a URL. Raises UserError if there is none, or its state cannot be understood."""
    place, name = _split(where)
    store = open_store(place)
    shown = f"{store.name}/{name}"
    if STATE not in store.tree().get(name, {}):
        raise UserError(f"there is no checkpoint at {shown}: it has no {STATE}")
    try:
        state: Any = json_lines.loads(store.read(name, STATE))
        found = Checkpoint(place=place, name=name, state=state)
        version, _ = state["version"], (found.step, found.evaluated, state["files"], state["shapes"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown} is damaged: {STATE} cannot be understood ({error})") from None
    if version != VERSION:
        raise UserError(f"{shown} was written by another version of this program; use that version")
    return found


def config_of(checkpoint: Checkpoint) -> Config:
    """What it was made with: as its state says, or, of an older one, as `config.yaml` in the run's folder does.

    Raises UserError if neither is there, or this version does not know such settings.
    """
    settings = checkpoint.state.get("config")
    if settings is None:
        file = Path(checkpoint.place).parent / "config.yaml"
        if is_url(checkpoint.place) or not file.is_file():
            raise UserError(f"{checkpoint.folder} does not say which config it was made with, and there is no {file}")
        return load_config(file)
    config, problems = parse(settings)
    if config is None or problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise UserError(f"{checkpoint.folder} was made with settings that this version does not know:\n{listed}")
    return config


def _split(where: str) -> tuple[str, str]:
    """Place, and name of the folder there; what follows a `?` in a URL belongs to the place."""
    where = without_scheme(where)
    if not is_url(where):
        folder = Path(where).resolve()
        return str(folder.parent), folder.name
    path, mark, query = where.partition("?")
    place, _, name = path.rstrip("/").rpartition("/")
    return place + mark + query, name
