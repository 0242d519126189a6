"""Saving a checkpoint while training goes on.

The order of a save, in which every rank takes part:
 1. the loop stands still: if the save before is still under way it is waited for; then weights and momentum are copied to
    host memory, and the loop goes on;
 2. a thread of each process does the rest, over a process group of its own. Rank 0 looks whether a later attempt has begun, for
    then this one may write no more (takeover.py), and whether the step is committed already (the same step of the same run is the
    same: on CPUs bit for bit; on a GPU max-pool's backward adds in any order, so up to rounding), and makes the folder anew;
 3. each process of replica 0 writes its file for good, and its SHA-256 is taken;
 4. rank 0 collects names, sizes and SHA-256 of the files and puts `state.json` beside them: that is the commit, and a folder
    without it is no checkpoint;
 5. all know that it is committed, and only now rank 0 removes what is not needed any more (checkpoint_list.py);
 6. the loop reports it before its next item. Where something went wrong on any rank, all know, and the loop raises it there.
"""

import copy
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from alexnet.network import AlexNet
from alexnet.optimizer import PaperSGD
from configs import schema
from configs.errors import Nature, UserError, nature_of
from workers import json_lines
from workers.checkpoint import VERSION, Name, Rows, rows_of
from workers.checkpoint_list import list_checkpoints, prune
from workers.checkpoint_store import open_store, sha256_of
from workers.reports import CheckpointReport, ColumnReport, WarningReport
from workers.takeover import refuse_if_taken_over

GRAVITY: tuple[Nature, ...] = ("away", "full", "wrong")


class SaveError(OSError):
    """A checkpoint could not be written. nature: the gravest of all ranks'."""

    def __init__(self, text: str, nature: Nature) -> None:
        super().__init__(text, nature)
        self.text, self.nature = text, nature

    def __str__(self) -> str:
        return self.text


class HostCopy:
    """Weights and momentum of a process, in host memory, as they were at one moment."""

    def __init__(self, model: AlexNet, optimizer: PaperSGD) -> None:
        self._model, self._optimizer = model, optimizer
        last = model.first_column + model.columns - 1
        self.file = f"columns-{model.first_column:02d}-to-{last:02d}.safetensors"
        rows = self._rows()
        self.shapes = {own.name: list(own.whole) for own in rows_of(model)}
        self.rows = {own.name: [own.start, own.stop] for own in rows}
        on_gpu = rows[0].values.is_cuda
        # One block for all, taken now: memory that is missing is missed at the start. Page-locked, a GPU copies faster to it.
        block = torch.empty(sum(own.values.numel() for own in rows), dtype=rows[0].values.dtype, pin_memory=on_gpu)
        block.zero_()
        parts = block.split([own.values.numel() for own in rows])
        self.tensors: dict[str, Tensor] = {
            own.name: part.view(own.values.shape) for own, part in zip(rows, parts, strict=True)
        }

    @torch.no_grad()
    def take(self) -> None:
        """Returns when the values have been copied, so that the next step may change them."""
        rows = self._rows()
        for own in rows:
            self.tensors[own.name].copy_(own.values, non_blocking=True)
        if rows[0].values.is_cuda:
            copied = torch.cuda.Event(blocking=True)  # else waiting keeps a CPU busy
            copied.record()
            copied.synchronize()

    def _rows(self) -> list[Rows]:
        return [*rows_of(self._model), *rows_of(self._model, self._optimizer)]


