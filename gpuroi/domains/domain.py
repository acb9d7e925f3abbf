"""What inference asks of a domain, and the arrays that all domains are built from."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.graph import Graph

__all__ = ["Domain", "edge_graph", "on_host", "read_only"]

_T = TypeVar("_T", bound=np.generic)


class Domain(Protocol):
    """Elements, their neighbours and their weights: all that clusters and TFCE know about space.

    Column i of the data `(n_maps, n_elements)` is element i.
    """

    @property
    def name(self) -> str:
        """What it is, in two or three words, for messages."""

    @property
    def unit(self) -> str:
        """What `weights` count, and with them the size of a cluster: "voxels", "parcels", "vertices", "mm3", ..."""

    @property
    def n_elements(self) -> int:
        """Number of elements, v."""

    @property
    def graph(self) -> Graph:
        """Neighbours and weights; built when first asked for, then kept."""

    @property
    def indptr(self) -> NDArray[np.int64]:
        """`(v + 1,)`: the neighbours of element i are `indices[indptr[i]:indptr[i + 1]]`."""

    @property
    def indices(self) -> NDArray[np.int32]:
        """Neighbours, ascending in each row; symmetric; no element is its own."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """`(v,)`: what each element adds to the size of a cluster."""

    def describe(self) -> dict[str, Any]:
        """Say what a reader of the results has to know, in types that JSON has."""


def edge_graph(low: NDArray[np.int64], high: NDArray[np.int64], weights: NDArray[np.float64]) -> Graph:
    """Return the graph of `(n_edges,)` pairs of elements, each pair once, none with itself.

    Examples
    --------
    >>> graph = edge_graph(np.array([0, 1]), np.array([1, 2]), np.ones(3))
    >>> graph.indptr.tolist(), graph.indices.tolist()
    ([0, 1, 3, 4], [1, 0, 2, 1])
    """
    v = len(weights)
    rows, columns = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.argsort(rows * v + columns, kind="stable")
    indptr = np.zeros(v + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=v), out=indptr[1:])
    return Graph(read_only(indptr), read_only(columns[order].astype(np.int32)), weights)


def read_only(array: NDArray[_T]) -> NDArray[_T]:
    """Forbid writing to an array that the caller owns, and return it."""
    array.setflags(write=False)
    return array


def on_host(array: Any) -> NDArray[Any]:
    """Return a NumPy array; one that lies on a device is copied."""
    backend = backend_of(array)
    return np.asarray(backend.to_numpy(array) if backend.owns(array) else array)  # sync: copies a CuPy array
