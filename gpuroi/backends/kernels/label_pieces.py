"""Connected pieces of every region of a label volume, in one pass over its rows."""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["label_pieces"]


@nb.njit(cache=True, nogil=True)
def label_pieces(columns, size_b, connectivity, c_order_reversed, out):  # type: ignore[no-untyped-def]
    """Write the piece of each voxel, from 1, into `out`; return the region and the size of each piece.

    `columns` int32 (rows, C), 0 outside; `size_b` rows make a plane; `out` int32, zeros of that shape. Neighbours of
    one region are one piece. Pieces are in the order of their regions, those of a region by first voxel in C order, or,
    if `c_order_reversed`, by first voxel in C order of the transposed volume (C, B, A).
    """
    begin, end, value, first = _runs(columns)
    root = _joined(begin, end, value, first, size_b, connectivity)
    n_rows, size_a = columns.shape[0], columns.shape[0] // max(1, size_b)
    n_runs = begin.size
    place, size = np.full(n_runs, np.iinfo(np.int64).max), np.zeros(n_runs, np.int64)
    for row in range(n_rows):
        for i in range(first[row], first[row + 1]):
            if c_order_reversed:
                here = np.int64(begin[i]) * n_rows + (row % size_b) * size_a + row // size_b
            else:
                here = np.int64(row) * columns.shape[1] + begin[i]
            place[root[i]] = min(place[root[i]], here)
            size[root[i]] += end[i] - begin[i]
    roots = np.flatnonzero(size)
    roots = roots[np.argsort(place[roots])]
    roots = roots[np.argsort(value[roots], kind="mergesort")]  # stable: by region, then by place
    number = np.zeros(n_runs, np.int32)
    for k in range(roots.size):
        number[roots[k]] = k + 1
    for row in range(n_rows):
        for i in range(first[row], first[row + 1]):
            out[row, begin[i] : end[i]] = number[root[i]]
    return value[roots], size[roots]


@nb.njit(cache=True, nogil=True)
def _runs(columns):  # type: ignore[no-untyped-def]
    """Begin, end (exclusive) and region of every run of one region, and the first run of every row."""
    n_rows, size_c = columns.shape
    first = np.zeros(n_rows + 1, np.int64)
    for row in range(n_rows):
        n, before = 0, np.int32(0)
        for c in range(size_c):
            here = columns[row, c]
            n += here != 0 and here != before
            before = here
        first[row + 1] = first[row] + n
    n_runs = first[n_rows]
    begin, end, value = np.empty(n_runs, np.int32), np.empty(n_runs, np.int32), np.empty(n_runs, np.int32)
    i = 0
    for row in range(n_rows):
        before = np.int32(0)
        for c in range(size_c + 1):
            here = columns[row, c] if c < size_c else np.int32(0)
            if here != before:
                if before != 0:
                    end[i] = c
                    i += 1
                if here != 0:
                    begin[i], value[i] = c, here
            before = here
    return begin, end, value, first


@nb.njit(cache=True, nogil=True)
def _joined(begin, end, value, first, size_b, connectivity):  # type: ignore[no-untyped-def]
    """Return the root of every run: the first run of its piece."""
    n_rows = first.size - 1
    parent = np.arange(begin.size)
    for row in range(n_rows):
        b = row % size_b
        above = row - size_b
        if b > 0:
            _join(parent, begin, end, value, first, row, row - 1, connectivity > 6)
        if above < 0:
            continue
        _join(parent, begin, end, value, first, row, above, connectivity > 6)
        if connectivity > 6 and b > 0:
            _join(parent, begin, end, value, first, row, above - 1, connectivity == 26)
        if connectivity > 6 and b < size_b - 1:
            _join(parent, begin, end, value, first, row, above + 1, connectivity == 26)
    for i in range(parent.size):  # a parent comes before its children
        parent[i] = parent[parent[i]]
    return parent


@nb.njit(cache=True, nogil=True)
def _join(parent, begin, end, value, first, row, other, diagonal):  # type: ignore[no-untyped-def]
    """Join the runs of a row with the runs of one region in another that they touch; `diagonal` reaches one further."""
    reach = 1 if diagonal else 0
    start, stop = first[other], first[other + 1]
    for i in range(first[row], first[row + 1]):
        while start < stop and end[start] + reach <= begin[i]:
            start += 1
        j = start
        while j < stop and begin[j] < end[i] + reach:
            if value[j] == value[i]:
                p, q = i, j
                while parent[p] != p:
                    p = parent[p]
                while parent[q] != q:
                    q = parent[q]
                root = min(p, q)
                parent[p], parent[q] = root, root
                parent[i], parent[j] = root, root
            j += 1
