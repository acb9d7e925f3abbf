"""Partial correlations: residuals of a block of elements, and what is kept of the correlations with many phenotypes."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["coefficients", "remainders", "scale_columns", "tally"]

_ROWS = 8  # of the data at a time: sums are read and written an eighth as often
# There is no NaN here: elements without a statistic are left out before. Told so, the compiler takes vectors.
_FAST = {"contract", "nnan", "nsz", "reassoc"}


@nb.njit(cache=True, nogil=True)
def coefficients(y, basis, out):  # type: ignore[no-untyped-def]
    """Write `basis y` in float64: `y` (n, w), `basis` (q, n), `out` (q, w); a few hundred columns stay in cache."""
    n, w = y.shape
    rows = np.empty((_ROWS, w), np.float64)
    out[:] = 0.0
    i = 0
    # Eight rows become float64 once and serve all of the basis: 17 ms for 1000 x 60 000 and 4 rows of the basis;
    # converted in each sum 55.
    while i + _ROWS <= n:
        for r in range(_ROWS):
            _widen(y[i + r], rows[r])
        for k in range(basis.shape[0]):
            _add_eight(out[k], rows, basis[k, i : i + _ROWS])
        i += _ROWS
    while i < n:
        _widen(y[i], rows[0])
        for k in range(basis.shape[0]):
            _add_one(out[k], rows[0], basis[k, i])
        i += 1


@nb.njit(cache=True, nogil=True)
def remainders(y, basis, b, out, squares):  # type: ignore[no-untyped-def]
    """Write `y - basis' b` to `out` (n, w), and its sums of squares, taken before it is rounded, to `squares` (w,)."""
    n, w = y.shape
    q = basis.shape[0]
    rest = np.empty(w, np.float64)
    squares[:] = 0.0
    for i in range(n):
        _widen(y[i], rest)
        k = 0
        while k + 4 <= q:
            _take_four(rest, b[k], b[k + 1], b[k + 2], b[k + 3], basis[k : k + 4, i])
            k += 4
        while k < q:
            _add_one(rest, b[k], -basis[k, i])
            k += 1
        _store(rest, out[i], squares)


@nb.njit(cache=True, nogil=True)
def scale_columns(values, factors):  # type: ignore[no-untyped-def]
    """Multiply every column by its factor, in place."""
    for i in range(values.shape[0]):
        row = values[i]
        for j in range(row.size):
            row[j] *= factors[j]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def tally(u, df, step, elements, columns, two_sided, histogram, sizes, values, places):  # type: ignore[no-untyped-def]
    """Count partial correlations in bins of t and put the largest of each phenotype among those kept.

    `u` (p, w) of the phenotypes `columns` (p,) at the elements `elements` (w,); `histogram` (all, bins) counts t in
    bins of width `step`, half of them below 0. `sizes`, `values` and `places` (all, top) are heaps, the least of those
    kept first: |u| (u unless two-sided), u, and the element. Of equal ones the first element is the larger.
    """
    bins = histogram.shape[1]
    scale, middle, last = u.dtype.type(np.sqrt(df) / step), u.dtype.type(bins // 2), u.dtype.type(bins - 1)
    bin_of = np.empty(u.shape[1], np.int32)
    # Neighbours often fall into one bin: counted in one place, each would wait for the one before.
    counts = np.zeros((4, bins), np.int32)
    for r in range(u.shape[0]):
        row, column = u[r], columns[r]
        _find_bins(row, scale, middle, last, bin_of)
        _count(bin_of, counts[0], counts[1], counts[2], counts[3])
        total = histogram[column]
        for k in range(bins):
            total[k] += counts[0, k] + counts[1, k] + counts[2, k] + counts[3, k]
        counts[:] = 0
        if _n_reaching(row, sizes[column, 0], two_sided):
            _keep_largest(row, elements, two_sided, sizes[column], values[column], places[column])


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _find_bins(row, scale, middle, last, bin_of):  # type: ignore[no-untyped-def]
    zero, one, least = row.dtype.type(0), row.dtype.type(1), row.dtype.type(1e-30)
    for j in range(row.size):
        rest = max((one - row[j]) * (one + row[j]), least)
        bin_of[j] = np.int32(min(max(row[j] * scale / np.sqrt(rest) + middle, zero), last))


@nb.njit(cache=True, nogil=True)
def _count(bin_of, counts0, counts1, counts2, counts3):  # type: ignore[no-untyped-def]
    j = 0
    while j + 4 <= bin_of.size:
        counts0[bin_of[j]] += 1
        counts1[bin_of[j + 1]] += 1
        counts2[bin_of[j + 2]] += 1
        counts3[bin_of[j + 3]] += 1
        j += 4
    while j < bin_of.size:
        counts0[bin_of[j]] += 1
        j += 1


@nb.njit(cache=True, nogil=True)
def _n_reaching(row, least, two_sided):  # type: ignore[no-untyped-def]
    """How many reach the least of those kept: a sum is found seven times as fast as a maximum (0.07 ns an element)."""
    n = 0
    if two_sided:
        for j in range(row.size):
            n += abs(row[j]) >= least
    else:
        for j in range(row.size):
            n += row[j] >= least
    return n


@nb.njit(cache=True, nogil=True)
def _keep_largest(row, elements, two_sided, sizes, values, places):  # type: ignore[no-untyped-def]
    for j in range(row.size):
        size = abs(row[j]) if two_sided else row[j]
        if size > sizes[0] or (size == sizes[0] and elements[j] < places[0]):
            _replace_least(size, row[j], elements[j], sizes, values, places)


@nb.njit(cache=True, nogil=True)
def _replace_least(size, value, place, sizes, values, places):  # type: ignore[no-untyped-def]
    """Sift a new entry down from the top of the heap."""
    at, n = 0, sizes.size
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and _is_less(sizes[child + 1], places[child + 1], sizes[child], places[child]):
            child += 1
        if not _is_less(sizes[child], places[child], size, place):
            break
        sizes[at], values[at], places[at] = sizes[child], values[child], places[child]
        at = child
    sizes[at], values[at], places[at] = size, value, place


@nb.njit(cache=True, nogil=True)
def _is_less(size, place, other_size, other_place):  # type: ignore[no-untyped-def]
    return size < other_size or (size == other_size and place > other_place)


@nb.njit(cache=True, nogil=True)
def _widen(row, out):  # type: ignore[no-untyped-def]
    for j in range(row.size):
        out[j] = row[j]


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_one(out, row, factor):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] += factor * row[j]


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_eight(out, rows, c):  # type: ignore[no-untyped-def]
    y0, y1, y2, y3, y4, y5, y6, y7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    c0, c1, c2, c3, c4, c5, c6, c7 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    for j in range(out.size):
        low = (c0 * y0[j] + c1 * y1[j]) + (c2 * y2[j] + c3 * y3[j])
        out[j] += low + ((c4 * y4[j] + c5 * y5[j]) + (c6 * y6[j] + c7 * y7[j]))


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _take_four(rest, b0, b1, b2, b3, c):  # type: ignore[no-untyped-def]
    c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
    for j in range(rest.size):
        rest[j] -= (c0 * b0[j] + c1 * b1[j]) + (c2 * b2[j] + c3 * b3[j])


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _store(rest, out, squares):  # type: ignore[no-untyped-def]
    for j in range(rest.size):
        squares[j] += rest[j] * rest[j]
        out[j] = rest[j]
