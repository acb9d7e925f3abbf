"""What the cases of parcels have to give: loops and NumPy in float64, written to be read, never timed."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs_parcels import Atlas, ParcelCohort, Series
from benchmarks.references import rearranged_t
from benchmarks.settings import KMEANS_ITERATIONS, PARCEL_THRESHOLD, REARRANGED, Outputs

__all__ = ["explained", "first_centers", "graph", "kmeans", "partition", "permutation", "rena", "second_number", "ward"]

_STEPS = 400  # of TFCE
_ROUNDS = 10  # of ReNA
_BLOCK = 4096  # elements whose distances are taken at a time


def graph(connectivity: int) -> Any:
    """Pairs of touching voxels, one direction after the other, in a table of all pairs of parcels."""

    def compute(atlas: Atlas) -> Outputs:
        padded = np.pad(atlas.labels, 1)
        table = np.zeros((int(padded.max()) + 1,) * 2, np.int64)
        furthest = {6: 1, 18: 2, 26: 3}[connectivity]
        for shift in np.ndindex(3, 3, 3):
            step = np.array(shift) - 1
            if 0 < np.abs(step).sum() <= furthest:
                there = np.roll(padded, step, axis=(0, 1, 2))
                np.add.at(table, (padded, there), 1)
        table[0] = table[:, 0] = 0
        table = np.triu(table, 1)  # each pair of voxels was met from both sides, once in either triangle
        edges = np.argwhere(table)
        return {"edges": edges, "contact": table[tuple(edges.T)]}

    return compute


def permutation(cohort: ParcelCohort) -> Outputs:
    """t of the data, and the maxima of the first rearrangements."""
    from gpuroi.inference.rearrange import make_rearrangements

    rows = make_rearrangements(len(cohort.design), x=cohort.design).rows(0, REARRANGED)
    t = rearranged_t(cohort.data, cohort.design, rows)
    edges = graph(6)(Atlas(cohort.labels))["edges"] - 1
    both = [(_largest(row, edges), _largest(-row, edges)) for row in t]
    return {
        "t": t[0],
        "null_max_stat": np.abs(t).max(axis=1),
        "null_max_size": np.array([max(a[0], b[0]) for a, b in both]),
        "null_max_mass": np.array([max(a[1], b[1]) for a, b in both]),
        "null_max_tfce": np.array([max(_tfce(row, edges).max(), _tfce(-row, edges).max()) for row in t]),
    }


def first_centers(series: Series) -> NDArray[np.float64]:
    """Where K-means begins for everybody: the series of random voxels. (n, k)"""
    chosen = np.random.default_rng(9).choice(series.values.shape[1], series.parcels, replace=False)
    return series.values[:, chosen].astype(np.float64)


def kmeans(series: Series) -> Outputs:
    """Lloyd's algorithm for a few iterations, then the nearest of the last centres."""
    points, centers = series.values.T.astype(np.float64), first_centers(series).T  # (v, n), (k, n)
    for _ in range(KMEANS_ITERATIONS):
        labels, _ = _nearest(points, centers)
        centers = _means(points, labels, len(centers))
    labels, distances = _nearest(points, centers)
    return {"labels": labels, "inertia": distances.sum()}


def rena(series: Series) -> Outputs:
    """Round by round: join each cluster with its nearest neighbours, shortest joins first, until there are few."""
    points = series.values.T.astype(np.float64)  # (v, n)
    edges, labels = _neighbours(series.mask), np.arange(len(points))
    for _ in range(_ROUNDS):
        if len(points) <= series.parcels:
            break
        length = ((points[edges[:, 0]] - points[edges[:, 1]]) ** 2).sum(axis=1)
        least = np.full(len(points), np.inf)
        for end in edges.T:
            np.minimum.at(least, end, length)
        joins = edges[length <= np.maximum(least[edges[:, 0]], least[edges[:, 1]])]
        joins = joins[np.argsort(((points[joins[:, 0]] - points[joins[:, 1]]) ** 2).sum(axis=1), kind="stable")]
        merged = _joined(len(points), joins, series.parcels)
        labels, points = merged[labels], _means(points, merged, int(merged.max()) + 1)
        edges = np.unique(np.sort(merged[edges], axis=1), axis=0)
        edges = edges[edges[:, 0] != edges[:, 1]]
    return {"parcels": len(points), "explained": explained(series, labels)}


