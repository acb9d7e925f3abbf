"""The vertices of a triangle mesh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.graph import Graph
from gpuroi.domains.domain import edge_graph, on_host, read_only
from gpuroi.errors import DataError, UsageError

__all__ = ["SurfaceMesh"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class SurfaceMesh:
    """Vertices of a triangle mesh, all or those inside a mask; the two ends of an edge of a triangle are neighbours.

    Parameters
    ----------
    vertices : array, shape (n, 3)
        Coordinates in mm. NumPy or CuPy; kept on the host.
    faces : integer array, shape (m, 3)
        The corners of each triangle, from 0.
    mask : array, shape (n,), optional
        Non-zero for the vertices that are elements, such as the cortex without the medial wall. None: all.
    weights : {"vertices", "mm2"}, default "vertices"
        What the size of a cluster counts: 1 a vertex, or its area, a third of each triangle that it is a corner of.

    Attributes
    ----------
    vertices : float64 array, shape (n, 3)
    faces : int32 array, shape (m, 3)
    vertex : int64 array, shape (v,)
        The vertex that each element is, ascending.
    unit : str
        As given in `weights`.
    n_elements : int

    Raises
    ------
    UsageError
        Any other weights.
    DataError
        Coordinates that are not finite; a triangle with a corner that does not exist, or twice the same; a mask of
        another length, or with nothing inside.

    Notes
    -----
    Nothing can be changed afterwards. Triangles that reach over the border of the mask count in full for the area of
    their corners inside: the area of a vertex does not depend on the mask. Triangles without an area, as flat and
    rounded meshes have, are taken; so are vertices without a triangle, which have no neighbours and no area.

    Examples
    --------
    >>> mesh = SurfaceMesh([[0, 0, 0], [3, 0, 0], [0, 2, 0], [3, 2, 0]], [[0, 1, 2], [1, 3, 2]], weights="mm2")
    >>> mesh.weights, mesh.indices[mesh.indptr[0] : mesh.indptr[1]]
    (array([1., 2., 2., 1.]), array([1, 2], dtype=int32))
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    vertex: NDArray[np.int64]
    unit: str
    n_elements: int

    def __init__(self, vertices: Any, faces: Any, mask: Any = None, *, weights: str = "vertices") -> None:
        if weights not in ("vertices", "mm2"):
            raise UsageError(f"weights is {weights!r}", 'use "vertices" or "mm2"')
        points = _checked_vertices(vertices)
        vertex = _checked_mask(mask, len(points))
        vars(self).update(
            vertices=points,
            faces=_checked_faces(faces, len(points)),
            vertex=vertex,
            unit=weights,
            n_elements=len(vertex),
        )

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return f"surface mesh of {len(self.vertices)} vertices"

    @cached_property
    def graph(self) -> Graph:
        """Neighbours and weights; built when first asked for, then kept."""
        element = np.full(len(self.vertices), -1, np.int64)
        element[self.vertex] = np.arange(self.n_elements)
        ends = element[np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])]
        ends = ends[np.all(ends >= 0, axis=1)]
        pair = np.unique(ends.min(axis=1) * self.n_elements + ends.max(axis=1))  # an edge belongs to two triangles
        return edge_graph(pair // self.n_elements, pair % self.n_elements, self.weights)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """1 a vertex, or its area in mm2; float64, shape (v,)."""
        if self.unit == "vertices":
            return read_only(np.ones(self.n_elements))
        first, second, third = (self.vertices[self.faces[:, corner]] for corner in range(3))
        area = np.linalg.norm(np.cross(second - first, third - first), axis=1) / 2  # (m,)
        areas = np.bincount(self.faces.reshape(-1), weights=np.repeat(area / 3, 3), minlength=len(self.vertices))
        return read_only(np.asarray(areas[self.vertex], dtype=np.float64))

    @property
    def indptr(self) -> NDArray[np.int64]:
        """Where the neighbours of each element begin in `indices`; int64, shape (v + 1,)."""
        return self.graph.indptr

    @property
    def indices(self) -> NDArray[np.int32]:
        """Neighbours, ascending in each row; int32."""
        return self.graph.indices

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the results has to know, in types that JSON has."""
        return {
            "domain": "surface",
            "n_elements": self.n_elements,
            "n_vertices": len(self.vertices),
            "n_faces": len(self.faces),
            "n_edges": len(self.indices) // 2,
            "weights": self.unit,
        }

    def __repr__(self) -> str:
        return f"SurfaceMesh({self.n_elements} of {len(self.vertices)} vertices, {len(self.faces)} faces)"


def _checked_vertices(vertices: Any) -> NDArray[np.float64]:
    points = on_host(vertices)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "iuf" or not len(points):
        raise DataError(f"vertices have shape {points.shape} and dtype {points.dtype}: expected (n, 3) numbers in mm")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise DataError(f"vertex {np.argmin(finite)} lies at {points[np.argmin(finite)].tolist()}: expected mm")
    return read_only(np.array(points, dtype=np.float64, order="C"))


def _checked_faces(faces: Any, n_vertices: int) -> NDArray[np.int32]:
    corners = on_host(faces)
    if corners.ndim != 2 or corners.shape[1] != 3 or corners.dtype.kind not in "iu" or not len(corners):
        raise DataError(f"faces have shape {corners.shape} and dtype {corners.dtype}: expected (m, 3) integers")
    outside = np.any((corners < 0) | (corners >= n_vertices), axis=1)
    if outside.any():
        raise DataError(
            f"{outside.sum()} faces have a corner that does not exist, the first is face {np.argmax(outside)}: "
            f"{corners[np.argmax(outside)].tolist()}",
            f"corners are vertices 0 to {n_vertices - 1}; subtract 1 if yours are numbered from 1",
        )
    corners = corners.astype(np.int32, order="C")
    twice = (corners == np.roll(corners, 1, axis=1)).any(axis=1)
    if twice.any():
        raise DataError(
            f"{twice.sum()} faces name a vertex twice, the first is face {np.argmax(twice)}: "
            f"{corners[np.argmax(twice)].tolist()}",
            "leave them out: a triangle has three corners",
        )
    return read_only(corners)


def _checked_mask(mask: Any, n_vertices: int) -> NDArray[np.int64]:
    """Return the vertices inside, ascending."""
    if mask is None:
        return read_only(np.arange(n_vertices, dtype=np.int64))
    given = on_host(mask)
    if given.shape != (n_vertices,):
        raise DataError(f"mask has shape {given.shape}, but there are {n_vertices} vertices")
    if given.dtype.kind not in "biuf" or (given.dtype.kind == "f" and np.isnan(given).any()):
        raise DataError("mask holds NaN, or no numbers: expected bool or numbers, non-zero inside")
    if not given.any():
        raise DataError("mask has no vertex inside", "non-zero is inside")
    return read_only(np.flatnonzero(given).astype(np.int64))
