"""Least squares of every column on an orthonormal basis: coordinates, and the squares of what is left."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["fit_columns"]

_COLUMNS = 128  # at a time: eight rows of them and all sums stay in the first cache
_ROWS = 8  # at a time: sums are read and written an eighth as often
_NEARLY_ALL = 0.01  # what a fit may leave of the squares before their difference loses digits


@nb.njit(cache=True, nogil=True, error_model="numpy")
def fit_columns(y, u, shift, coordinates, size, left):  # type: ignore[no-untyped-def]
    """Fit `y - shift`, `y` (n, w), to the columns of `u`, (n, rank), in float64.

    Writes `coordinates` (rank, w), the sums of squares before, `size` (w,), and after, `left` (w,). What is left is
    the difference of the squares where that is a hundredth or more of the whole, and so right to 14 digits; else the
    squares of the residuals themselves, in a second pass. A column gives the same bits whatever is beside it.
    """
    w, rank = y.shape[1], u.shape[1]
    # Arrays of their own, not slices: the compiler takes vectors where it knows that neighbours are neighbours.
    rows = np.zeros((_ROWS, _COLUMNS), np.float64)
    a = np.empty((rank, _COLUMNS), np.float64)
    s, total, rest = np.empty(_COLUMNS, np.float64), np.empty(_COLUMNS, np.float64), np.empty(_COLUMNS, np.float64)
    for lo in range(0, w, _COLUMNS):
        m = min(w - lo, _COLUMNS)
        s[:m] = shift[lo : lo + m]
        _project(y[:, lo : lo + m], u, s, rows, a, total)
        coordinates[:, lo : lo + m] = a[:, :m]
        size[lo : lo + m] = total[:m]
        if _difference(total, a, rest, m):
            _leave(y[:, lo : lo + m], u, s, rows[0], a, total)
        for j in range(m):
            left[lo + j] = total[j] if rest[j] < _NEARLY_ALL * size[lo + j] else rest[j]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _project(y, u, shift, rows, a, size):  # type: ignore[no-untyped-def]
    n, rank = u.shape
    a[:] = 0.0
    size[:] = 0.0
    i = 0
    while i + _ROWS <= n:
        for r in range(_ROWS):
            _shifted(y[i + r], shift, rows[r])
        for k in range(rank):
            _add_eight(a[k], rows, u[i : i + _ROWS, k])
        _add_squares(size, rows)
        i += _ROWS
    while i < n:
        _shifted(y[i], shift, rows[0])
        for k in range(rank):
            _add_one(a[k], rows[0], u[i, k])
        _add_square(size, rows[0])
        i += 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _difference(size, a, rest, m):  # type: ignore[no-untyped-def]
    """Write what the squares of the coordinates leave; is that too little for its digits somewhere?"""
    too_little = False
    rest[:] = size
    for k in range(a.shape[0]):
        for j in range(m):
            rest[j] -= a[k, j] * a[k, j]
    for j in range(m):
        too_little |= rest[j] < _NEARLY_ALL * size[j]
    return too_little


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _leave(y, u, shift, rest, a, left):  # type: ignore[no-untyped-def]
    n, rank = u.shape
    left[:] = 0.0
    for i in range(n):
        _shifted(y[i], shift, rest)
        for k in range(rank):
            _add_one(rest, a[k], -u[i, k])
        _add_square(left, rest)


@nb.njit(cache=True, nogil=True)
def _shifted(row, shift, out):  # type: ignore[no-untyped-def]
    for j in range(row.size):
        out[j] = row[j] - shift[j]


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_one(out, row, factor):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] += factor * row[j]


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_square(out, row):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        out[j] += row[j] * row[j]


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_eight(out, rows, c):  # type: ignore[no-untyped-def]
    y0, y1, y2, y3, y4, y5, y6, y7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    c0, c1, c2, c3, c4, c5, c6, c7 = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    for j in range(out.size):
        low = (c0 * y0[j] + c1 * y1[j]) + (c2 * y2[j] + c3 * y3[j])
        out[j] += low + ((c4 * y4[j] + c5 * y5[j]) + (c6 * y6[j] + c7 * y7[j]))


@nb.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_squares(out, rows):  # type: ignore[no-untyped-def]
    y0, y1, y2, y3, y4, y5, y6, y7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for j in range(out.size):
        low = (y0[j] * y0[j] + y1[j] * y1[j]) + (y2[j] * y2[j] + y3[j] * y3[j])
        out[j] += low + ((y4[j] * y4[j] + y5[j] * y5[j]) + (y6[j] * y6[j] + y7[j] * y7[j]))
