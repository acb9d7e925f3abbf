"""Numbers of clusters that depend on the clusters alone, and their connected pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.graph import Graph

__all__ = ["numbered_by_first", "pieces"]


def numbered_by_first(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Renumber clusters 0..k-1 by their first elements, as components are numbered.

    Examples
    --------
    >>> numbered_by_first(np.array([7, 7, 2, 7, 5])).tolist()
    [0, 0, 1, 0, 2]
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int32)
    number[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return np.asarray(number[inverse], np.int32)


def pieces(labels: NDArray[Any], graph: Graph) -> NDArray[np.int32]:
    """Return the connected pieces of clusters, numbered by first elements from 0.

    Parameters
    ----------
    labels : int array, shape (v,)
    graph : Graph

    Returns
    -------
    int32 array, shape (v,)

    Examples
    --------
    >>> from gpuroi.domains import VoxelGrid
    >>> pieces(np.array([0, 1, 0, 0]), VoxelGrid(np.ones((1, 1, 4))).graph).tolist()
    [0, 1, 2, 2]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    v = graph.n_elements
    rows = np.repeat(np.arange(v, dtype=np.int32), np.diff(graph.indptr))
    same = labels[rows] == labels[graph.indices]
    links = coo_array((np.ones(int(same.sum()), np.int8), (rows[same], graph.indices[same])), shape=(v, v))
    return numbered_by_first(connected_components(links, directed=False)[1])
