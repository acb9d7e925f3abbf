"""Ops on the volumes of an image, on the device there is, in batches that fit its memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.base import Backend

__all__ = ["apply_to_volumes"]


def apply_to_volumes(
    data: NDArray[Any], op: Callable[[Backend, Any], Any], bytes_a_volume: Callable[[str], int]
) -> NDArray[Any]:
    """Apply an op to each volume of (X, Y, Z) or (X, Y, Z, n).

    Parameters
    ----------
    data : array, shape (X, Y, Z, ...)
        Fewer than three axes count as one slice.
    op : callable
        `op(backend, volumes)` takes and returns volumes (n, X, Y, Z) on the device.
    bytes_a_volume : callable
        Of the kind of device ("cpu", "cuda"): what the op allocates at its peak for one volume, input not counted.

    Returns
    -------
    array, shape of `data`
        On the host, of the type that `op` returns.
    """
    backend = get_backend("auto")
    spatial = (*data.shape[:3], 1, 1, 1)[:3]
    volumes = data.reshape((*spatial, -1)).transpose(3, 0, 1, 2)  # (n, X, Y, Z): a view
    if not data.size:
        return data.copy()
    needed = bytes_a_volume(backend.name) + math.prod(spatial) * data.dtype.itemsize
    size = 1 if len(volumes) == 1 else max(1, backend.free_bytes() // 2 // max(1, needed))
    out: NDArray[Any] | None = None
    with backend.activate():
        for start in range(0, len(volumes), size):
            done = _on_host(backend, op(backend, _on_device(backend, volumes[start : start + size])))
            if len(done) == len(volumes):
                return _back(done, data.shape)
            if out is None:
                out = np.empty((*spatial, len(volumes)), done.dtype, order="F").transpose(3, 0, 1, 2)
            out[start : start + size] = done
    assert out is not None
    return _back(out, data.shape)


def _on_device(backend: Backend, volumes: NDArray[Any]) -> Any:
    """Move volumes as they lie in memory: no reordering on the host."""
    flipped = volumes.transpose(0, 3, 2, 1)
    if flipped.flags.c_contiguous:
        return backend.asarray(flipped).transpose(0, 3, 2, 1)
    return backend.asarray(volumes)


def _on_host(backend: Backend, volumes: Any) -> NDArray[Any]:
    flipped = volumes.transpose(0, 3, 2, 1)
    if flipped.flags.c_contiguous:
        return backend.to_numpy(flipped).transpose(0, 3, 2, 1)
    return backend.to_numpy(volumes)


def _back(volumes: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return volumes.transpose(1, 2, 3, 0).reshape(shape)