class Saver:
    """One process's part in the run's saves; every rank has one and calls it at the same steps.

    place: folder or URL of the run's checkpoints. attempt: at the run, from 1; part of the checkpoints' names.
    writes: whether this process belongs to replica 0. group: all ranks, for tensors on the CPU, and for nothing but this.
    """

    def __init__(
        self,
        place: str,
        model: AlexNet,
        optimizer: PaperSGD,
        settings: schema.Checkpoint,
        *,
        group: dist.ProcessGroup,
        writes: bool = True,
        attempt: int = 1,
    ) -> None:
        self._place, self._settings, self._group, self._attempt = place, settings, group, attempt
        self._store = open_store(place)
        self._copy = HostCopy(model, optimizer) if writes else None
        self._rank = dist.get_rank(group)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._reports: queue.SimpleQueue[ColumnReport] = queue.SimpleQueue()

    def save(self, state: Mapping[str, Any]) -> None:
        """Copy what is to be saved, and save it while the caller goes on. If a save is under way, it is waited for.

        state: at least `step`, updates made, and `evaluated`, whether the evaluation due after them has been done.
        Raises what the save before has raised.
        """
        began = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - began
        if self._copy:
            self._copy.take()
        stopped = time.perf_counter() - began
        seconds = {"stopped_seconds": stopped, "waited_seconds": waited}
        arguments = (copy.deepcopy(dict(state)), seconds, began + waited)
        self._thread = threading.Thread(target=self._run, args=arguments, name="saving", daemon=True)
        self._thread.start()

    @property
    def has_failed(self) -> bool:
        """Whether a save has failed; `wait` raises why. The other ranks will have found so too, now or in a moment."""
        return self._error is not None

    def wait(self) -> None:
        """Wait for the save under way, if there is one.

        Raises OSError, on every rank, if any of them could not write (a full disk, say); committed checkpoints are as they were.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error

    def reports(self) -> list[ColumnReport]:
        """Of the checkpoints committed since the last call, and what could not be removed."""
        told = []
        while not self._reports.empty():
            told.append(self._reports.get())
        return told

    def _run(self, state: dict[str, Any], seconds: dict[str, float], began: float) -> None:
        try:
            folder = self._commit(state)
            seconds["commit_seconds"] = time.perf_counter() - began
            self._reports.put(CheckpointReport(step=state["step"], folder=f"{self._store.name}/{folder}", **seconds))
            if self._rank == 0:
                self._prune(state["step"], folder)
        except BaseException as error:  # it is raised again where the loop waits for it
            self._error = error

    def _commit(self, state: dict[str, Any]) -> str:
        """Returns the name of the folder in which the step is committed."""
        name, store = Name(step=state["step"], evaluated=state["evaluated"], attempt=self._attempt), self._store
        there: str | None = self._on_rank_0(lambda: self._committed_as(name))
        if there is not None:
            return there
        folder = str(name)
        self._on_rank_0(lambda: store.prepare(folder))
        try:
            files = self._together(lambda: self._write(folder))
            self._on_rank_0(lambda: self._put_state(folder, self._content(state, files)))
        except OSError:
            if self._rank == 0:
                store.discard(folder)
            raise
        return folder

    def _prune(self, step: int, newest: str) -> None:
        """On rank 0 alone. It raises nothing: the step is committed, and the others know no better."""

        def say(note: str) -> None:
            self._reports.put(WarningReport(step=step, text=note))

        try:
            refuse_if_taken_over(self._place, self._attempt)
        except (OSError, UserError) as error:
            say(f"old checkpoints were not removed: {error}")
            return
        keep, best = self._settings.keep, self._settings.keep_best
        prune(self._place, newest, keep=keep, keep_best=best, attempt=self._attempt, say=say)

    def _committed_as(self, name: Name) -> str | None:
        """The folder in which the step is committed already. Raises OSError if a later attempt has begun."""
        refuse_if_taken_over(self._place, self._attempt)
        for checkpoint in list_checkpoints(self._place).committed:
            if (checkpoint.step, checkpoint.evaluated) == (name.step, name.evaluated):
                return checkpoint.name
        return None

    def _write(self, folder: str) -> dict[str, Any] | None:
        """Write this process's file for good; returns its entry in `state.json`."""
        if self._copy is None:
            return None
        with self._store.new_file(folder, self._copy.file) as path:
            save_file(self._copy.tensors, path)
            size, sha256 = path.stat().st_size, sha256_of(path)
        return {"file": self._copy.file, "bytes": size, "sha256": sha256, "rows": self._copy.rows}

    def _put_state(self, folder: str, content: bytes) -> None:
        refuse_if_taken_over(self._place, self._attempt)
        self._store.commit(folder, content)

    def _content(self, state: dict[str, Any], files: list[dict[str, Any] | None]) -> bytes:
        assert self._copy is not None, "rank 0 belongs to replica 0"
        content = {**state, "version": VERSION, "attempt": self._attempt, "shapes": self._copy.shapes}
        return json_lines.dumps({**content, "files": [file for file in files if file]}, indent=1).encode()

    def _on_rank_0(self, part: Callable[[], Any]) -> Any:
        """What rank 0's part returns, on every rank."""
        return self._together(part if self._rank == 0 else lambda: None)[0]

    def _together(self, part: Callable[[], Any]) -> list[Any]:
        """What each rank's part returns, on every rank.

        Raises OSError on every rank if any has failed; without this the others would wait for it for ever.
        """
        value, problem, nature = None, None, "away"
        try:
            value = part()
        except (OSError, UserError, SafetensorError) as error:  # a full disk, a storage that is gone
            problem, nature = str(error), nature_of(error)
        except Exception as error:  # a mistake of ours
            problem, nature = f"{type(error).__name__}: {error}", nature_of(error)
        of_all: list[Any] = [None] * self._group.size()
        dist.all_gather_object(of_all, (value, problem, nature), group=self._group)
        said = [f"rank {rank}: {text}" for rank, (_, text, _) in enumerate(of_all) if text]
        if said:
            text = f"the checkpoint could not be written ({'; '.join(said)}); the ones before it are whole"
            raise SaveError(text, max((nature for _, problem, nature in of_all if problem), key=GRAVITY.index))
        return [value for value, _, _ in of_all]
