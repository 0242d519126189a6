"""Which image stands at which place of a run, as a pure function of (seed, epoch, position).

The training set is an endless stream: sample number n of a run is position n mod N of epoch n div N, and each epoch has
its own permutation of all N images. Batches are consecutive stretches of the stream, so every image comes exactly once per
epoch, a batch may span the edge between two epochs, and the whole state of the data path is one number: samples consumed.
"""

import numpy as np
import numpy.typing as npt

from alexnet.counter import keys

I64 = npt.NDArray[np.int64]

# What a key is drawn for; part of the key, so that no two uses share numbers.
ORDER, CROP_Y, CROP_X, MIRROR, COLOUR, DROPOUT = range(1, 7)


def permutation(seed: int, epoch: int, rows: int) -> I64:
    """The order of one epoch: row numbers [rows]. Sorting by hash depends on no library's generator."""
    return np.argsort(keys(seed, ORDER, epoch, np.arange(rows)), kind="stable")


class Order:
    """The stream of one training set."""

    def __init__(self, seed: int, rows: int) -> None:
        """rows: images in the training set; at least 1."""
        self.seed, self.rows = seed, rows
        self._permutations: dict[int, I64] = {}

    def at(self, samples: I64) -> tuple[I64, I64, I64]:
        """(epoch, position, row) of each sample number of the run."""
        epochs, positions = np.divmod(samples, self.rows)
        rows = np.empty_like(samples)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._permutation(int(epoch))[positions[here]]
        return epochs, positions, rows

    def _permutation(self, epoch: int) -> I64:
        if epoch not in self._permutations:
            # Around the edge of two epochs both are in use; older ones never again, except after a restart.
            self._permutations = {e: p for e, p in self._permutations.items() if e >= epoch - 1}
            self._permutations[epoch] = permutation(self.seed, epoch, self.rows)
        return self._permutations[epoch]
