"""Where a run's reports go: sinks, each with `report` and `close`. One that fails is left out from then on; the run goes on.

The log alone is tried again with each report: it is what tells later commands of the run how it ended.
"""

import contextlib
import importlib
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from configs.errors import UserError
from workers.json_lines import append
from workers.reports import Report

CLOSE_SECONDS = 10.0
"""How long the end of a run waits for a sink to take what it has not taken yet."""
MOST_WAITING = 1000
"""Reports that may wait for one sink."""


class Sink(Protocol):
    """What a run's reports are given to, in order. Any exception means that this sink wants no more of them."""

    def report(self, report: Report) -> None: ...

    def close(self) -> None: ...


class Plain:
    """Other people's sink. Its `report` takes a dictionary that JSON can express, but for numbers that are none (a loss of NaN):
    `kind`, `step` and `time` are always there, and `workers/reports.py` has the rest."""

    def __init__(self, sink: Any) -> None:
        self._sink, self.close = sink, sink.close

    def report(self, report: Report) -> None:
        self._sink.report(report.as_json())


class JsonLines:
    """Appends each report to a file, as one line. on_message: is told, once, if that cannot be done, and when it can again."""

    def __init__(self, file: Path, on_message: Callable[[str], None]) -> None:
        self._file, self._on_message = file, on_message
        self._missed = 0

    def report(self, report: Report) -> None:
        try:
            append(self._file, report.as_json())
        except OSError as error:
            self._missed += 1
            if self._missed == 1:
                self._on_message(f"note: {self._file} misses reports of this run ({error.strerror}); the run goes on")
            return
        if self._missed:
            self._on_message(f"note: {self._file} can be written again; it misses {self._missed} report(s)")
            self._missed = 0

    def close(self) -> None:
        pass


class Sinks:
    """Gives reports to several sinks.

    at_once: sinks that are served before `report` returns. behind: sinks that may be slow (a server on the network), each with
    a thread of its own, for nobody who watches a run should wait for them. on_message: is told, in one line, of a sink that is
    left out.
    """

    def __init__(
        self, at_once: Mapping[str, Sink], behind: Mapping[str, Sink], on_message: Callable[[str], None]
    ) -> None:
        self._at_once, self._on_message = dict(at_once), on_message
        self._behind = {name: _Behind(name, sink, self._leave_out) for name, sink in behind.items()}

    def report(self, report: Report) -> None:
        for name, sink in list(self._at_once.items()):
            try:
                sink.report(report)
            except Exception as error:  # whatever it is, it is no reason to end a run
                del self._at_once[name]
                self._leave_out(name, error)
        for runner in self._behind.values():
            runner.report(report)

    def close(self) -> None:
        for name, sink in self._at_once.items():
            try:
                sink.close()
            except Exception as error:  # as above
                self._leave_out(name, error)
        for runner in self._behind.values():
            runner.close()

    def _leave_out(self, name: str, error: Exception) -> None:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        self._on_message(f"note: {name} gets no more reports of this run ({told}); the run goes on")


class _Behind:
    """A sink and the thread that serves it."""

    def __init__(self, name: str, sink: Sink, leave_out: Callable[[str, Exception], None]) -> None:
        self._name, self._sink, self._leave_out = name, sink, leave_out
        self._waiting: queue.Queue[Report | None] = queue.Queue(MOST_WAITING)
        self._failed = False
        self._thread = threading.Thread(target=self._serve, name=f"sink {name}", daemon=True)
        self._thread.start()

    def report(self, report: Report) -> None:
        if self._failed:
            return
        try:
            self._waiting.put_nowait(report)
        except queue.Full:
            self._fail(TimeoutError(f"{MOST_WAITING:,} reports are waiting for it"))

    def close(self) -> None:
        if self._failed:
            return
        with contextlib.suppress(queue.Full):  # told of below
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._fail(TimeoutError(f"it did not take the last reports within {CLOSE_SECONDS:g} s"))

    def _serve(self) -> None:
        try:
            while not self._failed and (report := self._waiting.get()) is not None:
                self._sink.report(report)
            self._sink.close()
        except Exception as error:  # whatever it is, it is no reason to end a run
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._leave_out(self._name, error)


MakeSink = Callable[[Path, dict[str, Any]], Any]
"""From the run's folder and its settings to what `Plain` takes."""


def find_sinks(names: Iterable[str]) -> dict[str, MakeSink]:
    """Classes of other people's sinks, by `module:Class`. Raises UserError if there is none of that name."""
    found: dict[str, MakeSink] = {}
    for name in names:
        module, _, kind = name.partition(":")
        try:
            found[name] = getattr(importlib.import_module(module), kind)
        except Exception as error:  # importing runs other people's code
            raise UserError(
                f"--sink {name} cannot be used ({type(error).__name__}: {error}); it is MODULE:CLASS, where `import MODULE` "
                "works in the folder that this is run in, and CLASS(folder, config) has `report` and `close`"
            ) from None
    return found


def make_sinks(classes: Mapping[str, MakeSink], folder: Path, config: dict[str, Any]) -> dict[str, Sink]:
    """Raises UserError if one cannot be made, for a server that does not answer at the start was named wrongly."""
    made: dict[str, Sink] = {}
    for name, kind in classes.items():
        try:
            made[name] = Plain(kind(folder, config))
        except Exception as error:  # it is other people's code
            raise UserError(f"--sink {name} could not be made ({type(error).__name__}: {error})") from None
    return made
