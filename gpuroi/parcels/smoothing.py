"""Smooth values over the neighbours of each parcel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import Array, backend_of
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.volumes import as_float

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.domains import ParcelGraph

__all__ = ["smooth_over_graph"]


def smooth_over_graph(
    data: Any, graph: ParcelGraph, *, amount: float = 0.5, steps: int = 1, by: str = "contact"
) -> Array:
    r"""Mix the value of each parcel with the mean of its neighbours.

    .. math:: x_i \leftarrow (1 - a) x_i + a \sum_j c_{ij} x_j / \sum_j c_{ij}

    Parameters
    ----------
    data : array, shape (..., v)
        Values of each parcel in the order of the graph's ids, NumPy or CuPy; leading axes are maps apart.
    graph : ParcelGraph
    amount : float, default 0.5
        How much of the neighbours, a; from 0 (nothing changes) to 1 (nothing but the neighbours).
    steps : int, default 1
        How often.
    by : {"contact", "equal"}
        Neighbours count by the area of contact (or, without an affine, the number of touching voxels); or all alike.
        Added edges have no contact: they count as the mean contact of the graph.

    Returns
    -------
    array, shape (..., v)
        float32 or float64 as the data (integers become floats), on its device.

    Raises
    ------
    UsageError
        An amount outside 0 to 1, fewer than 0 steps, another `by`, or contact of a graph that has none.
    DataError
        Data of another length than the graph.

    Notes
    -----
    A constant map stays as it is; so does a parcel without neighbours. A missing value (NaN) stays missing and is left
    out of its neighbours' means. The same map is smoothed whatever the others are: permutation inference on smoothed
    data is as valid as on data as they are, but a parcel found then is one *with its neighbours*.

    Examples
    --------
    >>> from gpuroi.domains import ParcelGraph
    >>> smooth_over_graph(np.array([4.0, 0.0, 0.0]), ParcelGraph([1, 2, 3], [(1, 2), (2, 3)]), by="equal")
    array([2., 1., 0.])
    """
    if not 0 <= amount <= 1:
        raise UsageError(f"amount is {amount}", "give 0 (nothing changes) to 1 (nothing but the neighbours)")
    if not (isinstance(steps, int | np.integer) and steps >= 0):
        raise UsageError(f"steps is {steps!r}", "give a whole number, 0 or more")
    backend = backend_of(data)
    with backend.activate():
        values = as_float(backend, data, "data")
        if values.ndim == 0 or values.shape[-1] != graph.n_elements:
            raise DataError(
                f"data has shape {tuple(values.shape)}, but the graph has {graph.n_elements} parcels on the last axis",
                "take one value of each parcel, in the order of graph.ids",
            )
        near, share = (backend.asarray(a) for a in _neighbours(graph, _edge_weights(graph, by)))
        xp = backend.xp
        present = ~xp.isnan(values)
        filled = xp.where(present, values, 0).astype(values.dtype)
        share = share.astype(values.dtype)
        counts = present.astype(values.dtype)
        total = sum(share[:, k] * counts[..., near[:, k]] for k in range(near.shape[1]))
        for _ in range(int(steps)):
            around = sum(share[:, k] * filled[..., near[:, k]] for k in range(near.shape[1]))
            mixed = (1 - amount) * filled + amount * around / xp.where(total > 0, total, 1)
            filled = xp.where(present & (total > 0), mixed, filled).astype(values.dtype)
        return xp.where(present, filled, xp.nan).astype(values.dtype)


def _edge_weights(graph: ParcelGraph, by: str) -> NDArray[np.float64]:
    """How much each edge counts."""
    if by not in ("contact", "equal"):
        raise UsageError(f'by is "{by}"', 'use "contact" or "equal"')
    if by == "equal":
        return np.ones(len(graph.edges))
    contact = graph.contact if graph.contact_mm2 is None else graph.contact_mm2
    if contact is None:
        raise UsageError("the graph does not know how much its parcels touch", 'use by="equal"')
    weights = np.asarray(contact, np.float64)
    touching = weights > 0  # with 18 and 26 neighbours parcels may meet without a face
    return np.where(touching, weights, weights[touching].mean() if touching.any() else 1.0)


def _neighbours(graph: ParcelGraph, weights: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Columns of the neighbours of each parcel, (v, most), and how much each counts, 0 beyond the last."""
    v, indptr, indices = graph.n_elements, graph.indptr, graph.indices
    n_near = np.diff(indptr)
    row = np.repeat(np.arange(v), n_near)
    place = np.arange(len(indices)) - indptr[row]
    low, high = np.minimum(row, indices), np.maximum(row, indices)
    edge = np.searchsorted(graph.index(graph.edges) @ np.array([v, 1]), low * v + high)  # the edges are sorted
    near = np.zeros((v, int(n_near.max(initial=0))), np.int64)
    share = np.zeros(near.shape)
    near[row, place], share[row, place] = indices, weights[edge]
    return near, share
