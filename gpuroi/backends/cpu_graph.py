"""Clusters and TFCE of the CPU backend: maps `(n, v)` on a graph of elements, one map a thread at a time.

A thread needs room for one map, whatever the number of maps: 28 bytes an element for clusters, for TFCE 56 and 4 for
each neighbour that the element with the most has (float64 maps: 8 more; weights: 4 more).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.graph import Graph
from gpuroi.backends.tfce_rule import BY_POWER, extent_code, tfce_rule
from gpuroi.backends.threads import run_blocks

__all__ = ["cluster_labels", "cluster_maxima", "tfce"]

_WIDEST = 4  # rows of one width are taken up to this many times the mean; beyond, rows of their own lengths


def cluster_maxima(
    maps: NDArray[Any], threshold: float, graph: Graph, two_sided: bool, strict: bool, excess: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest size and mass of a cluster in each map (`Backend.cluster_maxima`)."""
    from gpuroi.backends.kernels import graph_clusters as kernels

    maps = _read_only(maps)
    n, v = maps.shape
    limit, offset = _limits(maps.dtype, threshold, strict, excess)
    arrays = _cluster_graph(graph)
    sizes, masses = np.zeros(n), np.zeros(n)

    def work(start: int, stop: int) -> None:
        scratch = _cluster_scratch(v)
        kernels.cluster_maxima(maps, start, stop, limit, offset, two_sided, arrays, scratch, sizes, masses)

    run_blocks(work, n, least=max(1, 16384 // max(1, v)))
    return sizes, masses


def cluster_labels(
    values: NDArray[Any], threshold: float, graph: Graph, two_sided: bool, strict: bool, excess: bool
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
    """Clusters of one map (`Backend.cluster_labels`)."""
    from gpuroi.backends.kernels import graph_clusters as kernels

    values = _read_only(values)
    limit, offset = _limits(values.dtype, threshold, strict, excess)
    labels = np.zeros(values.size, np.int32)
    scratch = _cluster_scratch(values.size)
    found = kernels.cluster_labels(values, limit, offset, two_sided, _cluster_graph(graph), scratch, labels)
    return (labels, *found)


def tfce(
    maps: NDArray[Any], graph: Graph, H: float, E: float, step: float | str | None, two_sided: bool, keep: bool
) -> tuple[NDArray[Any] | None, NDArray[np.float64]]:
    """TFCE of each map (`Backend.tfce`)."""
    from gpuroi.backends.kernels import tfce as kernels

    maps = _read_only(maps)
    n, v = maps.shape
    out = np.zeros(maps.shape if keep else (1, 0), maps.dtype)
    maxima = np.zeros(n)
    if maps.size == 0:
        return (out if keep else None), maxima
    arrays, width = _tfce_graph(graph)
    unit = arrays[2].size == 0
    room = v * width if width else graph.indices.size + v
    code = extent_code(E)
    # Extents without weights are whole numbers up to v: one power each is enough for all maps.
    table = np.arange(v + 1.0) ** E if code == BY_POWER and unit else np.empty(0)
    extents, rule = (code, E, table), tuple(tfce_rule(H, step))

    def work(start: int, stop: int) -> None:
        scratch = _tfce_scratch(v, room, maps.dtype, unit)
        kernels.tfce_maps(
            maps, start, stop, two_sided, arrays, np.uint64(width), extents, rule, scratch, keep, out, maxima
        )

    run_blocks(work, n, least=max(1, 4096 // v))
    return (out if keep else None), maxima


def _limits(dtype: Any, threshold: float, strict: bool, excess: bool) -> tuple[Any, float]:
    """What values have to exceed, in the type of the maps, and what is taken from them for the mass."""
    cutoff = dtype.type(threshold)
    limit = cutoff if strict else np.nextafter(cutoff, dtype.type(-np.inf))  # x >= c where x > the number before c
    return limit, float(cutoff) if excess else 0.0


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous view that nobody can write through: Numba would compile once more where arrays are read-only."""
    view = np.ascontiguousarray(array).view()
    view.setflags(write=False)
    return view


def _csr(graph: Graph, unit_weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows as unsigned numbers: Numba then leaves out the code for negative indices."""
    unit = bool(np.all(graph.weights == 1.0))
    indptr, indices = _read_only(graph.indptr).view(np.uint64), _read_only(graph.indices).view(np.uint32)
    return indptr, indices, _read_only(unit_weights if unit else graph.weights)


def _cluster_graph(graph: Graph) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return _csr(graph, np.empty(0))


def _tfce_graph(graph: Graph) -> tuple[tuple[NDArray[Any], NDArray[Any], NDArray[Any]], int]:
    """The graph, and the width of its rows where they can all have the same: 1 + the most neighbours of an element."""
    v = graph.weights.size
    width = 1 + int(np.diff(graph.indptr).max(initial=0))
    wasteful = width * v > _WIDEST * (graph.indices.size + v)
    return _csr(graph, np.empty(0, np.int32)), 0 if wasteful else width


def _cluster_scratch(v: int) -> tuple[NDArray[Any], ...]:
    from gpuroi.backends.kernels.graph_clusters import OUTSIDE

    members, parents = (np.empty(v + 1, np.uint32) for _ in range(2))
    return np.full(v, OUTSIDE), members, parents, np.empty(v), np.empty(v)


def _tfce_scratch(
    v: int, room: int, dtype: Any, unit: bool
) -> tuple[tuple[NDArray[Any], ...], tuple[NDArray[Any], ...]]:
    from gpuroi.backends.kernels.tfce import COUNTERS, OUTSIDE

    keys, other_keys = (np.empty(v + 1, f"u{dtype.itemsize}") for _ in range(2))
    members, order, other_order, forest, latest, parents = (np.empty(v + 1, np.uint32) for _ in range(6))
    g, extents = np.empty(v), np.empty(v)
    sizes = np.empty(v, np.int32 if unit else np.float64)
    counts = np.empty(COUNTERS, np.uint32)
    neighbours = np.empty(room, np.uint32)
    sorting = (keys, other_keys, members, order, other_order, counts, np.full(v, OUTSIDE), neighbours)
    return sorting, (forest, latest, parents, sizes, g, extents)
