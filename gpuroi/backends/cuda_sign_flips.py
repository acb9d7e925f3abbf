"""Signed sums of a group of flips on CuPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array
from gpuroi.backends.cuda_kernels import kernel, launch
from gpuroi.backends.sign_flip_bins import sign_flip_bins
from gpuroi.errors import BackendError

__all__ = ["sign_flip_sums"]

_BITS = 7  # 128 bins of 32 elements: shared memory of one block
_TILE = 32
_REAL = {"f": "float", "d": "double"}


def sign_flip_sums(e: Array, weights: NDArray[np.float64], codes: NDArray[np.int64], log2_k: int) -> Array:
    """Signed sums of all flips of a group (`Backend.sign_flip_sums`)."""
    import cupy as cp

    if e.dtype.char not in _REAL:
        raise BackendError(f"expected float32 or float64, got {e.dtype}", "convert it first: x.astype(numpy.float32)")
    e = cp.ascontiguousarray(e)
    (n, w), m = e.shape, len(weights)
    out = cp.empty((1 << log2_k, m, w), e.dtype)
    if out.size == 0:
        return out
    bins = sign_flip_bins(weights, codes, log2_k, _BITS, e.dtype)
    members, first, signed = (cp.asarray(part) for part in bins)
    n_high = len(bins.weights)
    sizes: tuple[Any, ...] = (np.int64(n), np.int64(w), np.int64(m), np.int64(n_high), np.int32(min(log2_k, _BITS)))
    function = kernel("sign_flips", "sign_flip_sums", (f"-DREAL={_REAL[e.dtype.char]}",))
    launch(function, -(-w // _TILE) * m * n_high, (e, signed, members, first, out, *sizes))
    return out
