"""This side of a contender's process: start it, ask it, end it with all that it has started."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from cluster.benchmarks.loaders.material import Material

END_SECONDS = 30
TOLD_LINES = 15
"""Of a contender's own output when it has failed."""


class Contender:
    """A context manager; `ask` it for trials by name.

    module, name: of its `Peer`. core: the one that it and its children may run on; None: all. variants: options of the peer, for
    each variant that the process serves. environment: added to this process's. write: only have the peer's form written.
    """

    def __init__(
        self,
        material: Material,
        module: str,
        name: str,
        *,
        batch: int,
        workers: int,
        core: int | None = None,
        write: bool = False,
        variants: Sequence[Mapping[str, Any]] = ({},),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        job = {"module": module, "name": name, "folder": str(material.folder), "batch": batch, "workers": workers}
        job |= {"core": core, "variants": list(variants), "write": write}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.benchmarks.loaders.serve", json.dumps(job)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(Path(__file__).parents[3]),
                **(environment or {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        try:
            self._answer()
        except BaseException:  # Ctrl-C too; it is raised on
            self.end()
            raise

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Run a trial. Raises RuntimeError, with the contender's last words, if it fails."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let it end by itself, then kill what is left of it and of its children."""
        children = self._children()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        for process in [*self._children(), *children]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._said.close()

    def _children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            words = self._said.read().decode("utf-8", "replace").splitlines()[-TOLD_LINES:]
            raise RuntimeError("the contender ended: " + "\n".join(words))
        answer: dict[str, Any] = json.loads(line)
        return answer
