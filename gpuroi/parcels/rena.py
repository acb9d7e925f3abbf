"""Recursive nearest agglomeration: neighbours merge with the one that is most alike, all at once, a few times."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.graph import Graph
from gpuroi.domains.domain import on_host
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.volumes import as_float
from gpuroi.parcels.numbering import numbered_by_first

__all__ = ["rena"]

_BLOCK_VALUES = 1 << 18  # differences at once, which stay in cache


def rena(data: Any, graph: Graph, n_clusters: int, *, n_iter: int = 10, threshold: float = 1e-7) -> NDArray[np.int32]:
    """Cluster neighbours that have similar values, in time linear in the number of elements.

    Parameters
    ----------
    data : array, shape (n, v)
        n values of each of v elements; NumPy, or CuPy, which is copied to the host.
    graph : Graph
        Which elements are neighbours, as `domain.graph`.
    n_clusters : int
        k, 1 to v.
    n_iter : int, default 10
        Rounds at most. Each leaves a third to a half of the clusters.
    threshold : float, default 1e-7
        Neighbours whose squared distance exceeds the least one by no more than this share are as near.

    Returns
    -------
    int32 array, shape (v,)
        0.., numbered by first elements. k clusters, or more if the rounds do not suffice or the graph is in more
        than k pieces.

    Raises
    ------
    UsageError
        A number of clusters or of rounds outside its range.
    DataError
        A graph of another number of elements; NaN or infinite values.

    Notes
    -----
    In each round every cluster is joined with its nearest neighbour, connected clusters become one, whose values are
    the mean of theirs. Where that would leave fewer than k, only the shortest joins are made, as many as leave k.
    nilearn makes in this last round the joins whose clusters have numbers furthest apart; before it the results are
    equal, but for identical neighbours, which nilearn never joins in its first round and which are joined first here.
    On the CPU.

    References
    ----------
    .. [1] Hoyos-Idrobo A, Varoquaux G, Kahn J, Thirion B (2019). Recursive nearest agglomeration (ReNA): fast
       clustering for approximation of structured signals. IEEE Trans Pattern Anal Mach Intell 41, 669-681.
       doi:10.1109/TPAMI.2018.2815524

    Examples
    --------
    >>> from gpuroi.domains import VoxelGrid
    >>> grid = VoxelGrid(np.ones((1, 1, 5)))
    >>> rena(np.array([[0.0, 0.1, 4.0, 4.2, 9.0]]), grid.graph, 2).tolist()
    [0, 0, 1, 1, 1]
    """
    values = _checked(data, graph, n_clusters, n_iter)
    points = np.ascontiguousarray(values.T)  # (v, n): both ends of an edge are then two rows
    low = np.repeat(np.arange(graph.n_elements), np.diff(graph.indptr))
    once = low < graph.indices
    low, high = low[once], graph.indices[once].astype(np.int64)
    labels: NDArray[Any] = np.arange(graph.n_elements)
    for _ in range(n_iter):
        if len(points) <= n_clusters or not len(low):
            break
        merged = _merged(len(points), low, high, _distances(points, low, high), n_clusters, threshold)
        labels = merged[labels]
        points, low, high = _reduced(points, low, high, merged)
    return numbered_by_first(labels)


def _checked(data: Any, graph: Graph, n_clusters: int, n_iter: int) -> NDArray[Any]:
    values: NDArray[Any] = as_float(get_backend("cpu"), on_host(data), "data")
    v = graph.n_elements
    if values.ndim != 2 or values.shape[1] != v:
        raise DataError(f"data have shape {values.shape}, but the graph has {v} elements: expected (n, {v})")
    if not 1 <= n_clusters <= v:
        raise UsageError(f"{n_clusters} clusters of {v} elements asked for", f"ask for 1 to {v}")
    if n_iter < 1:
        raise UsageError(f"n_iter is {n_iter}", "use 1 or more")
    if not np.isfinite(values).all():
        raise DataError("data hold NaN or infinite values", "leave these elements out, or mend them")
    return values


def _distances(points: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the squared distance along each edge."""
    distances = np.empty(len(low))
    size = max(1, _BLOCK_VALUES // points.shape[1])
    for start in range(0, len(low), size):
        part = slice(start, start + size)
        away = points[low[part]] - points[high[part]]
        distances[part] = np.einsum("ij,ij->i", away, away, dtype=np.float64)
    return distances


def _merged(
    m: int,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    distances: NDArray[np.float64],
    n_clusters: int,
    threshold: float,
) -> NDArray[np.int32]:
    """Return the new number of each of m clusters: joined with the nearest, but never to fewer than asked for."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    least = np.full(m, np.inf)
    np.minimum.at(least, low, distances)
    np.minimum.at(least, high, distances)
    nearest = distances * (1 - threshold) <= np.maximum(least[low], least[high])
    low, high, distances = low[nearest], high[nearest], distances[nearest]
    found, labels = connected_components(coo_array((np.ones(len(low)), (low, high)), shape=(m, m)), directed=False)
    if found >= n_clusters:
        return np.asarray(labels, np.int32)
    rank = np.empty(len(low))  # from 1: SciPy takes an edge of weight 0 for none
    rank[np.lexsort((high, low, distances))] = np.arange(1, len(low) + 1)
    tree = minimum_spanning_tree(coo_array((rank, (low, high)), shape=(m, m))).tocoo()
    shortest = np.argsort(tree.data)[: m - n_clusters]
    kept = coo_array((np.ones(len(shortest)), (tree.row[shortest], tree.col[shortest])), shape=(m, m))
    return np.asarray(connected_components(kept, directed=False)[1], np.int32)


def _reduced(
    points: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64], merged: NDArray[np.int32]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Return the means of what was merged, and the edges that are left between them, each once."""
    from scipy.sparse import csr_array

    m, k = len(points), int(merged.max()) + 1
    share = (1.0 / np.bincount(merged, minlength=k)).astype(points.dtype)
    order = np.argsort(merged, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(merged, minlength=k))])
    means = csr_array((share[merged[order]], order, starts), shape=(k, m)) @ points
    a, b = merged[low].astype(np.int64), merged[high].astype(np.int64)
    pairs = np.unique(np.minimum(a, b)[a != b] * k + np.maximum(a, b)[a != b])
    return np.asarray(means), pairs // k, pairs % k
