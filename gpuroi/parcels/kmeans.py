"""K-means of elements by their values: Lloyd's algorithm as matrix products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array, Backend
from gpuroi.backends.threads import one_blas_thread, run_blocks
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.volumes import as_float
from gpuroi.parcels.kmeans_bounds import Bounds

__all__ = ["KMeansResult", "kmeans"]

_BLOCK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28}  # of distances at once: what stays in cache, what fills the device
_ROWS_A_THREAD = 1024
_PAIR_VALUES = 1 << 22  # float64 differences at once where float32 cannot decide
_SEED_ELEMENTS = 3072  # k-means++ draws from at most so many elements, or three for each cluster
_ROUNDING = 2.0**-24  # unit roundoff of float32


@dataclass(frozen=True)
class KMeansResult:
    """Clusters of elements.

    Attributes
    ----------
    labels : int32 array, shape (v,)
        Cluster of each element, 0..k-1, in the order of the centres. Host.
    centers : float64 array, shape (n, k)
        Mean of the elements of each cluster. Host.
    inertia : float
        Sum of squared distances of the elements to their centres.
    n_iter : int
        Iterations of Lloyd's algorithm.
    """

    labels: NDArray[np.int32]
    centers: NDArray[np.float64]
    inertia: float
    n_iter: int


def kmeans(
    data: Any,
    n_clusters: int,
    *,
    init: Any = "k-means++",
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    seed: int = 0,
) -> KMeansResult:
    """Cluster the columns of a matrix: elements with similar values come together.

    Parameters
    ----------
    data : array, shape (n, v)
        n values of each of v elements; NumPy or CuPy. float32 or float64; other numbers become float32.
    n_clusters : int
        k, 1 to v.
    init : "k-means++" or array, shape (n, k), default "k-means++"
        Where the centres begin.
    n_init : int, default 1
        Runs from different k-means++ draws; the one of the lowest inertia is returned.
    max_iter : int, default 100
        Iterations of a run at most.
    tol : float, default 1e-4
        A run ends when no label changes, or the centres move by less: the sum of their squared moves is at most `tol`
        times the mean variance of the n rows.
    seed : int, default 0
        Run i draws from Philox with this key and counter i.

    Returns
    -------
    KMeansResult
        Of fewer than k clusters where the data hold fewer than k distinct elements.

    Raises
    ------
    UsageError
        A number of clusters, of runs or of iterations outside its range.
    DataError
        Data that are not two-dimensional, or hold NaN or infinite values; an `init` of another shape.

    Notes
    -----
    Distances come from one product in float32; where its rounding errors leave open which centre is nearest, float64
    decides. Labels depend on no split, number of threads or device. Memory beside the data: a float32 copy.
    On the CPU a byte for each element and centre beside it, up to 2 GiB, bounds their distance [3]_: after the first
    iterations few distances are computed, the more so the clearer the clusters. A bound leaves out no centre that
    could be nearest.
    An empty cluster takes the element farthest from its own centre.
    k-means++ draws the best of 2 + log(k) candidates each time, among at most max(3072, 3 k) elements.

    References
    ----------
    .. [1] Lloyd SP (1982). Least squares quantization in PCM. IEEE Trans Inf Theory 28, 129-137.
       doi:10.1109/TIT.1982.1056489
    .. [2] Arthur D, Vassilvitskii S (2007). k-means++: the advantages of careful seeding. SODA 2007, 1027-1035.
       doi:10.5555/1283383.1283494
    .. [3] Elkan C (2003). Using the triangle inequality to accelerate k-means. ICML 2003, 147-153.

    Examples
    --------
    >>> result = kmeans(np.array([[0.0, 5.0, 0.2, 5.2]]), 2, seed=1)
    >>> sorted(result.centers[0].round(1).tolist()), round(result.inertia, 2)
    ([0.1, 5.1], 0.04)
    """
    backend = backend_of(data)
    with backend.activate():
        values = as_float(backend, data, "data")
        _check(backend, values, n_clusters, n_init, max_iter)
        screened = _screened(backend, values)
        starts = _starts(backend, values, init, int(n_clusters), int(n_init), int(seed))
        results = [_lloyd(screened, start, int(max_iter), float(tol)) for start in starts]
    return min(results, key=lambda result: result.inertia)


def _check(backend: Backend, values: Array, n_clusters: int, n_init: int, max_iter: int) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"data have shape {tuple(values.shape)}: expected (n, v), one column for each element")
    v = values.shape[1]
    if not 1 <= n_clusters <= v:
        raise UsageError(f"{n_clusters} clusters of {v} elements asked for", f"ask for 1 to {v}")
    if n_init < 1 or max_iter < 1:
        raise UsageError(f"n_init is {n_init} and max_iter {max_iter}", "use 1 or more")
    if not bool(backend.xp.isfinite(values).all()):  # sync: reads one bool
        raise DataError("data hold NaN or infinite values", "leave these elements out, or mend them")


@dataclass(frozen=True)
class _Screened:
    """The data, and a float32 copy of them, centred and scaled, that products are taken of."""

    backend: Backend
    values: Array  # (n, v)
    small: Array  # (n, v) float32: (values - shift) * scale; the values of an element lie side by side on the CPU
    norms: Array  # (v,) float64, of the columns of `small`
    shift: Array  # (n, 1) float64
    scale: float
    variance: float  # mean over the rows


def _screened(backend: Backend, values: Array) -> _Screened:
    xp = backend.xp
    shift = values.mean(axis=1, dtype=np.float64)[:, None]  # (n, 1)
    widest = xp.maximum(values.max(axis=1) - shift[:, 0], shift[:, 0] - values.min(axis=1))  # (n,)
    spread = float(widest.max())  # sync: reads one float
    scale = 1.0 / spread if spread > 0 else 1.0
    n, v = values.shape
    small = xp.empty((v, n), np.float32).T if backend.name == "cpu" else xp.empty((n, v), np.float32)
    squares = xp.empty(v)
    size = max(1, _BLOCK_BYTES[backend.name] // (8 * n))
    for start in range(0, v, size):  # block by block: a float64 copy of all would take three times the memory
        part = slice(start, start + size)
        centred = (values[:, part] - shift) * scale  # (n, size) float64
        small[:, part] = centred
        squares[part] = (centred * centred).sum(axis=0)
    variance = float(squares.sum()) / values.size / scale**2  # sync: reads one float
    return _Screened(backend, values, small, xp.sqrt(squares), shift, scale, variance)


def _starts(backend: Backend, values: Array, init: Any, k: int, n_init: int, seed: int) -> list[Array]:
    """Return the first centres of each run, float64 (n, k)."""
    n, v = values.shape
    if not isinstance(init, str):
        start = backend.asarray(backend.to_numpy(init) if backend.owns(init) else np.asarray(init), np.float64)
        if tuple(start.shape) != (n, k):
            raise DataError(f"init has shape {tuple(start.shape)}: expected {(n, k)}, one column for each centre")
        return [start]
    if init != "k-means++":
        raise UsageError(f'init is "{init}"', 'use "k-means++", or an array of centres')
    size = max(_SEED_ELEMENTS, 3 * k)
    starts = []
    for run in range(n_init):
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, run]))
        chosen = np.sort(random.choice(v, size, replace=False, shuffle=False)) if size < v else np.arange(v)
        picked = chosen[_plus_plus(_columns(backend, values, chosen), k, random)]
        if len(picked) < k and size < v:  # too few distinct elements among those drawn
            picked = _plus_plus(_columns(backend, values, np.arange(v)), k, random)
        starts.append(backend.asarray(_columns(backend, values, picked)))
    return starts


def _columns(backend: Backend, values: Array, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Copy some elements to the host, float64 (n, m): draws are then the same on every device."""
    taken = values if len(chosen) == values.shape[1] else backend.xp.take(values, backend.asarray(chosen), axis=1)
    return np.ascontiguousarray(backend.to_numpy(taken), dtype=np.float64)


