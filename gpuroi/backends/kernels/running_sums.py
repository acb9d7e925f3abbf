"""Sums of values of any type in float64."""

from __future__ import annotations

import numba as nb

__all__ = ["add_values"]


@nb.njit(cache=True, nogil=True)
def add_values(values, total):  # type: ignore[no-untyped-def]
    """Add `values` to `total`, float64; both flat. NumPy's `+=` takes 3 times as long: it converts in a buffer."""
    for i in range(total.size):
        total[i] += values[i]
