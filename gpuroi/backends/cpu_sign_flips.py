"""Signed sums of a group of flips on the CPU: each thread takes a range of elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.sign_flip_bins import sign_flip_bins
from gpuroi.backends.threads import run_blocks

__all__ = ["sign_flip_sums"]

_BITS = 8  # 256 bins of a tile are 64 KB in float32: with fewer, the rows are read more often (1.8 ns a sum, not 7)


def sign_flip_sums(
    e: NDArray[Any], weights: NDArray[np.float64], codes: NDArray[np.int64], log2_k: int
) -> NDArray[Any]:
    """Signed sums of all flips of a group (`Backend.sign_flip_sums`)."""
    from gpuroi.backends.kernels.sign_flips import sign_flip_sums as kernel

    w = e.shape[1]
    out = np.empty((1 << log2_k, len(weights), w), e.dtype)
    if out.size == 0:
        return out
    bins = sign_flip_bins(weights, codes, log2_k, _BITS, e.dtype)
    flat, pitch = _flat(e)
    layout = (flat, pitch, bins.weights, bins.members, bins.first, out.reshape(-1), w)
    run_blocks(lambda lo, hi: kernel(*layout, lo, hi), w, least=512)
    return out


def _flat(e: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The memory of `e` in one row, and the step from a row of `e` to the next: no copy of a block of columns.

    A block of columns as it is has gaps between rows, and numba then takes a loop over single elements.
    """
    n, w = e.shape
    size = e.itemsize
    if e.strides[1] != size or e.strides[0] % size or e.strides[0] < w * size:
        e = np.ascontiguousarray(e)
    pitch = e.strides[0] // size
    length = (n - 1) * pitch + w
    return np.lib.stride_tricks.as_strided(e, (length,), (size,), writeable=False), pitch
