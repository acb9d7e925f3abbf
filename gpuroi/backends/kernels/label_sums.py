"""Sums of maps over labelled runs of elements, in the order of the elements."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["label_sums", "labelled_runs"]


@nb.njit(cache=True, nogil=True)
def labelled_runs(labels):  # type: ignore[no-untyped-def]
    """Begin, end (exclusive) and label of every run of one label other than 0."""
    n = 0
    before = np.int32(0)
    for label in labels:
        n += label != before and label != 0
        before = label
    begin, end, number = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int32)
    k = -1
    before = np.int32(0)
    for i in range(labels.size):
        if labels[i] != before and labels[i] != 0:
            k += 1
            begin[k], number[k] = i, labels[i]
        if labels[i] != 0:
            end[k] = i + 1
        before = labels[i]
    return begin, end, number


@nb.njit(cache=True, nogil=True)
def label_sums(values, begin, end, number, sums, start, stop):  # type: ignore[no-untyped-def]
    """Add the sum of each run of `values[map]` to `sums[map, number - 1]`, for maps start..stop.

    Four maps at a time: one chain of additions alone waits four cycles for each of them. Every map has its own sums,
    in the same order, whether it comes with others or not.
    """
    row = start
    while row + 3 < stop:
        v0, v1, v2, v3 = values[row], values[row + 1], values[row + 2], values[row + 3]
        for k in range(number.size):
            s0 = s1 = s2 = s3 = 0.0
            for i in range(begin[k], end[k]):
                s0 += np.float64(v0[i])
                s1 += np.float64(v1[i])
                s2 += np.float64(v2[i])
                s3 += np.float64(v3[i])
            column = number[k] - 1
            sums[row, column] += s0
            sums[row + 1, column] += s1
            sums[row + 2, column] += s2
            sums[row + 3, column] += s3
        row += 4
    while row < stop:
        line = values[row]
        for k in range(number.size):
            s0 = 0.0
            for i in range(begin[k], end[k]):
                s0 += np.float64(line[i])
            sums[row, number[k] - 1] += s0
        row += 1
