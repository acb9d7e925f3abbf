"""Number the connected components of one volume, from its bit-packed rows."""

from __future__ import annotations

import numba as nb
import numpy as np

from gpuroi.backends.kernels.runs import components

__all__ = ["label_rows"]

# Position of the lowest set bit: multiplying it by this de Bruijn number leaves a different top 6 bits for each.
_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
_LOWEST_BIT = np.zeros(64, np.int64)
_LOWEST_BIT[[(0x03F79D71B4CB0A89 << i & (1 << 64) - 1) >> 58 for i in range(64)]] = np.arange(64)


@nb.njit(cache=True, nogil=True)
def label_rows(words, size_b, size_c, connectivity, c_order_reversed, out):  # type: ignore[no-untyped-def]
    """Write labels of the rows into `out` (rows, C), which holds zeros; return how many components there are.

    `words` (rows, W) uint64 holds the mask, lowest bit first; `size_b` rows make a plane. Components are numbered by
    their first voxel in C order, or, if `c_order_reversed`, by their first voxel in C order of the transposed volume.
    """
    n_rows = words.shape[0]
    begin, end, first = _runs_of_bits(words, size_c)
    component, n = components(begin, end, first, size_b, connectivity)
    rank = np.arange(1, n + 1).astype(np.int32)
    if c_order_reversed:
        rank = _ranks_transposed(component, begin, first, n, size_b)
    for row in range(n_rows):
        target = out[row]
        for i in range(first[row], first[row + 1]):
            number = rank[component[i]]
            for j in range(begin[i], end[i]):
                target[j] = number
    return n


@nb.njit(cache=True, nogil=True)
def _runs_of_bits(words, size_c):  # type: ignore[no-untyped-def]
    """Begin and end (exclusive) of every run, and the first run of every row."""
    n_rows, n_words = words.shape
    one, top = np.uint64(1), np.uint64(63)
    first = np.empty(n_rows + 1, np.uint32)
    # A run needs a set bit and a clear one: half of the voxels, counted by rows that hold anything at all.
    room = 0
    for row in range(n_rows):
        for k in range(n_words):
            if words[row, k] != 0:
                room += (size_c + 1) // 2
                break
    begin = np.empty(room, np.uint32)
    end = np.empty(room, np.uint32)
    n = 0
    for row in range(n_rows):
        first[row] = n
        carry = np.uint64(0)
        opened = np.int64(-1)
        for k in range(n_words):
            word = words[row, k]
            edges = word ^ ((word << one) | carry)
            carry = word >> top
            while edges != 0:
                lowest = edges & (~edges + one)
                position = k * 64 + _LOWEST_BIT[(lowest * _DEBRUIJN) >> np.uint64(58)]
                edges ^= lowest
                if opened < 0:
                    opened = position
                else:
                    begin[n] = opened
                    end[n] = position
                    n += 1
                    opened = np.int64(-1)
        if opened >= 0:
            begin[n] = opened
            end[n] = size_c
            n += 1
    first[n_rows] = n
    return begin, end, first


@nb.njit(cache=True, nogil=True)
def _ranks_transposed(component, begin, first, n, size_b):  # type: ignore[no-untyped-def]
    """Number of each component, from 1, by its first voxel in C order of the transposed volume (C, B, A)."""
    n_rows = first.size - 1
    size_a = n_rows // max(1, size_b)
    key = np.full(n, np.iinfo(np.int64).max)
    for row in range(n_rows):
        offset = (row % size_b) * size_a + row // size_b
        for i in range(first[row], first[row + 1]):
            position = np.int64(begin[i]) * n_rows + offset
            if position < key[component[i]]:
                key[component[i]] = position
    rank = np.empty(n, np.int32)
    order = np.argsort(key)
    for i in range(n):
        rank[order[i]] = i + 1
    return rank