def _plus_plus(points: NDArray[np.float64], k: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw up to k distinct columns of `points` (n, m), each with a chance that grows with its distance."""
    points = points - points.mean(axis=1, keepdims=True)
    squares = np.einsum("ij,ij->j", points, points)  # (m,)
    trials = 2 + int(math.log(k))
    picked = [int(random.integers(len(squares)))]
    closest = _squared_distances(points, squares, picked)[0]  # (m,)
    while len(picked) < k:
        reached = np.cumsum(closest)
        if reached[-1] <= 0:
            break  # all that is left equals a centre
        drawn = np.searchsorted(reached, random.random(trials) * reached[-1], side="right")
        drawn = np.minimum(drawn, len(squares) - 1)
        left = np.minimum(_squared_distances(points, squares, drawn), closest)  # (trials, m)
        best = int(left.sum(axis=1).argmin())
        if closest[drawn[best]] <= 0:  # the last bit of the sum was drawn: take the farthest
            drawn[best] = int(closest.argmax())
            left[best] = np.minimum(_squared_distances(points, squares, drawn[best : best + 1])[0], closest)
        closest = left[best]
        picked.append(int(drawn[best]))
    return np.array(picked, np.int64)


def _squared_distances(points: NDArray[np.float64], squares: NDArray[np.float64], of: Any) -> NDArray[np.float64]:
    """Return squared distances (m_of, m); what is below their rounding errors is 0."""
    sums = squares[of][:, None] + squares
    distances = sums - 2 * (points[:, of].T @ points)
    distances[distances <= 1e-13 * sums] = 0
    return np.asarray(distances)


def _lloyd(data: _Screened, start: Array, max_iter: int, tol: float) -> KMeansResult:
    xp, (n, v), k = data.backend.xp, data.values.shape, start.shape[1]
    use_bounds = data.backend.name == "cpu" and Bounds.pay(n, v, k)
    bounds = Bounds(data.small.T, data.norms**2, k) if use_bounds else None
    labels, centers = xp.full(v, -1, np.int32), start
    n_iter, settled = 0, False
    while n_iter < max_iter:
        n_iter += 1
        before, labels = labels, _nearest(data, centers, labels, bounds)
        counts = xp.bincount(labels, minlength=k)
        if bool((counts == 0).any()):  # sync: reads one bool
            labels, counts = _refill(data, labels, centers, counts)
        left, centers = centers, _means(data, labels, before, centers, counts)
        moved = centers - left
        settled = bool((labels == before).all())  # sync: reads one bool
        if settled or float((moved * moved).sum()) <= tol * data.variance:  # sync: reads one float
            break
    if not settled:
        labels = _nearest(data, centers, labels, bounds)
    inertia = float(_to_centers(data, labels, centers).sum())  # sync: reads one float
    return KMeansResult(data.backend.to_numpy(labels), data.backend.to_numpy(centers), inertia, n_iter)


def _means(data: _Screened, labels: Array, before: Array, centers: Array, counts: Array) -> Array:
    """Return the mean of the elements of each centre, float64 (n, k): as it is where they are those of before."""
    xp, k = data.backend.xp, centers.shape[1]
    differ = labels != before
    changed = xp.zeros(k + 1, np.bool_)  # the last: no centre, before the first iteration
    changed[before[differ]] = True
    changed[labels[differ]] = True
    which = xp.nonzero(changed[:k])[0]  # sync: their number
    number = xp.zeros(k, np.int32)
    number[which] = xp.arange(1, len(which) + 1, dtype=np.int32)
    means = centers.copy()
    if len(which):
        sums, _ = data.backend.label_sums(data.values, number[labels], len(which))  # (n, changed)
        means[:, which] = sums / counts[which]
    return means


def _nearest(data: _Screened, centers: Array, before: Array, bounds: Bounds | None) -> Array:
    """Return the nearest centre of each element, int32 (v,); of several the first.

    Of |x - c|^2 = |x|^2 - 2 x.c + |c|^2 the first term is the same for all centres, and left out.
    """
    backend, xp = data.backend, data.backend.xp
    (n, v), k = data.small.shape, centers.shape[1]
    near = (centers - data.shift) * data.scale  # (n, k)
    squares = (near * near).sum(axis=0)  # (k,)
    product = (-2 * near).astype(np.float32)
    longest = xp.sqrt(squares.max())
    # How far two sums of n rounded products can be off: |x| |c| from each product, |c|^2 from the squares.
    slack = ((4 * n + 24) * _ROUNDING * longest * (data.norms + longest)).astype(np.float32)  # (v,)
    squares = squares.astype(np.float32)
    labels, left_open = xp.empty(v, np.int32), None
    if bounds is not None:
        labels = bounds.nearest(near, product, squares, slack, before, _BLOCK_BYTES["cpu"])
        left_open = xp.nonzero(labels < 0)[0]
    rows = max(1, _BLOCK_BYTES[backend.name] // (4 * k))

    def work(first: int, last: int) -> None:
        for start in range(first, last, rows):
            part = slice(start, min(last, start + rows))
            part = part if left_open is None else left_open[part]
            labels[part] = _nearest_of(data, centers, product, squares, slack, part)

    if backend.name == "cpu":  # a block a thread: argmin and minimum take as long as the product, and know no threads
        with one_blas_thread():
            run_blocks(work, v if left_open is None else len(left_open), least=_ROWS_A_THREAD)
    else:
        work(0, v)
    return labels


def _nearest_of(data: _Screened, centers: Array, product: Array, squares: Array, slack: Array, part: Any) -> Array:
    """Return the nearest centre of some elements, a slice or their numbers, int32."""
    xp = data.backend.xp
    distance = data.small[:, part].T @ product  # (rows, k)
    distance += squares
    here = xp.arange(len(distance))
    nearest = distance.argmin(axis=1).astype(np.int32)
    least = distance[here, nearest]
    distance[here, nearest] = np.inf
    unsure = xp.nonzero(distance.min(axis=1) - least <= slack[part])[0]  # sync: their number
    if len(unsure):
        distance[here, nearest] = least
        row, center = xp.nonzero(distance[unsure] <= (least + slack[part])[unsure][:, None])  # sync: their number
        element = part.start + unsure[row] if isinstance(part, slice) else part[unsure[row]]
        nearest[unsure] = _decided(data, centers, element, center, row, len(unsure))
    return nearest


def _decided(data: _Screened, centers: Array, element: Array, center: Array, row: Array, n_rows: int) -> Array:
    """Return for each row the nearest of its centres, by float64 differences; rows ascend, and centres within them."""
    backend = data.backend
    exact = np.empty(len(element))
    size = max(1, _PAIR_VALUES // data.values.shape[0])
    for start in range(0, len(element), size):
        part = slice(start, start + size)
        exact[part] = backend.to_numpy(_squared(data, element[part], centers, center[part]))  # sync
    rows, candidates = backend.to_numpy(row), backend.to_numpy(center)
    order = np.lexsort((candidates, exact, rows))
    first = np.searchsorted(rows[order], np.arange(n_rows))
    return backend.asarray(candidates[order][first].astype(np.int32))


def _squared(data: _Screened, element: Array, centers: Array, center: Array) -> Array:
    """Return the squared distances of elements to centres, pair by pair, float64."""
    xp = data.backend.xp
    away = xp.take(data.values, element, axis=1) - xp.take(centers, center, axis=1)
    return (away * away).sum(axis=0)


def _to_centers(data: _Screened, labels: Array, centers: Array) -> Array:
    """Return the squared distance of each element to its centre, float64 (v,)."""
    total = data.backend.xp.zeros(len(labels))
    for row in range(data.values.shape[0]):
        away = data.values[row] - centers[row][labels]
        total += away * away
    return total


def _refill(data: _Screened, labels: Array, centers: Array, counts: Array) -> tuple[Array, Array]:
    """Give each empty cluster the element that is farthest from its centre."""
    backend = data.backend
    away = backend.to_numpy(_to_centers(data, labels, centers))  # sync
    host, sizes = backend.to_numpy(labels).copy(), backend.to_numpy(counts).copy()
    farthest = iter(np.lexsort((np.arange(len(away)), -away)))
    for empty in np.flatnonzero(sizes == 0):
        element = next(i for i in farthest if sizes[host[i]] > 1)
        sizes[host[element]] -= 1
        sizes[empty], host[element] = 1, empty
    return backend.asarray(host), backend.asarray(sizes)
