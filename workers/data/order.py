"""Which image stands at which place of a run, as a pure function of (seed, epoch, position).

The training set is an endless stream: sample number n of a run is position n mod N of epoch n div N, and each epoch has
its own permutation of all N images (or, where the settings say so, the first one's). Batches are consecutive stretches of the
stream, so every image comes exactly once per epoch, a batch may span the edge between two epochs, and the whole state of the
data path is one number: samples consumed.
"""

import numpy as np
import numpy.typing as npt

from alexnet.counter import integers, keys

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

# What a key is drawn for; part of the key, so that no two uses share numbers.
ORDER, CROP_Y, CROP_X, MIRROR, COLOUR, DROPOUT, SUBSTITUTE = range(1, 8)


def permutation(seed: int, epoch: int, rows: int) -> I32:
    """The order of one epoch: row numbers [rows]. Sorting by hash depends on no library's generator."""
    # The hash's last step is one-to-one, so that no two rows have the same key, and any sort gives the same order; this
    # one takes a quarter of a stable one's time.
    return np.argsort(keys(seed, ORDER, epoch, np.arange(rows))).astype(np.int32)


class Order:
    """The stream of one training set."""

    def __init__(self, seed: int, rows: int, *, same: bool = False) -> None:
        """rows: images in the training set; at least 1. same: every epoch has the first one's order."""
        self.seed, self.rows, self.same = seed, rows, same
        self._permutations: dict[int, I32] = {}

    def at(self, samples: I64) -> tuple[I64, I64, I64]:
        """(epoch, position, row) of each sample number of the run."""
        epochs, positions = np.divmod(samples, self.rows)
        rows = np.empty_like(samples)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._permutation(0 if self.same else int(epoch))[positions[here]]
        return epochs, positions, rows

    def substitute(self, epoch: int, position: int, attempt: int) -> int:
        """The row to use where that of this place is damaged; `attempt` counts from 0, for substitutes may be damaged too.

        It depends on the place alone, so that every worker, now and after a restart, takes the same one.
        """
        return int(integers(keys(self.seed, SUBSTITUTE, epoch, position, attempt), self.rows)[0])

    def _permutation(self, epoch: int) -> I32:
        if epoch not in self._permutations:
            # Around the edge of two epochs both are in use; older ones never again, except after a restart.
            self._permutations = {e: p for e, p in self._permutations.items() if e >= epoch - 1}
            self._permutations[epoch] = permutation(self.seed, epoch, self.rows)
        return self._permutations[epoch]
