"""Neighbours and weights of elements, as every device takes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Graph"]


class Graph(NamedTuple):
    """Which elements touch, in compressed sparse rows, and how much each one weighs. Host arrays.

    Symmetric: if j is a neighbour of i, i is one of j. The neighbours of an element ascend; none is its own.

    Two graphs are equal if they hold the very same arrays, and hash so: a cache of device copies keyed by a graph
    costs no pass over the data. An entry of such a cache must hold its graph (as `functools.lru_cache` does), or its
    array can be freed and the identity taken over by another. The arrays of a domain are read-only for the same reason.

    Examples
    --------
    >>> path = Graph(np.array([0, 1, 3, 4]), np.array([1, 0, 2, 1], np.int32), np.ones(3))
    >>> path.n_elements, path == Graph(*path), path == Graph(path.indptr, path.indices, np.ones(3))
    (3, True, False)
    """

    indptr: NDArray[np.int64]
    """`(v + 1,)`: the neighbours of element i are `indices[indptr[i]:indptr[i + 1]]`."""

    indices: NDArray[np.int32]
    """`(n_pairs,)`: every pair of neighbours twice, once from each side."""

    weights: NDArray[np.float64]
    """`(v,)`: what an element adds to the size of a cluster."""

    @property
    def n_elements(self) -> int:
        """Number of elements, v."""
        return int(self.weights.shape[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and all(a is b for a, b in zip(self, other, strict=True))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((id(self.indptr), id(self.indices), id(self.weights)))
