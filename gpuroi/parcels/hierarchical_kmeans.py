"""K-means in two levels: a few large clusters, then small ones within each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.errors import DataError, UsageError
from gpuroi.parcels.kmeans import kmeans

__all__ = ["hierarchical_kmeans"]


def hierarchical_kmeans(
    data: Any, n_clusters: int, *, n_init: int = 1, max_iter: int = 100, tol: float = 1e-4, seed: int = 0
) -> NDArray[np.int32]:
    """Cluster elements by K-means into sqrt(k) large clusters, and these into k small ones.

    Parameters
    ----------
    data : array, shape (n, v)
        n values of each of v elements; NumPy or CuPy.
    n_clusters : int
        k, 1 to v. Each large cluster gets a share that goes with its size, and one at least.
    n_init, max_iter, tol, seed
        As of `kmeans`, for each of its runs.

    Returns
    -------
    int32 array, shape (v,)
        0..k-1; fewer where a large cluster holds fewer distinct elements than its share. Host.

    Raises
    ------
    UsageError, DataError
        As `kmeans`.

    Notes
    -----
    Costs about sqrt(k) products for each element where K-means costs k, and keeps clusters of similar sizes.

    Examples
    --------
    >>> hierarchical_kmeans(np.array([[0.0, 0.1, 4.0, 4.2, 9.0, 9.9]]), 4).max() + 1
    np.int32(4)
    """
    backend = backend_of(data)
    values = data if backend.owns(data) else np.asarray(data)
    if values.ndim != 2:
        raise DataError(f"data have shape {tuple(values.shape)}: expected (n, v), one column for each element")
    v = values.shape[1]
    if not 1 <= n_clusters <= v:
        raise UsageError(f"{n_clusters} clusters of {v} elements asked for", f"ask for 1 to {v}")
    how: dict[str, Any] = {"n_init": n_init, "max_iter": max_iter, "tol": tol, "seed": seed}
    large = kmeans(values, math.isqrt(n_clusters), **how).labels
    sizes = np.bincount(large)
    labels = np.empty(v, np.int32)
    used = 0
    for cluster, share in enumerate(_shares(sizes, n_clusters)):
        inside = np.flatnonzero(large == cluster)
        with backend.activate():
            part = backend.xp.take(values, backend.asarray(inside), axis=1)
        small = kmeans(part, int(share), **how).labels
        labels[inside] = used + small
        used += int(small.max()) + 1
    return labels


def _shares(sizes: NDArray[np.int64], n_clusters: int) -> NDArray[np.int64]:
    """Divide k among clusters by their sizes: rounded, one at least, k together.

    Where rounding gives too few the cluster that lost most gets one more; where too many, the one that won most.

    Examples
    --------
    >>> _shares(np.array([1, 40, 59]), 10).tolist()
    [1, 4, 5]
    """
    exact = n_clusters * sizes / sizes.sum()
    shares = np.maximum(np.rint(exact).astype(np.int64), 1)
    while shares.sum() < n_clusters:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > n_clusters:
        lost = np.where(shares > 1, exact - shares, np.inf)
        shares[np.argmin(lost)] -= 1
    return np.asarray(np.minimum(shares, sizes))
