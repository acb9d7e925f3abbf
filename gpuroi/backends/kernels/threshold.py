"""Keep the values that pass a cutoff, alone or in components of a minimum size; one volume at a time."""

from __future__ import annotations

import numba as nb
import numpy as np

from gpuroi.backends.kernels.runs import components

__all__ = ["keep_clusters", "keep_values"]

BOTH, ABOVE, BELOW = 0, 1, 2


@nb.njit(cache=True, nogil=True)
def keep_values(values, inside, masked, cutoff, side, out):  # type: ignore[no-untyped-def]
    """Write values that pass into `out`, 0 elsewhere; all flat. NaN passes no comparison."""
    zero = values.dtype.type(0)
    if side == BOTH:
        for i in range(values.size):
            out[i] = values[i] if abs(values[i]) >= cutoff else zero
    elif side == ABOVE:
        for i in range(values.size):
            out[i] = values[i] if values[i] >= cutoff else zero
    else:
        for i in range(values.size):
            out[i] = values[i] if values[i] <= cutoff else zero
    if masked:
        for i in range(values.size):
            if not inside[i]:
                out[i] = zero


@nb.njit(cache=True, nogil=True)
def keep_clusters(  # type: ignore[no-untyped-def]
    values, inside, masked, cutoff, side, min_size, connectivity, size_b, out
):
    """Write values that pass and lie in components of at least `min_size` voxels; `out` (rows, C) holds zeros.

    `values` is (rows, C), `size_b` rows make a plane. Positive and negative values form components apart.
    """
    if side != BELOW:
        _keep_sign(values, inside, masked, cutoff, True, min_size, connectivity, size_b, out)
    if side == BOTH:
        _keep_sign(values, inside, masked, -cutoff, False, min_size, connectivity, size_b, out)
    if side == BELOW:
        _keep_sign(values, inside, masked, cutoff, False, min_size, connectivity, size_b, out)


@nb.njit(cache=True, nogil=True)
def _keep_sign(  # type: ignore[no-untyped-def]
    values, inside, masked, cutoff, positive, min_size, connectivity, size_b, out
):
    n_rows, size_c = values.shape
    first = np.empty(n_rows + 1, np.uint32)
    room = 1024
    begin = np.empty(room, np.uint32)
    end = np.empty(room, np.uint32)
    passing = np.empty(size_c, np.bool_)
    zero = values.dtype.type(0)
    n = 0
    for row in range(n_rows):
        first[row] = n
        line = values[row]
        hits = 0
        if positive:
            for j in range(size_c):
                passing[j] = (line[j] >= cutoff) & (line[j] > zero)
                hits += passing[j]
        else:
            for j in range(size_c):
                passing[j] = (line[j] <= cutoff) & (line[j] < zero)
                hits += passing[j]
        if hits == 0:
            continue
        if masked:
            allowed = inside[row]
            for j in range(size_c):
                passing[j] &= allowed[j]
        if n + hits > room:
            room = 2 * (n + hits)
            begin = _grown(begin, room)
            end = _grown(end, room)
        j = 0
        while j < size_c:
            if not passing[j]:
                j += 1
                continue
            begin[n] = j
            while j < size_c and passing[j]:
                j += 1
            end[n] = j
            n += 1
    first[n_rows] = n
    component, n_components = components(begin, end, first, size_b, connectivity)
    sizes = np.zeros(n_components, np.int64)
    for i in range(n):
        sizes[component[i]] += np.int64(end[i] - begin[i])
    for row in range(n_rows):
        for i in range(first[row], first[row + 1]):
            if sizes[component[i]] >= min_size:
                for j in range(begin[i], end[i]):
                    out[row, j] = values[row, j]


@nb.njit(cache=True, nogil=True)
def _grown(array, room):  # type: ignore[no-untyped-def]
    bigger = np.empty(room, array.dtype)
    bigger[: array.size] = array
    return bigger
