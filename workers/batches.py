"""A column's side of the feed: batches fetched ahead in a thread, copied out of the object store, put on the device."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from alexnet.step import Batch


class Batches:
    """The batches of one feed, in order, for one reader. Close it when done.

    One batch waits here, and the thread may hold another, while the column computes on a third.
    """

    def __init__(self, get: Callable[[int], dict[str, Any]], device: torch.device) -> None:
        """get: returns the arrays of a batch of the program by its number; blocks."""
        self._get, self._device = get, device
        self._ready: queue.Queue[tuple[Batch, torch.cuda.Event | None] | BaseException] = queue.Queue(maxsize=1)
        # Copies to a GPU go beside what it computes, on a stream of their own.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="batches", daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        """Blocks until the next batch is here; raises what went wrong in making it."""
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        batch, copied = got
        if copied is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(copied)  # the stream waits; this thread does not
            for tensor in vars(batch).values():
                if tensor is not None:
                    tensor.record_stream(computing)
        return batch

    def close(self) -> None:
        self._closed.set()

    def _fetch(self) -> None:
        try:
            if self._stream is not None:
                torch.cuda.set_stream(self._stream)  # of this thread alone
            for batch in self._all():
                self._put((batch, None if self._stream is None else self._stream.record_event()))
                if self._closed.is_set():
                    return
        except BaseException as error:  # whatever it is, the column's own thread must hear of it
            self._put(error)

    def _put(self, item: tuple[Batch, torch.cuda.Event | None] | BaseException) -> None:
        """Wait for room, unless closed."""
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def _all(self) -> Iterator[Batch]:
        number = 0
        while True:
            # Nothing holds the arrays, which are views into the object store, once they are copied.
            yield self._copy(self._get(number))
            number += 1

    def _copy(self, arrays: dict[str, Any]) -> Batch:
        def tensor(name: str) -> Tensor:
            values: npt.NDArray[Any] = arrays[name]
            # Arrays from the store are read-only, which torch cannot express; so the copy is made here. For a GPU it is made into
            # pinned memory, which torch keeps and gives out again once the transfer is done.
            kind = torch.from_numpy(values[:0].copy()).dtype
            own = torch.empty(values.shape, dtype=kind, pin_memory=self._stream is not None)
            own.numpy()[...] = values
            return own.to(self._device, non_blocking=True)

        def optional(name: str) -> Tensor | None:
            return tensor(name) if name in arrays else None

        return Batch(
            images_BHWC=tensor("images"),
            labels_B=tensor("labels"),
            # Whole images, for ten views, have none.
            offsets_B2=tensor("offsets")
            if "offsets" in arrays
            else torch.zeros(0, 2, dtype=torch.int64, device=self._device),
            mirror_B=optional("mirror"),
            colour_BC=optional("colour"),
            noisy_B=optional("noisy"),
            keys_B=optional("keys"),
        )
