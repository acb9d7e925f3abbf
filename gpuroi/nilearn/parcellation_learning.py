"""What a parcellation is learnt from, and by which method: principal components of all images, then clusters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.graph import Graph
from gpuroi.nilearn.argument_checks import seed_of
from gpuroi.nilearn.parcellation_masker import neighbour_matrix
from gpuroi.parcels import hierarchical_kmeans, kmeans, rena

__all__ = ["METHODS", "clusters", "explained_by", "group_components", "reduced_series"]

METHODS = ("kmeans", "ward", "complete", "average", "rena", "hierarchical_kmeans")
_COLUMNS = 8192  # in float64 at once
_NOISE = {"float32": 1e-5, "float64": 1e-7}  # singular values below this share of the first are rounding errors
_MOST_ITERATIONS, _TOLERANCE = 50, 1e-3  # of K-means: what comes after changes few labels
_SMALL = 500  # up to this size the whole decomposition costs nothing


def reduced_series(series: NDArray[Any], n_components: int, random_state: Any) -> NDArray[Any]:
    """Return the first left singular vectors of (v, n) series, times their singular values.

    Parameters
    ----------
    series : array, shape (n, v)
    n_components : int
        At most so many, and at most n.
    random_state : int, RandomState or None
        Of the randomised decomposition, which is taken where it pays.

    Returns
    -------
    array, shape (m, v)

    Notes
    -----
    Directions that hold rounding errors alone, such as the mean over time of standardized series, are left out: each
    component counts alike in what follows, and they would count as much as the first.
    """
    m = min(n_components, len(series))
    if max(series.shape) > _SMALL and m < 0.8 * min(series.shape):
        from sklearn.utils.extmath import randomized_svd

        left, values, _ = randomized_svd(series.T, n_components=m, n_iter="auto", random_state=random_state)
        return np.asarray((left * values)[:, values > values[0] * _NOISE[left.dtype.name]].T)
    directions, _ = _principal(series)
    return _product(directions[:, :m].T, series)


def group_components(
    blocks: list[NDArray[Any]], n_components: int, random_state: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return components of all images together, and the variance of each.

    Parameters
    ----------
    blocks : list of array, shape (m, v)
        From `reduced_series`; each row counts alike, whatever its length.
    n_components : int
        At most so many.
    random_state : int, RandomState or None

    Returns
    -------
    components : array, shape (c, v)
        Orthonormal rows.
    variance : array, shape (c,)
        Singular values.
    """
    data = np.concatenate(blocks)
    length = np.sqrt(np.sum(data**2, axis=1))
    length[length == 0] = 1
    data /= length[:, None]
    if len(data) > n_components:
        from sklearn.utils.extmath import randomized_svd

        left, variance, _ = randomized_svd(
            data.T, n_components=n_components, transpose=True, random_state=random_state, n_iter=3
        )
        return np.ascontiguousarray(left.T), variance
    directions, values = _principal(data)
    return _product((directions / np.where(values > 0, values, 1)).T, data), values.astype(data.dtype)


def clusters(
    components: NDArray[Any], method: str, n_parcels: int, graph: Graph, *, random_state: Any, n_iter: int
) -> NDArray[np.int32]:
    """Return the cluster of each element, from 0.

    Parameters
    ----------
    components : array, shape (c, v)
    method : str
        One of `METHODS`.
    n_parcels : int
    graph : Graph
        Neighbours, for all but K-means.
    random_state : int, RandomState or None
        Of K-means.
    n_iter : int
        Rounds of ReNA.

    Returns
    -------
    int32 array, shape (v,)
    """
    if method == "rena":
        return rena(components, graph, n_parcels, n_iter=n_iter)
    if method in ("kmeans", "hierarchical_kmeans"):
        backend = get_backend("auto")
        data, seed = backend.asarray(components), seed_of(random_state)
        if method == "kmeans":
            return kmeans(data, n_parcels, max_iter=_MOST_ITERATIONS, tol=_TOLERANCE, seed=seed).labels
        return hierarchical_kmeans(data, n_parcels, max_iter=_MOST_ITERATIONS, tol=_TOLERANCE, seed=seed)
    from sklearn.cluster import AgglomerativeClustering

    merge = AgglomerativeClustering(n_clusters=n_parcels, connectivity=neighbour_matrix(graph), linkage=method)
    return np.asarray(merge.fit(components.T).labels_, np.int32)


def explained_by(series: NDArray[Any], components: NDArray[Any], *, per_component: bool) -> Any:
    """Return the share of variance of (n, v) series that components (c, v) explain, together or each."""
    length = np.sqrt(np.sum(components**2, axis=1))
    unit = components / np.where(length > 0, length, 1)[:, None]
    if per_component:
        scores = unit @ series.T  # (c, n)
        left = [np.var(series - np.outer(score, one)) for score, one in zip(scores, unit, strict=True)]
        return np.maximum(0.0, 1.0 - np.array(left) / np.var(series))
    design = np.column_stack([unit.T, np.ones(unit.shape[1])])  # (v, c + 1)
    weights = np.linalg.lstsq(design, series.T, rcond=None)[0][:-1]
    rest = series - weights.T @ unit
    share = 1.0 - float(np.sum(rest**2)) / float(np.sum(series**2))
    return max(0.0, share) if math.isfinite(share) else math.nan


def _principal(data: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return left singular vectors (m, r) and singular values (r,) of (m, v) rows, those of rounding errors left out.

    By the products of the rows: m is in the hundreds and v in the hundred thousands, and one pass over them is enough.
    """
    m, v = data.shape
    products = np.zeros((m, m))
    for start in range(0, v, _COLUMNS):
        part = data[:, start : start + _COLUMNS].astype(np.float64)
        products += part @ part.T
    squares, vectors = np.linalg.eigh(products)
    values = np.sqrt(np.maximum(squares[::-1], 0))
    kept = values > values[0] * _NOISE[data.dtype.name]
    kept[0] = True
    return vectors[:, ::-1][:, kept], values[kept]


def _product(weights: NDArray[np.float64], data: NDArray[Any]) -> NDArray[Any]:
    """Return weighted sums of rows, (r, v), in the type of the data, added in float64."""
    result = np.empty((len(weights), data.shape[1]), data.dtype)
    for start in range(0, data.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        result[:, part] = weights @ data[:, part].astype(np.float64)
    return result
