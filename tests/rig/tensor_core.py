"""`cublas.gemmEx` of the stand-in: float16 products added as tensor cores add them, to the worst of what is known.

Products are exact. They are added to the accumulator a few at a time: all are shifted to the largest exponent, what
falls below its 24 bits is cut off, and so is the sum (Fasi, Higham, Mikaitis and Pranesh 2021, doi
10.7717/peerj-cs.330). The V100 takes 4 at a time without further bits; later devices take 8 or 16, with one or more
bits to spare, and are closer to the truth.
"""

from __future__ import annotations

import ctypes
import itertools
import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rig.standin_device import METER

__all__ = ["cublas_modules", "tensor_core_product"]

_AT_A_TIME = 4
_BITS = 24
_TYPES = {0: np.float32, 2: np.float16}  # CUDA_R_32F, CUDA_R_16F


def tensor_core_product(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return `a @ b`, (m, k) by (k, w), with the rounding of the accumulator.

    Examples
    --------
    >>> ones = np.ones((1, 8), np.float16)
    >>> float(tensor_core_product(ones, ones.T)[0, 0])
    8.0
    >>> small = np.array([[1.0, 2.0**-12, 2.0**-12]], np.float16)
    >>> float(tensor_core_product(small, small.T)[0, 0])  # float32 would round to 1 + 2^-23
    1.0
    """
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    total = np.zeros((a.shape[0], b.shape[1]))
    for start in range(0, a.shape[1], _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        terms = wide_a[:, some, None] * wide_b[None, some, :]  # exact: 11 bits by 11
        addends = np.concatenate([total[:, None, :], terms], axis=1)
        total = _cut(_cut(addends, np.abs(addends).max(axis=1, keepdims=True)).sum(axis=1))
    return total.astype(np.float32)


def _cut(values: NDArray[np.float64], largest: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Cut off what lies below 24 bits of the largest (of each value itself)."""
    _, exponent = np.frexp(np.abs(values) if largest is None else largest)
    unit = np.ldexp(1.0, exponent - _BITS)
    return np.asarray(np.trunc(values / unit) * unit)


def cublas_modules() -> dict[str, types.ModuleType]:
    """`cupy_backends.cuda.libs.cublas` and the packages above it."""
    names = ["cupy_backends", "cupy_backends.cuda", "cupy_backends.cuda.libs", "cupy_backends.cuda.libs.cublas"]
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    for outer, inner in itertools.pairwise(names):
        setattr(modules[outer], inner.rpartition(".")[2], modules[inner])
        modules[outer].__path__ = []
    modules[names[-1]].gemmEx = _gemm_ex
    return modules


def _gemm_ex(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int,
    b: int, b_type: int, ldb: int, beta: int, c: int, c_type: int, ldc: int, compute_type: int, algo: int,
) -> None:  # fmt: skip
    """cuBLAS's C = alpha A B + beta C, columns first: only float16 by float16 into float32, as they lie."""
    if (transa, transb, a_type, b_type, c_type, compute_type) != (0, 0, 2, 2, 0, 68) or algo not in (-1, 99):
        raise NotImplementedError("the stand-in's gemmEx multiplies float16 by float16 into float32")
    if lda < m or ldb < k or ldc < m:
        raise ValueError(f"leading dimensions {lda}, {ldb}, {ldc} for a product of {m} x {k} by {k} x {n}")
    left, right, out = _at(a, a_type, k, m, lda), _at(b, b_type, n, k, ldb), _at(c, c_type, n, m, ldc)
    factor, onto = (ctypes.c_float.from_address(pointer).value for pointer in (alpha, beta))
    product = np.float32(factor) * tensor_core_product(right, left)
    out[...] = product if onto == 0 else product + np.float32(onto) * out
    METER.launches["gemmEx"] += 1


def _at(pointer: int, kind: int, rows: int, columns: int, pitch: int) -> NDArray[Any]:
    """The matrix at an address, its rows `pitch` elements apart."""
    dtype = np.dtype(_TYPES[kind])
    nbytes = ((rows - 1) * pitch + columns) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * nbytes).from_address(pointer), dtype)
    return np.ndarray((rows, columns), dtype, flat.data, strides=(pitch * dtype.itemsize, dtype.itemsize))
