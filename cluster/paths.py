"""Places of files as all processes of a run see them: actors have working directories of their own."""

import os
from dataclasses import replace
from pathlib import Path

from configs.errors import UserError
from configs.schema import Data
from workers.data.storage import is_url


def absolute(data: Data) -> Data:
    """The same places, none of them relative to this process's working directory."""
    if data.cache_folder is not None:
        data = replace(data, cache_folder=str(Path(data.cache_folder).resolve()))
    return data if is_url(data.path) else replace(data, path=str(Path(data.path).resolve()))


def absolute_location(location: str | Path) -> str:
    """Of a folder or URL."""
    return str(location) if is_url(str(location)) else str(Path(location).resolve())


def check_file(file: str | Path, option: str) -> None:
    """Raises UserError if a file cannot be written there; before anything long. What is there stays as it is."""
    path = Path(file)
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {file} cannot be written: there is no folder {path.parent}")
    try:
        new = not path.exists()
        with path.open("a", encoding="utf-8"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {file} cannot be written: {error.strerror}") from None


def check_folder(folder: str | Path, what: str) -> None:
    """Raises UserError if nothing can be written into a folder, or it cannot be made; before anything long. Makes none."""
    path = Path(folder).absolute()
    try:
        there = next(each for each in (path, *path.parents) if each.exists())
    except OSError as error:
        raise UserError(f"{what} {folder} cannot be written: {error.strerror}") from None
    if not there.is_dir():
        raise UserError(f"{what} {folder} cannot be written: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{what} {folder} cannot be written: nothing may be written into {there}")
