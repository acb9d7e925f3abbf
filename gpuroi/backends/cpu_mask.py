"""Voxels of a mask to rows and back, on NumPy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends.base import Array
from gpuroi.backends.threads import run_blocks

__all__ = ["gather", "scatter"]


def gather(
    volumes: Array, columns: Array, w: int, scaling: NDArray[np.float64] | None, dtype: DTypeLike
) -> NDArray[np.floating]:
    """Voxels of a mask as rows (`Backend.gather`)."""
    rows = np.empty((len(volumes), w), dtype)
    inside = columns >= 0
    order = columns[inside]

    def some(start: int, stop: int) -> None:
        for i in range(start, stop):
            values = volumes[i][inside]
            if scaling is not None:
                values = np.multiply(values, scaling[i, 0], dtype=np.float64) + scaling[i, 1]
            rows[i, order] = values

    with np.errstate(over="ignore"):
        run_blocks(some, len(volumes))
    return rows


def scatter(rows: Array, columns: Array, fill: float, order: str) -> NDArray[np.floating]:
    """Rows as volumes (`Backend.scatter`)."""
    inside = columns >= 0
    from_column = columns[inside]
    shape = columns.shape[::-1] if order == "F" else columns.shape
    volumes = np.full((len(rows), *shape), fill, rows.dtype)
    volumes = volumes.transpose(0, 3, 2, 1) if order == "F" else volumes

    def some(start: int, stop: int) -> None:
        for i in range(start, stop):
            volumes[i][inside] = rows[i, from_column]

    run_blocks(some, len(rows))
    return volumes
