"""Clusters and TFCE of the CUDA backend: maps `(n, v)` on a graph of elements, many maps in one launch.

Scratch comes for groups of maps: as many as half of the free memory holds, `CLUSTER_BYTES`, `TFCE_BYTES` or
`STEPS_BYTES` an element and map. Results do not depend on the groups.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.cuda_kernels import NULL, kernel, launch, launch_maps
from gpuroi.backends.cuda_memory import free_bytes
from gpuroi.backends.cuda_tfce_steps import STEPS_BYTES, enhance_by_tree, tree_is_asked_for
from gpuroi.backends.tfce_rule import TfceRule, tfce_rule
from gpuroi.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuroi.backends.base import Array
    from gpuroi.backends.graph import Graph

__all__ = ["CLUSTER_BYTES", "TFCE_BYTES", "cluster_labels", "cluster_maxima", "tfce"]

CLUSTER_BYTES = 24  # parents and members int32, sizes and masses int64
TFCE_BYTES = 44  # order, rank, forest, latest, parents int32; g, sizes, extents float64

_SHARE = 0.5  # of the free memory, for scratch
_WARPS = 2  # a block of the sequential kernels: small batches spread over all multiprocessors


def cluster_maxima(
    maps: Array, threshold: float, graph: Graph, two_sided: bool, strict: bool, excess: bool
) -> tuple[Array, Array]:
    """Largest size and mass of a cluster in each map (`Backend.cluster_maxima`)."""
    import cupy as cp

    maps = cp.ascontiguousarray(maps)
    n, v = maps.shape
    sizes, masses = (cp.zeros(n, np.float64) for _ in range(2))
    for part in _groups(n, v, CLUSTER_BYTES):
        _largest_clusters(maps[part], threshold, graph, two_sided, strict, excess, sizes[part], masses[part])
    return sizes, masses


def cluster_labels(
    values: Array, threshold: float, graph: Graph, two_sided: bool, strict: bool, excess: bool
) -> tuple[Array, Array, Array, Array]:
    """Clusters of one map (`Backend.cluster_labels`)."""
    import cupy as cp

    values = cp.ascontiguousarray(values)
    v = values.size
    if v == 0:
        return cp.zeros(0, np.int32), cp.zeros(0), cp.zeros(0), cp.zeros(0, np.int8)
    forest = _Clusters(values[None], threshold, graph, two_sided, strict, excess)
    roots = cp.full(v, -1, np.int32)
    forest.launch("clusters_roots", (forest.parents, forest.members, forest.counts, roots, *forest.shape))
    firsts = cp.flatnonzero(roots == cp.arange(v, dtype=np.int32))  # sync: the number of clusters
    negative = values[firsts] < 0
    # positive clusters first; two keys are never equal
    firsts = firsts[cp.argsort(negative.astype(np.int64) * v + firsts)]
    numbers = cp.zeros(v, np.int32)
    numbers[firsts] = cp.arange(1, len(firsts) + 1, dtype=np.int32)
    labels = cp.where(roots >= 0, numbers[cp.maximum(roots, 0)], np.int32(0)).astype(np.int32)
    sums = cp.stack([forest.sizes[0][firsts], forest.masses[0][firsts]], axis=1)
    sizes, masses = (cp.zeros(len(firsts), np.float64) for _ in range(2))
    forest.finish(sums, sizes, masses, one_map=True)
    return labels, sizes, masses, cp.where(values[firsts] < 0, -1, 1).astype(np.int8)


def tfce(
    maps: Array, graph: Graph, H: float, E: float, step: float | str | None, two_sided: bool, keep: bool
) -> tuple[Array | None, Array]:
    """TFCE of each map (`Backend.tfce`)."""
    import cupy as cp

    maps = cp.ascontiguousarray(maps)
    n, v = maps.shape
    out = cp.zeros(maps.shape, maps.dtype) if keep else None
    maxima = cp.zeros(n, np.uint64)
    rule = tfce_rule(H, step)
    indptr, indices, weights = _on_device(cp.cuda.Device().id, graph)
    by_tree = tree_is_asked_for(rule, unit_weights=weights is NULL)
    sums, options = cp.asarray(rule.sums), _real(maps.dtype)
    bytes_each, most = (STEPS_BYTES, n) if by_tree else (TFCE_BYTES, 1 << (32 - _bits(v)))
    for part in _groups(n, v, bytes_each, most=most):
        target = NULL if out is None else out[part]
        if by_tree:
            rows = (indptr, indices)
            enhance_by_tree(maps[part], rows, options, rule, sums, E, two_sided, target, maxima[part])
        else:
            _enhance(maps[part], graph, rule, sums, E, 2 if two_sided else 1, target, maxima[part])
    return out, maxima.view(np.float64)


# A group is a function: what it allocates is free before the next one begins.


def _largest_clusters(
    maps: Array,
    threshold: float,
    graph: Graph,
    two_sided: bool,
    strict: bool,
    excess: bool,
    sizes: Array,
    masses: Array,
) -> None:
    import cupy as cp

    forest = _Clusters(maps, threshold, graph, two_sided, strict, excess)
    largest = cp.zeros((len(maps), 2), np.int64)
    forest.launch("clusters_max", (forest.members, forest.counts, forest.sizes, forest.masses, largest, *forest.shape))
    forest.finish(largest, sizes, masses, one_map=False)


def _enhance(
    maps: Array, graph: Graph, rule: TfceRule, sums: Array, E: float, sides: int, out: Any, maxima: Array
) -> None:
    """Write TFCE to `out` (or a null pointer) and its largest values, as the bits of float64, to `maxima`."""
    import cupy as cp

    n, v = maps.shape
    options, shape = _real(maps.dtype), (np.int64(n), np.int32(v))
    indptr, indices, weights = _on_device(cp.cuda.Device().id, graph)
    tops = _tops(maps)
    order = _order(maps, options)
    rank, forest, latest, parents = (cp.empty((n, v), np.int32) for _ in range(4))
    g, sizes, extents = (cp.empty((n, v), np.float64) for _ in range(3))
    counts = cp.zeros((n, 2), np.int32)
    heights = (np.float64(rule.H), np.float64(rule.step), np.int32(rule.n_steps))
    powers = (sums, np.int32(rule.sums.size), np.float64(rule.constant))
    ranks = (maps, tops, order, rank, g, counts, *heights, *powers, *shape)
    launch_maps(kernel("tfce", "tfce_ranks", options), n, v, ranks)
    blocks, threads = -(-n * sides // _WARPS), 32 * _WARPS
    tree = (forest, latest, parents, sizes, extents)
    grow = (order, rank, indptr, indices, weights, counts, np.int32(sides), *tree, *shape)
    launch(kernel("tfce", "tfce_grow", options), blocks, grow, threads=threads)
    sweep = (order, parents, g, counts, np.int32(sides), np.float64(E), extents, out, maxima, *shape)
    launch(kernel("tfce", "tfce_sweep", options), blocks, sweep, threads=threads)


class _Clusters:
    """The elements of a group of maps that pass, joined, and their sums at the roots."""

    def __init__(
        self, maps: Array, threshold: float, graph: Graph, two_sided: bool, strict: bool, excess: bool
    ) -> None:
        import cupy as cp

        n, v = maps.shape
        self.maps, self.options = maps, _real(maps.dtype)
        self.shape = (np.int64(n), np.int32(v))
        cutoff = maps.dtype.type(threshold)
        limit = cutoff if strict else np.nextafter(cutoff, maps.dtype.type(-np.inf))
        self.offset = np.float64(cutoff if excess else 0.0)
        indptr, indices, weights = _on_device(cp.cuda.Device().id, graph)
        self.weight_exponent = np.int32(_weight_exponent(graph))
        self.parents, self.members = (cp.empty((n, v), np.int32) for _ in range(2))
        self.sizes, self.masses = (cp.empty((n, v), np.int64) for _ in range(2))
        self.counts, self.tops = cp.zeros(n, np.int32), cp.zeros(n, np.uint64)
        passing = (maps, limit, np.int32(two_sided))
        listed = (self.parents, self.members, self.sizes, self.masses, self.counts, self.tops)
        self.launch("clusters_begin", (*passing, *listed, *self.shape))
        self.launch("clusters_merge", (*passing, self.parents, self.members, self.counts, indptr, indices, *self.shape))
        terms = (self.parents, self.members, self.counts, self.tops, weights, self.weight_exponent)
        self.launch("clusters_sum", (maps, self.offset, *terms, self.sizes, self.masses, *self.shape))

    def launch(self, name: str, args: tuple[Any, ...]) -> None:
        """Launch a kernel over the maps."""
        n, v = self.maps.shape
        launch_maps(kernel("graph_clusters", name, self.options), n, v, args)

    def finish(self, sums: Array, sizes: Array, masses: Array, *, one_map: bool) -> None:
        """Write whole-number sums `(rows, 2)` as float64."""
        rows = len(sums)
        args = (sums, self.tops, self.offset, self.weight_exponent, np.int32(one_map), sizes, masses)
        function = kernel("graph_clusters", "clusters_finish", self.options)
        launch(function, -(-rows // 256), (*args, np.int64(rows), self.shape[1]))


def _order(maps: Array, options: tuple[str, ...]) -> Array:
    """Elements of each map from high to low, int32; NaN stands with 0."""
    import cupy as cp

    n, v = maps.shape
    if maps.dtype.itemsize == 8:
        negated = cp.where(cp.isnan(maps), 0.0, -maps)
        return cp.argsort(negated, axis=1).astype(np.int32)
    # One sort of whole numbers for all maps: a row-wise sort of floats orders pairs of row and value.
    keys = cp.empty((n, v), np.uint64)
    bits, shape = np.int32(_bits(v)), (np.int64(n), np.int32(v))
    launch_maps(kernel("tfce", "tfce_keys", options), n, v, (maps, keys, bits, *shape))
    keys = keys.reshape(-1)
    keys.sort()
    order = cp.empty((n, v), np.int32)
    launch_maps(kernel("tfce", "tfce_order", options), n, v, (keys, order, bits, *shape))
    return order


def _bits(v: int) -> int:
    """Bits that hold the numbers of all elements."""
    return max(1, (v - 1).bit_length())


def _tops(maps: Array) -> Array:
    """Largest finite |x| of each map; 1 where there is none but 0."""
    import cupy as cp

    tops = cp.max(cp.where(cp.isfinite(maps), cp.abs(maps), 0.0), axis=1).astype(np.float64)
    return cp.where(tops > 0, tops, 1.0)


def _groups(n: int, v: int, bytes_each: int, most: int = 1 << 30) -> Iterator[slice]:
    """Parts of `range(n)` whose scratch fits; none where there are no elements."""
    if n == 0 or v == 0:
        return
    size = max(1, min(n, most, int(_SHARE * free_bytes()) // (bytes_each * v)))
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


@lru_cache(maxsize=8)
def _on_device(device: int, graph: Graph) -> tuple[Array, Array, Any]:
    """The graph on a device; a null pointer for weights that are all 1."""
    import cupy as cp

    weights = NULL if np.all(graph.weights == 1.0) else cp.asarray(graph.weights, dtype=np.float64)
    return cp.asarray(graph.indptr, dtype=np.int64), cp.asarray(graph.indices, dtype=np.int32), weights


@lru_cache(maxsize=8)
def _weight_exponent(graph: Graph) -> int:
    """Power of two by which weights become whole numbers whose sum stays below 2^62; 0 where all are 1."""
    total = float(np.sum(graph.weights))
    if total <= 0.0 or np.all(graph.weights == 1.0):
        return 0
    return 62 - math.frexp(total)[1] - 1


def _real(dtype: Any) -> tuple[str, ...]:
    names = {"f": "float", "d": "double"}
    if dtype.char not in names:
        raise BackendError(f"expected float32 or float64, got {dtype}", "convert it first: x.astype(numpy.float32)")
    return (f"-DREAL={names[dtype.char]}",)
