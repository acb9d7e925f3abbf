"""Deviations and extremes of maps over labelled runs of elements; see `label_sums` for the runs."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["label_deviations", "label_extremes"]


@nb.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def label_deviations(values, begin, end, number, means, sums, start, stop):  # type: ignore[no-untyped-def]
    """Add the squared differences from `means[map, number - 1]` to `sums[map, number - 1]`, for maps start..stop."""
    for row in range(start, stop):
        line = values[row]
        for k in range(number.size):
            mean, total = means[row, number[k] - 1], 0.0
            for i in range(begin[k], end[k]):
                total += (np.float64(line[i]) - mean) ** 2
            sums[row, number[k] - 1] += total


@nb.njit(cache=True, nogil=True)
def label_extremes(values, begin, end, number, sign, out, start, stop):  # type: ignore[no-untyped-def]
    """Write the largest of sign * value into `out[map, number - 1]`, for maps start..stop; it holds -inf on entry."""
    for row in range(start, stop):
        line = values[row]
        for k in range(number.size):
            found = out[row, number[k] - 1]
            for i in range(begin[k], end[k]):
                found = max(found, sign * np.float64(line[i]))
            out[row, number[k] - 1] = found
