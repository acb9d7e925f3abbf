"""Bring arrays into the form that the backends take: floats in native byte order, one leading axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError

__all__ = ["as_bool", "as_float", "as_inside", "as_volumes", "float_dtype"]

_TO_FLOAT32 = ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16")
_TO_FLOAT64 = ("float64", "int32", "uint32", "int64", "uint64", "longdouble", "float128")


def as_float(backend: Backend, array: Any, name: str) -> Array:
    """Return `array` as float32 or float64 in native byte order; no copy where it is one already.

    float32 and float64 stay; bool, float16 and integers up to 16 bits become float32; wider integers, which
    float32 would round, become float64.
    """
    array = array if backend.owns(array) else backend.xp.asarray(array)
    return array.astype(float_dtype(array.dtype, name), copy=False)


def float_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """Return the type that values of `dtype` are computed in, as `as_float` takes it."""
    if dtype.name in _TO_FLOAT32:
        return np.dtype(np.float32)
    if dtype.name in _TO_FLOAT64:
        return np.dtype(np.float64)
    raise DataError(f"{name} has dtype {dtype}: expected real numbers", "pass its real part, or convert it first")


def as_bool(backend: Backend, array: Any) -> Array:
    """Return `array` as bool: non-zero is True (NaN too, as in SciPy)."""
    xp = backend.xp
    array = array if backend.owns(array) else xp.asarray(array)
    return array if array.dtype == np.bool_ else array != 0


def as_volumes(array: Array, name: str) -> Array:
    """Return `array` `(..., X, Y, Z)` as `(n, X, Y, Z)`: a view wherever the memory layout has one."""
    if array.ndim < 3:
        raise DataError(
            f"{name} has shape {tuple(array.shape)}: expected volumes (..., X, Y, Z)",
            "add the missing axes, as in data[None], or reshape it",
        )
    if array.ndim == 4:
        return array
    count = int(np.prod(array.shape[:-3], dtype=np.int64))
    return array.reshape((count, *array.shape[-3:]))


def as_inside(backend: Backend, mask: Any, shape: tuple[int, ...], name: str = "mask") -> Array | None:
    """Return a mask as bool `(X, Y, Z)` on the backend, None as None; `shape` is what it has to have."""
    if mask is None:
        return None
    inside = as_bool(backend, mask)
    if tuple(inside.shape) != tuple(shape):
        raise DataError(
            f"{name} has shape {tuple(inside.shape)}, but the volumes have {tuple(shape)}",
            "give a mask of the volumes' own shape (X, Y, Z)",
        )
    return inside
