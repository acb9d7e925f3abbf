"""Voxels of a mask to rows and back, on CuPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends.base import Array
from gpuroi.backends.cuda_kernels import NULL, kernel, launch_maps, launch_tiles
from gpuroi.errors import BackendError, DataError

__all__ = ["gather", "scatter"]

_STORED = ("uint8", "int16", "uint16", "int32", "float32", "float64")  # codes of mask.cu
_WIDENED = {
    "bool": "uint8",
    "int8": "int16",
    "uint32": "float64",
    "int64": "float64",
    "uint64": "float64",
    "float16": "float32",
}
_MAPS = 8  # that a thread takes
_TILE = 32


def gather(volumes: Array, columns: Array, w: int, scaling: NDArray[np.float64] | None, dtype: DTypeLike) -> Array:
    """Voxels of a mask as rows (`Backend.gather`)."""
    import cupy as cp

    if volumes.dtype.name in _WIDENED:
        volumes = volumes.astype(_WIDENED[volumes.dtype.name])
    if volumes.dtype.name not in _STORED:
        raise BackendError(
            f"voxels are {volumes.dtype}", f"convert them first: one of {', '.join((*_STORED, *_WIDENED))}"
        )
    n, *shape = volumes.shape
    rows = cp.empty((n, w), np.dtype(dtype))
    if rows.size == 0:
        return rows
    turned = not volumes.flags.c_contiguous and volumes.transpose(0, 3, 2, 1).flags.c_contiguous
    laid_out = volumes.transpose(0, 3, 2, 1) if turned else cp.ascontiguousarray(volumes)
    factors = NULL if scaling is None else cp.asarray(np.ascontiguousarray(scaling, dtype=np.float64))
    args = (laid_out, np.int32(_STORED.index(volumes.dtype.name)), _table(columns, shape), factors, rows)
    _launch("mask_gather", turned, n, shape, args, w, rows.dtype)
    return rows


def scatter(rows: Array, columns: Array, fill: float, order: str) -> Array:
    """Rows as volumes (`Backend.scatter`)."""
    import cupy as cp

    rows, shape = cp.ascontiguousarray(rows), columns.shape
    n, w = rows.shape
    turned = order == "F"
    volumes = cp.empty((n, *(shape[::-1] if turned else shape)), rows.dtype)
    if volumes.size:
        args = (rows, _table(columns, shape), rows.dtype.type(fill), volumes)
        _launch("mask_scatter", turned, n, shape, args, w, rows.dtype)
    return volumes.transpose(0, 3, 2, 1) if turned else volumes


def _table(columns: Array, shape: Any) -> Array:
    import cupy as cp

    if columns.size >= 2**31:
        raise DataError(f"a volume of {columns.size} voxels: at most {2**31 - 1} voxels of one volume are numbered")
    if tuple(columns.shape) != tuple(shape):
        raise BackendError(f"columns are {tuple(columns.shape)}, volumes {tuple(shape)}", "give both one grid")
    return cp.ascontiguousarray(columns, dtype=np.int32)


def _launch(name: str, turned: bool, n: int, shape: Any, args: tuple[Any, ...], w: int, dtype: Any) -> None:
    """Tiles where the order of the voxels and that of the columns differ, else voxel by voxel."""
    names = {"f": "float", "d": "double"}
    if dtype.char not in names:
        raise BackendError(f"rows are {dtype}", "give float32 or float64")
    function = kernel("mask", f"{name}_turned" if turned else name, (f"-DREAL={names[dtype.char]}",))
    groups = -(-n // _MAPS)
    if turned:
        nx, ny, nz = shape
        tiles = -(-nx // _TILE) * -(-nz // _TILE) * ny
        launch_tiles(function, groups, tiles, (*args, np.int64(n), *map(np.int32, shape), np.int64(w)))
    else:
        v = int(np.prod(shape))
        launch_maps(function, groups, v, (*args, np.int64(n), np.int32(v), np.int64(w)))
