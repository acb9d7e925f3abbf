"""Piecewise cubics on a uniform grid, for whole maps: t and F to z without a tail per element.

`cubics` holds one row of four coefficients an interval, lowest first: 32 bytes, so that an element touches one cache
line, and those of usual values (|t| < 5: 20 kB) stay in L1. NaN is looked up in the last interval, never outside.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

__all__ = ["beyond", "cubic_of_log", "odd_cubic"]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def odd_cubic(x, cubics, per_unit, out, start, stop):  # type: ignore[no-untyped-def]
    """Write sign(x) * cubic(|x|) for elements start..stop; the grid starts at 0 with `per_unit` intervals a unit."""
    last = np.float64(cubics.shape[0] - 1)
    for i in range(start, stop):
        value = np.float64(x[i])
        place = abs(value) * per_unit
        k = np.int64(place if place < last else last)
        u = place - k
        whole = np.uint64(k)
        z = cubics[whole, 0] + u * (cubics[whole, 1] + u * (cubics[whole, 2] + u * cubics[whole, 3]))
        out[i] = math.copysign(z, value)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def cubic_of_log(x, cubics, first, per_unit, out, start, stop):  # type: ignore[no-untyped-def]
    """Write cubic(log x) for elements start..stop; the grid starts at log x = `first`."""
    last = np.float64(cubics.shape[0] - 1)
    for i in range(start, stop):
        place = (math.log(np.float64(x[i])) - first) * per_unit
        place = place if place > 0.0 else (0.0 if place <= 0.0 else place)
        k = np.int64(place if place < last else last)
        u = place - k
        whole = np.uint64(k)
        out[i] = cubics[whole, 0] + u * (cubics[whole, 1] + u * (cubics[whole, 2] + u * cubics[whole, 3]))


@nb.njit(cache=True, nogil=True)
def beyond(x, low, high, start, stop):  # type: ignore[no-untyped-def]
    """Return the positions in start..stop of elements below `low` or above `high`; NaN is neither."""
    n = np.int64(0)
    for i in range(start, stop):
        n += np.int64(x[i] < low) | np.int64(x[i] > high)
    found = np.empty(n, np.int64)
    if n == 0:
        return found
    n = np.int64(0)
    for i in range(start, stop):
        if x[i] < low or x[i] > high:
            found[n] = i
            n += 1
    return found
