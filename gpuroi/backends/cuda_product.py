"""Products of rearrangements with residuals on the tensor cores: float32 as sums of two float16 parts.

x = high + low / 2048, both float16: 22 bits, and what is lost is below 2^-23 of x. The product is

    high_w high_e + (high_w low_e + low_w high_e) / 2048

in float32; low_w low_e is below 2^-24 of the largest product and left out (Ootomo and Yokota 2022,
doi 10.1177/10943420221090256). Tensor cores truncate where they add: a sum over 1000 observations would be off by
several 1e-6 of itself, all to one side. So the first product goes in runs of 256 observations, which are added outside
of the tensor cores, rounded to nearest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array
from gpuroi.errors import UsageError

__all__ = ["products"]

_VARIABLE = "GPUROI_PRODUCT"
_LOW = 2048.0  # the first bit that high does not hold, in the unit of its last place
_RUN = 256  # observations that are summed within the tensor cores
_ALIGNED = 8  # float16 elements: below 16 bytes cuBLAS takes slower kernels
# cublas_api.h and library_types.h
_OP_N, _GEMM_DEFAULT, _COMPUTE_32F, _CUDA_R_32F, _CUDA_R_16F = 0, -1, 68, 0, 2


def products(e: Array) -> Callable[[NDArray[np.floating]], Array]:
    """Function that multiplies by `e` (`Backend.products`)."""
    import cupy as cp

    split = _Split(e) if e.dtype == np.float32 and e.size and _split_is_asked_for() else None

    def multiply(weights: NDArray[np.floating]) -> Array:
        with e.device:
            return cp.asarray(weights.astype(e.dtype, copy=False)) @ e if split is None else split.multiply(weights)

    return multiply


def _split_is_asked_for() -> bool:
    """True where the environment asks for tensor cores and the device has them."""
    import cupy as cp

    asked = os.environ.get(_VARIABLE) or "float32"
    if asked not in ("float32", "float16x2"):
        raise UsageError(f'{_VARIABLE} is "{asked}"', "use float32 (the default) or float16x2")
    return asked == "float16x2" and int(cp.cuda.Device().compute_capability) >= 70


class _Split:
    """A matrix (n, w) as two of float16, low above high, with rows and columns of zeros to multiples of 8."""

    def __init__(self, e: Array) -> None:
        import cupy as cp

        n, self.w = e.shape
        self.rows, self.columns = _padded(n), _padded(self.w)
        self.parts = cp.zeros((2 * self.rows, self.columns), np.float16)
        high = self.parts[self.rows : self.rows + n, : self.w]
        high[...] = e
        self.parts[:n, : self.w] = (e - high) * np.float32(_LOW)

    def multiply(self, weights: NDArray[np.floating]) -> Array:
        """weights @ e, (m, w) float32; a view, as rows are padded."""
        import cupy as cp

        m, n = weights.shape
        given = weights.astype(np.float32)
        parts = np.zeros((m, 2 * self.rows), np.float16)
        parts[:, :n] = given
        parts[:, self.rows : self.rows + n] = (given - parts[:, :n]) * np.float32(_LOW)
        on_device = cp.asarray(parts)
        out = cp.empty((m, self.columns), np.float32)
        self._add(on_device, 0, 0, 2 * self.rows, 1 / _LOW, out, onto=0.0)  # high_w low_e + low_w high_e
        for start in range(0, self.rows, _RUN):
            many = min(_RUN, self.rows - start)
            self._add(on_device, start, self.rows + start, many, 1.0, out, onto=1.0)
        return out[:, : self.w]

    def _add(self, weights: Array, first: int, row: int, many: int, factor: float, out: Array, *, onto: float) -> None:
        """out = factor * weights[:, first : first + many] @ parts[row : row + many] + onto * out."""
        import cupy as cp
        from cupy_backends.cuda.libs import cublas

        scale, add = np.array(factor, np.float32), np.array(onto, np.float32)
        # cuBLAS counts columns first: it gets the transposed product, e' w', of the arrays as they lie.
        left = (self.parts.data.ptr + row * self.parts.strides[0], _CUDA_R_16F, self.columns)
        right = (weights.data.ptr + first * weights.itemsize, _CUDA_R_16F, weights.shape[1])
        target = (out.data.ptr, _CUDA_R_32F, self.columns)
        sizes = (self.columns, len(weights), many)
        pointers: tuple[Any, ...] = (scale.ctypes.data, *left, *right, add.ctypes.data, *target)
        handle = cp.cuda.Device().cublas_handle
        cublas.gemmEx(handle, _OP_N, _OP_N, *sizes, *pointers, _COMPUTE_32F, _GEMM_DEFAULT)


def _padded(n: int) -> int:
    return -(-n // _ALIGNED) * _ALIGNED
