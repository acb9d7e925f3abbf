"""Dilation on a padded, flattened volume: every offset is one shift, and no edge is met in the inner loop."""

from __future__ import annotations

import numba as nb

__all__ = ["or_shifts"]

_BLOCK = 8192  # bytes of the result at a time, so that they stay in L1 over all shifts


@nb.njit(cache=True, nogil=True)
def or_shifts(padded, out, shifts, start, stop):  # type: ignore[no-untyped-def]
    """Write `out[i] = OR over shifts s of padded[i + s]` for i in start..stop; all uint8, flat, of one length."""
    for lo in range(start, stop, _BLOCK):
        hi = min(lo + _BLOCK, stop)
        target = out[lo:hi]
        k = 0
        first = padded[lo + shifts[0] : hi + shifts[0]]
        for j in range(hi - lo):
            target[j] = first[j]
        k = 1
        while k + 2 < shifts.size:  # three shifts a sweep: a third of the reads and writes of the target
            s0, s1, s2 = shifts[k], shifts[k + 1], shifts[k + 2]
            r0, r1, r2 = padded[lo + s0 : hi + s0], padded[lo + s1 : hi + s1], padded[lo + s2 : hi + s2]
            for j in range(hi - lo):
                target[j] |= r0[j] | r1[j] | r2[j]
            k += 3
        while k < shifts.size:
            r0 = padded[lo + shifts[k] : hi + shifts[k]]
            for j in range(hi - lo):
                target[j] |= r0[j]
            k += 1
