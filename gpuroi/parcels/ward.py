"""Ward's hierarchical clustering of neighbours: one tree, cut at any number of parcels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.graph import Graph
from gpuroi.domains.domain import on_host
from gpuroi.errors import DataError, UsageError
from gpuroi.parcels.numbering import numbered_by_first
from gpuroi.parcels.scikit_learn import need_scikit_learn

__all__ = ["WardTree", "ward_tree"]


@dataclass(frozen=True, eq=False)
class WardTree:
    """Merges of elements and of what they have become, from single elements to one cluster.

    Attributes
    ----------
    children : int64 array, shape (v - 1, 2)
        Row i merges two nodes to node v + i; below v a node is an element.
    heights : float64 array, shape (v - 1,)
        Ward's distance at each merge: the root of twice the increase of the sum of squares within clusters.

    Examples
    --------
    >>> tree = WardTree(np.array([[1, 2], [0, 3]]), np.array([1.0, 5.0]))
    >>> tree.cut(2).tolist(), tree.cut(1).tolist()
    ([0, 1, 1], [0, 0, 0])
    """

    children: NDArray[np.int64]
    heights: NDArray[np.float64]

    @property
    def n_elements(self) -> int:
        """Number of elements, v."""
        return len(self.children) + 1

    def cut(self, n_clusters: int) -> NDArray[np.int32]:
        """Return the clusters after the first v - k merges.

        Parameters
        ----------
        n_clusters : int
            k, 1 to v.

        Returns
        -------
        int32 array, shape (v,)
            0..k-1, numbered by first elements.

        Raises
        ------
        UsageError
            Any other k.
        """
        v = self.n_elements
        if not 1 <= n_clusters <= v:
            raise UsageError(f"{n_clusters} clusters of {v} elements asked for", f"ask for 1 to {v}")
        merges = self.children[: v - n_clusters]
        parent = np.arange(v + len(merges))
        parent[merges] = v + np.arange(len(merges))[:, None]
        while True:  # each round doubles how far up a node sees
            higher = parent[parent]
            if np.array_equal(higher, parent):
                return numbered_by_first(parent[:v])
            parent = higher


def ward_tree(data: Any, graph: Graph) -> WardTree:
    """Merge neighbours step by step, always the two that add least to the sum of squares within clusters.

    Parameters
    ----------
    data : array, shape (n, v)
        n values of each of v elements; NumPy, or CuPy, which is copied to the host.
    graph : Graph
        Which elements are neighbours, as `domain.graph`.

    Returns
    -------
    WardTree

    Raises
    ------
    MissingPackageError
        Without scikit-learn, which does the work.
    DataError
        A graph of another number of elements; NaN or infinite values.

    Notes
    -----
    On the CPU, in float64. Pieces of the graph that do not touch are joined by scikit-learn, each pair at its two
    nearest elements (by value), so that every number of clusters down to 1 can be had; two such pieces can then share
    a cluster.

    References
    ----------
    .. [1] Ward JH (1963). Hierarchical grouping to optimize an objective function. J Am Stat Assoc 58, 236-244.
       doi:10.1080/01621459.1963.10500845
    .. [2] Michel V et al. (2012). A supervised clustering approach for fMRI-based inference of brain states. Pattern
       Recognit 45, 2041-2049. doi:10.1016/j.patcog.2011.04.006

    Examples
    --------
    >>> from gpuroi.domains import VoxelGrid
    >>> grid = VoxelGrid(np.ones((1, 1, 5)))
    >>> ward_tree(np.array([[0.0, 0.1, 4.0, 4.2, 9.0]]), grid.graph).cut(3).tolist()
    [0, 0, 1, 1, 2]
    """
    need_scikit_learn("Ward's clustering")
    from scipy.sparse import csr_array
    from sklearn.cluster import ward_tree as merge

    values = on_host(data)
    v = graph.n_elements
    if values.ndim != 2 or values.shape[1] != v:
        raise DataError(f"data have shape {values.shape}, but the graph has {v} elements: expected (n, {v})")
    if not np.isfinite(values).all():
        raise DataError("data hold NaN or infinite values", "leave these elements out, or mend them")
    if v == 1:
        return WardTree(np.empty((0, 2), np.int64), np.empty(0))
    links = csr_array((np.ones(len(graph.indices)), graph.indices, graph.indptr), shape=(v, v))
    points = np.ascontiguousarray(values.T, dtype=np.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the number of connected components", category=UserWarning)
        children, _, _, _, heights = merge(points, connectivity=links, return_distance=True)
    return WardTree(np.asarray(children, np.int64), np.asarray(heights, np.float64))
