"""Places of files as all processes of a run see them: actors have working directories of their own."""

from dataclasses import replace
from pathlib import Path

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
