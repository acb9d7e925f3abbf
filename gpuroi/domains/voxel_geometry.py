"""Neighbours, volumes and faces of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.domains.domain import read_only
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.label import connectivity_structure

__all__ = ["checked_affine", "face_areas_mm2", "neighbour_offsets", "voxel_mm3"]


def neighbour_offsets(connectivity: int) -> NDArray[np.int64]:
    """Return the steps to the 6, 18 or 26 neighbours of a voxel, ascending in C order, shape (connectivity, 3).

    Examples
    --------
    >>> neighbour_offsets(6).tolist()
    [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    """
    if np.ndim(connectivity) != 0:
        raise UsageError("connectivity is an array", "use 6 (faces), 18 (and edges) or 26 (and corners)")
    offsets = np.argwhere(connectivity_structure(connectivity)) - 1
    return np.asarray(offsets[np.any(offsets != 0, axis=1)], dtype=np.int64)


def checked_affine(affine: Any) -> NDArray[np.float64] | None:
    """Return a read-only copy of an affine, or None; raise DataError unless it is 4 x 4, finite and invertible."""
    if affine is None:
        return None
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise DataError(f"affine has shape {matrix.shape}: expected 4 x 4 finite numbers", "pass img.affine")
    if not voxel_mm3(matrix) > 0:
        raise DataError("affine gives voxels without a volume", "its three columns have to point in three directions")
    return read_only(matrix)


def voxel_mm3(affine: NDArray[np.float64]) -> float:
    """Return the volume of a voxel in mm3: |det|, for oblique and sheared grids too.

    Examples
    --------
    >>> voxel_mm3(np.array([[0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]]))
    12.0
    """
    x, y, z = affine[:3, :3].T
    return float(abs(x @ np.cross(y, z)))  # the triple product: exact where linalg.det divides first


def face_areas_mm2(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of the face between two neighbours along X, Y and Z, shape (3,).

    Examples
    --------
    >>> face_areas_mm2(np.diag([2.0, 3.0, 4.0, 1.0]))
    array([12., 8., 6.])
    """
    x, y, z = affine[:3, :3].T
    return np.asarray(np.linalg.norm([np.cross(y, z), np.cross(z, x), np.cross(x, y)], axis=1))
