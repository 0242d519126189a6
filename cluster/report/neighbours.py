"""Exact nearest neighbours by Euclidean distance, of few queries among features that stream by: only the best are kept.

Shape suffixes: Q queries, B images of a block, D features, K neighbours.
"""

import numpy as np
from numpy.typing import NDArray


class Nearest:
    """The `keep` nearest of everything added so far, for each query. Of equal distances, the lower row comes first.

    Memory: one block in float64 beside what is kept, however much is added.
    """

    def __init__(self, queries_QD: NDArray[np.floating], keep: int) -> None:
        self._queries = queries_QD.astype(np.float64)
        self._keep = keep
        self.rows = np.empty((len(queries_QD), 0), np.int64)
        """[Q, K] rows of the neighbours, nearest first; fewer than `keep` if fewer were added."""
        self.distances = np.empty((len(queries_QD), 0), np.float64)
        """[Q, K]."""

    def add(self, features_BD: NDArray[np.floating], rows_B: NDArray[np.int64]) -> None:
        """Take a block of features, and which row each is of. Raises ValueError if one is no number."""
        features = features_BD.astype(np.float64)
        found = np.stack([self._distances(features, query) for query in self._queries])
        if not np.isfinite(found).all():
            raise ValueError("features are no numbers")
        distances = np.concatenate([self.distances, found], axis=1)
        rows = np.concatenate([self.rows, np.broadcast_to(rows_B, found.shape)], axis=1)
        order = np.stack([np.lexsort(pair)[: self._keep] for pair in zip(rows, distances, strict=True)])
        self.distances = np.take_along_axis(distances, order, axis=1)
        self.rows = np.take_along_axis(rows, order, axis=1)

    @staticmethod
    def _distances(features_BD: NDArray[np.float64], query_D: NDArray[np.float64]) -> NDArray[np.float64]:
        # By differences: |a|² + |b|² - 2ab would lose digits where a is near b, which is what is looked for.
        difference = features_BD - query_D
        distances: NDArray[np.float64] = np.sqrt(np.einsum("bd,bd->b", difference, difference))
        return distances
