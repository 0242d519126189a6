"""What lies in a place for checkpoints: which are committed, which are damaged, which were never finished.

And so: which one a run goes on from, and which may go.
"""

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from configs.errors import UserError
from workers import json_lines
from workers.checkpoint import VERSION, Checkpoint, Name
from workers.checkpoint_store import STATE, CheckpointStore, DamagedFileError, open_store
from workers.data.storage import MissingFileError

SET_ASIDE = "damaged-"
"""Before the name of a checkpoint that was found damaged. What is called so is not looked at any more."""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Folders at one place, each kind with the oldest first."""

    committed: list[Checkpoint] = field(default_factory=list)
    damaged: dict[Name, tuple[str, str]] = field(default_factory=dict)
    """State files that cannot be read: (folder, what is wrong)."""
    foreign: list[str] = field(default_factory=list)
    """Folders of another version of this program."""
    unfinished: dict[Name, str] = field(default_factory=dict)
    """Folders without a state file: being saved, or left by a process that died while it saved."""
    set_aside: dict[str, Name] = field(default_factory=dict)


def list_checkpoints(place: str) -> Listing:
    """Reads the state files and nothing else. Raises OSError, or UserError if a URL cannot be reached."""
    store, listing = open_store(place), Listing()
    for folder, files in store.tree().items():
        name = Name.parse(folder)
        if name is None:
            aside = Name.parse(folder[folder.find("step-") :]) if folder.startswith(SET_ASIDE) else None
            if aside is not None:
                listing.set_aside[folder] = aside
        elif STATE not in files:
            listing.unfinished[name] = folder
        else:
            _read_state(store, place, name, folder, listing)
    listing.committed.sort(key=_age)
    return listing


def committed(place: str) -> list[Checkpoint]:
    """The checkpoints whose state can be read, oldest first; their other files have not been looked at.

    Raises UserError if there are some of another version.
    """
    listing = list_checkpoints(place)
    _refuse_foreign(place, listing)
    return listing.committed


def newest_whole(
    place: str,
    say: Say,
    *,
    set_aside: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Checkpoint | None:
    """The newest checkpoint all of whose files are there with the right SHA-256; None if there is no checkpoint at all.

    Newer ones that are damaged or unfinished are told, one line each. set_aside: rename damaged ones to `damaged-...`, so that
    they are in nobody's way and can still be looked at; `prune` removes them when they are older than all that is kept.
    progress: called with (bytes read, bytes in all) of the checkpoint being checked.
    Raises UserError if there are checkpoints and all are damaged, or some are of another version, or a URL cannot be reached.
    """
    listing, store = list_checkpoints(place), open_store(place)
    _refuse_foreign(place, listing)
    damaged = dict(listing.damaged)
    found = None
    for checkpoint in reversed(listing.committed):
        wrong = _damage(store, checkpoint, progress)
        if wrong is None:
            found = checkpoint
            break
        if checkpoint.name not in store.tree():
            continue  # removed since it was listed
        damaged[_age(checkpoint)] = (checkpoint.name, wrong)
    newer = {name: told for name, told in sorted(damaged.items()) if found is None or name > _age(found)}
    if found is None and newer:
        listed = "; ".join(f"{folder}: {wrong}" for folder, wrong in newer.values())
        raise UserError(
            f"no checkpoint at {store.name} is whole ({listed}); restore one from a copy, or remove them to begin anew"
        )
    for folder, wrong in newer.values():
        assert found is not None
        put = f"; it is set aside as {_put_aside(store, folder)}" if set_aside else ""
        say(f"{store.name}/{folder} is damaged: {wrong}{put}; the one before it that is whole is {found.name}")
    for name, folder in sorted(listing.unfinished.items()):
        if found is None or name > _age(found):
            say(f"{store.name}/{folder} was never finished, so it does not count")
    return found


def prune(place: str, newest: str, *, keep: int, keep_best: bool, attempt: int, say: Say = lambda text: None) -> None:
    """Remove what is not needed any more, once `newest` is committed.

    Kept are `newest`, the newest `keep`, and the one with the lowest top-1 error if `keep_best`. What was never committed goes
    too, unless it is a later attempt's, and so does what was set aside, once it is older than the newest `keep`.
    say: told what could not be removed; that is no reason to stop a run.
    """
    try:
        listing, store = list_checkpoints(place), open_store(place)
    except (OSError, UserError) as error:
        say(f"old checkpoints could not be removed: {error}")
        return
    kept = listing.committed[-keep:]
    oldest = min((checkpoint.step for checkpoint in kept), default=0)
    names = {newest, *(checkpoint.name for checkpoint in kept)}
    one = best(listing.committed) if keep_best else None
    if one:
        names.add(one.name)
    gone = [checkpoint.name for checkpoint in listing.committed if checkpoint.name not in names]
    gone += [folder for name, folder in listing.unfinished.items() if name.attempt <= attempt and folder not in names]
    gone += [folder for folder, name in listing.set_aside.items() if name.step < oldest]
    for folder in gone:
        try:
            store.remove(folder)
        except (OSError, UserError) as error:
            say(f"{store.name}/{folder} could not be removed: {error}")


def best(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The one with the lowest top-1 error, the latest of several such; None if none has been tested."""
    tested = [(checkpoint.top1_error, -checkpoint.step, checkpoint) for checkpoint in checkpoints]
    return min((one for one in tested if one[0] is not None), key=lambda one: one[:2], default=(0, 0, None))[2]


def _age(checkpoint: Checkpoint) -> Name:
    """For comparing: by what the state says, for the name of old may say less."""
    attempt = (Name.parse(checkpoint.name) or Name(step=0, evaluated=False, attempt=0)).attempt
    return Name(step=checkpoint.step, evaluated=checkpoint.evaluated, attempt=attempt)


def _read_state(store: CheckpointStore, place: str, name: Name, folder: str, listing: Listing) -> None:
    try:
        content: Any = json_lines.loads(store.read(folder, STATE))
        if content["version"] != VERSION:
            listing.foreign.append(folder)
            return
        checkpoint = Checkpoint(place=place, name=folder, state=content)
        _ = checkpoint.step, checkpoint.evaluated, content["files"], content["shapes"]
    except (FileNotFoundError, MissingFileError):
        return  # removed since it was listed
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        listing.damaged[name] = (folder, f"{STATE} cannot be read: {error.strerror}")  # a bad sector
        return
    except (ValueError, KeyError, TypeError) as error:
        listing.damaged[name] = (folder, f"{STATE} cannot be understood ({error})")
        return
    listing.committed.append(checkpoint)


def _refuse_foreign(place: str, listing: Listing) -> None:
    if listing.foreign:
        raise UserError(
            f"{open_store(place).name}/{listing.foreign[-1]} was written by another version of this program; remove it, or use "
            "that version"
        )


def _damage(store: CheckpointStore, checkpoint: Checkpoint, progress: Callable[[int, int], None]) -> str | None:
    """What is wrong with a checkpoint's files, the first thing found; None if nothing is."""
    total, done = sum(file["bytes"] for file in checkpoint.state["files"]), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    try:
        for file in checkpoint.state["files"]:
            store.check(checkpoint.name, file, on_bytes)
    except DamagedFileError as error:
        return str(error)
    return None


def _put_aside(store: CheckpointStore, folder: str) -> str:
    there = store.tree()
    names = (f"{SET_ASIDE}{number}{folder}" for number in ("", *(f"{n}-" for n in range(2, 1000))))
    name = next(name for name in names if name not in there)
    store.move(folder, name)
    return name