def ward(*, fewer: bool = False) -> Any:
    """Merge the two neighbours that add least to the sum of squares, one pair after the other."""

    def compute(series: Series) -> Outputs:
        v, wanted = series.values.shape[1], second_number(series) if fewer else series.parcels
        n_nodes = 2 * v - wanted
        means = np.zeros((n_nodes, len(series.values)))
        means[:v] = series.values.T
        sizes = np.ones(n_nodes)
        parent = np.arange(n_nodes)
        around: list[set[int]] = [set() for _ in range(n_nodes)]
        edges = _neighbours(series.mask)
        for a, b in edges.tolist():
            around[a].add(b)
            around[b].add(a)
        cost = ((means[edges[:, 0]] - means[edges[:, 1]]) ** 2).sum(axis=1) / 2
        queue = [(c, a, b) for c, (a, b) in zip(cost.tolist(), edges.tolist(), strict=True)]
        heapq.heapify(queue)
        for new in range(v, n_nodes):
            while True:
                _, a, b = heapq.heappop(queue)
                if parent[a] == a and parent[b] == b:
                    break
            parent[a] = parent[b] = new
            sizes[new] = sizes[a] + sizes[b]
            means[new] = (sizes[a] * means[a] + sizes[b] * means[b]) / sizes[new]
            around[new] = (around[a] | around[b]) - {a, b}
            others = np.array(sorted(around[new]), dtype=np.int64)
            for other in others.tolist():
                around[other] -= {a, b}
                around[other].add(new)
            share = sizes[new] * sizes[others] / (sizes[new] + sizes[others])
            cost = share * ((means[others] - means[new]) ** 2).sum(axis=1)
            for c, other in zip(cost.tolist(), others.tolist(), strict=True):
                heapq.heappush(queue, (c, other, new))
        for node in range(n_nodes - 1, -1, -1):
            parent[node] = parent[parent[node]]
        return {"labels": partition(parent[:v])}

    return compute


def explained(series: Series, labels: NDArray[Any]) -> float:
    """Share of the variance over elements that is between parcels."""
    points = series.values.T.astype(np.float64)
    labels = partition(labels)
    left = points - _means(points, labels, int(labels.max()) + 1)[labels]
    return float(1 - (left**2).sum() / ((points - points.mean(axis=0)) ** 2).sum())


def partition(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Labels numbered by their first elements."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def second_number(series: Series) -> int:
    """Of parcels, for the tree that is there."""
    return series.parcels // 2


def _nearest(
    points: NDArray[np.float64], centers: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    labels = np.empty(len(points), np.int64)
    distances = np.empty(len(points))
    squares = (centers**2).sum(axis=1)
    for start in range(0, len(points), _BLOCK):
        part = slice(start, start + _BLOCK)
        labels[part] = (squares - 2 * points[part] @ centers.T).argmin(axis=1)
        distances[part] = ((points[part] - centers[labels[part]]) ** 2).sum(axis=1)
    return labels, distances


def _means(points: NDArray[np.float64], labels: NDArray[Any], k: int) -> NDArray[np.float64]:
    sums = np.zeros((k, points.shape[1]))
    np.add.at(sums, labels, points)
    return sums / np.bincount(labels, minlength=k)[:, None]


def _neighbours(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pairs of elements whose voxels share a face."""
    number = np.where(mask, np.cumsum(mask.ravel()).reshape(mask.shape) - 1, -1)
    pairs = []
    for axis in range(3):
        lines = np.moveaxis(number, axis, 0)
        a, b = lines[:-1].ravel(), lines[1:].ravel()
        pairs.append(np.stack([a, b], axis=1)[(a >= 0) & (b >= 0)])
    return np.concatenate(pairs)


def _joined(n: int, joins: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Number of each node after the joins, in their order, as long as more than `least` are left."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    left = n
    for a, b in joins.tolist():
        if left <= least:
            break
        first, second = root(a), root(b)
        if first != second:
            parent[second] = first
            left -= 1
    return partition(np.array([root(i) for i in range(n)]))


def _components(passing: NDArray[np.bool_], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the component of each parcel; those that do not pass are alone."""
    inside = edges[passing[edges].all(axis=1)]
    return _joined(len(passing), inside, 1)


def _largest(values: NDArray[np.float64], edges: NDArray[np.int64]) -> tuple[float, float]:
    """Size and mass of the largest cluster above the threshold."""
    passing = values > PARCEL_THRESHOLD
    if not passing.any():
        return 0.0, 0.0
    owner = _components(passing, edges)[passing]
    return float(np.bincount(owner).max()), float(np.bincount(owner, weights=values[passing]).max())


def _tfce(values: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """TFCE as a sum over fine steps, each taken at its middle."""
    out = np.zeros(len(values))
    step = float(np.abs(values).max()) / _STEPS
    for height in (np.arange(_STEPS) + 0.5) * step:
        passing = values > height
        if not passing.any():
            break
        owner = _components(passing, edges)
        out[passing] += step * height**2 * np.sqrt(np.bincount(owner)[owner[passing]])
    return out
