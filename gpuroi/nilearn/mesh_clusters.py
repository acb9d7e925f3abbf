"""Clusters along the edges of a nilearn mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.domains import SurfaceMesh

__all__ = ["MeshLabeller"]


class MeshLabeller:
    """Numbers clusters of vertices, as often as asked, on one mesh.

    Parameters
    ----------
    mesh : mesh of nilearn
        With `coordinates` (n, 3) and `faces` (m, 3).
    """

    def __init__(self, mesh: Any) -> None:
        self._graph = SurfaceMesh(mesh.coordinates, mesh.faces).graph

    def __call__(self, inside: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the cluster of each vertex, numbered from 1 by their first vertices, 0 outside; and their sizes."""
        backend = get_backend("auto")
        with backend.activate():
            values = backend.asarray(inside.astype(np.float32))
            labels, sizes, *_ = backend.cluster_labels(values, 0.5, self._graph, False, False, False)
            return backend.to_numpy(labels), backend.to_numpy(sizes).astype(np.int64)  # sync: the labels
