"""Predicting classes of picture files: found, decoded in threads ahead of use, computed in batches, printed as they come."""

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from cluster.console import progress
from cluster.cpus import usable_cpus
from cluster.network import Device, LoadedNetwork, load_network
from cluster.paths import check_file
from configs.errors import UserError
from workers import json_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

In = TypeVar("In")
Out = TypeVar("Out")

MOST_THREADS = 8
"""That decode. Each may hold a whole photo: hundreds of MB in the worst case."""


def run_prediction(
    network: str,
    pictures: Iterable[Path],
    *,
    views: Literal[1, 10],
    top: int,
    json_file: str | None,
    device: Device,
    batch: int,
    apply_orientation: bool,
    data: str | None,
) -> int:
    """Print the most probable classes of each picture; returns 1 if some could not be read, else 0.

    json_file: where JSON goes in place of the table, "-" being stdout. data: the data set, for a run that keeps no class names.
    Raises UserError for wrong input.
    """
    to_file = json_file is not None and json_file != "-"
    if json_file is not None and to_file:
        if not json_file.endswith(".json"):  # a picture named behind --json must not be written over
            raise UserError(f"--json {json_file} does not end in .json; put pictures before --json, or write --json=-")
        check_file(json_file, "--json")
    files = find_pictures(pictures)
    loaded = load_network(network, [] if data is None else [f"data.path={data}"], device=device)
    found: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    out = sys.stdout  # a progress bar would take prints along to stderr
    with ExitStack() as stack:
        # Where the table grows on a screen, that is progress enough.
        silent = json_file is None and out.isatty()
        show = None if silent else stack.enter_context(progress("predicting", unit="pictures"))
        for file, answer in predictions(
            loaded, files, views=views, top=top, batch=batch, apply_orientation=apply_orientation
        ):
            if isinstance(answer, str):
                failed.append({"file": printable(file), "reason": answer})
                print(f"{printable(file)}: {answer}", file=sys.stderr, flush=True)
            elif json_file is None:
                print(_lines(file, answer), file=out)
            else:
                found.append({"file": printable(file), "top": answer})
            if show is not None:
                show(len(found) + len(failed), len(files))
    if json_file is not None:
        about = {
            "network": loaded.source,
            "updates": loaded.updates,
            "views": views,
            "classes": len(loaded.class_names),
        }
        content = {**about, "pictures": found, "failed": failed}
        if to_file:
            write_json(json_file, content)
        else:
            print(json_lines.dumps(content, indent=1), file=out)
    if failed:
        print(f"{len(failed):,} of {len(files):,} pictures could not be read", file=sys.stderr)
    return 1 if failed else 0


def predictions(
    loaded: LoadedNetwork,
    files: list[Path],
    *,
    views: Literal[1, 10],
    top: int,
    batch: int = 64,
    apply_orientation: bool = False,
) -> Iterator[tuple[Path, list[dict[str, Any]] | str]]:
    """(file, its `top` most probable classes, most probable first) in the files' order; or (file, why it could not be read).

    A class is a dict of `class` (its name), `number` and `probability`.
    """

    def decode(file: Path) -> "Pixels | str":
        from workers.data.images import BadImage

        try:
            return loaded.facts.as_stored(file.read_bytes(), apply_orientation=apply_orientation)
        except BadImage as error:
            return error.reason
        except OSError as error:
            return f"cannot be read: {error.strerror}"

    threads = min(MOST_THREADS, usable_cpus())
    decoded = ahead(decode, files, threads=threads, waiting=2 * batch)
    while some := list(itertools.islice(decoded, batch)):
        images = [pixels for _, pixels in some if not isinstance(pixels, str)]
        tops = iter(_tops(loaded, images, views, top) if images else ())
        for file, pixels in some:
            yield file, pixels if isinstance(pixels, str) else next(tops)


def _tops(loaded: LoadedNetwork, images: "list[Pixels]", views: Literal[1, 10], top: int) -> list[list[dict[str, Any]]]:
    most = loaded.probabilities(images, views).topk(min(top, len(loaded.class_names)), dim=1)
    return [
        [
            {"class": loaded.class_names[number], "number": number, "probability": probability}
            for number, probability in zip(numbers, values, strict=True)
        ]
        for numbers, values in zip(most.indices.tolist(), most.values.tolist(), strict=True)
    ]


def ahead(
    function: Callable[[In], Out], items: Iterable[In], *, threads: int, waiting: int
) -> Iterator[tuple[In, Out]]:
    """(item, function of it) in the items' order, computed by threads while the caller uses earlier ones; `waiting` at most."""
    pool = ThreadPoolExecutor(threads)
    under_way: deque[tuple[In, Future[Out]]] = deque()
    try:
        for item in items:
            under_way.append((item, pool.submit(function, item)))
            if len(under_way) >= waiting:
                done, future = under_way.popleft()
                yield done, future.result()
        for done, future in under_way:
            yield done, future.result()
    finally:  # Ctrl-C waits for the pictures in hand alone
        pool.shutdown(cancel_futures=True)


def find_pictures(pictures: Iterable[Path]) -> list[Path]:
    """The files named, and in folders, at any depth, those with a picture's suffix, sorted; each once.

    Raises UserError if something named is not there, cannot be searched, or there is no picture at all.
    """
    from workers.data.sources.names import is_hidden, is_image

    found: list[Path] = []
    pictures = list(pictures)
    for path in pictures:
        if path.is_dir():
            for parent, folders, names in os.walk(path, onerror=_raise):
                folders[:] = sorted(name for name in folders if not is_hidden(name))
                found += [
                    Path(parent, name) for name in sorted(names) if is_image(name) and Path(parent, name).is_file()
                ]
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {printable(path)}")
    if not found:
        raise UserError(f"no pictures in {', '.join(map(printable, pictures))}")
    return list(dict.fromkeys(found))


def _raise(error: OSError) -> NoReturn:
    """os.walk would pass over a folder that it may not read."""
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


def printable(file: Path) -> str:
    """A name as text that can be printed anywhere: names of files may hold control characters, or be no UTF-8."""
    from workers.data.sources.names import safe

    return safe(str(file))


def write_json(file: str | Path, content: Mapping[str, Any]) -> None:
    """Raises UserError."""
    try:
        Path(file).write_text(json_lines.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {file} cannot be written: {error}") from None


def _lines(file: Path, top: list[dict[str, Any]]) -> str:
    return "\n".join([printable(file), *(f"  {one['probability']:8.2%}  {one['class']}" for one in top)])
