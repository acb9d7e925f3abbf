"""Order statistics of |x| by radix: a histogram of the high bits, then the members of one bucket.

`keys` are the bits of floats as unsigned integers: without the sign bit, their order is that of |x|.
"""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["count_buckets", "members_of"]

_BLOCK = 128  # keys that are passed over together where none is wanted


@nb.njit(cache=True, nogil=True)
def count_buckets(keys, inside, masked, magnitude_bits, nan_from, two_sided, shift, counts):  # type: ignore[no-untyped-def]
    """Count the population by the high bits of |x|.

    NaN (a magnitude above `nan_from`) is left out, and, unless `two_sided`, what is negative; -0.0 counts as 0.
    """
    if not masked:
        _count_all(keys, magnitude_bits, nan_from, two_sided, shift, counts)
        return
    for i in range(keys.size):
        key = keys[i]
        magnitude = key & magnitude_bits
        if magnitude > nan_from or not inside[i]:
            continue
        if two_sided or key == magnitude or magnitude == 0:
            counts[magnitude >> shift] += 1


@nb.njit(cache=True, nogil=True)
def _count_all(keys, magnitude_bits, nan_from, two_sided, shift, counts):  # type: ignore[no-untyped-def]
    """Count without a mask: buckets of both signs, so that no branch depends on a sign (one-sided: 3 times faster)."""
    n_buckets = counts.size
    # Two histograms in turn: neighbours often share a bucket, and one count would have to wait for the other.
    even, odd = np.zeros(2 * n_buckets, np.int64), np.zeros(2 * n_buckets, np.int64)
    pairs = keys.size // 2
    for i in range(pairs):
        even[keys[2 * i] >> shift] += 1
        odd[keys[2 * i + 1] >> shift] += 1
    if keys.size % 2:
        even[keys[-1] >> shift] += 1
    n_nan, n_negative_zeros = _count_special(keys, magnitude_bits, nan_from)
    if n_nan > 0:
        for i in range(keys.size):
            if keys[i] & magnitude_bits > nan_from:
                even[keys[i] >> shift] -= 1
    for bucket in range(n_buckets):
        counts[bucket] += even[bucket] + odd[bucket]
        if two_sided:
            counts[bucket] += even[bucket + n_buckets] + odd[bucket + n_buckets]
    if not two_sided:
        counts[0] += n_negative_zeros


@nb.njit(cache=True, nogil=True)
def _count_special(keys, magnitude_bits, nan_from):  # type: ignore[no-untyped-def]
    """Count NaN and -0.0, by vector instructions."""
    n_nan, n_negative_zeros = np.int64(0), np.int64(0)
    for i in range(keys.size):
        magnitude = keys[i] & magnitude_bits
        n_nan += np.int64(magnitude > nan_from)
        n_negative_zeros += np.int64((magnitude == 0) & (keys[i] != 0))
    return n_nan, n_negative_zeros


@nb.njit(cache=True, nogil=True)
def members_of(  # type: ignore[no-untyped-def]
    keys, inside, masked, magnitude_bits, nan_from, two_sided, shift, low, high, members
):
    """Collect the magnitudes whose buckets are `low` or `high` into `members`; return how many there are."""
    n = 0
    for start in range(0, keys.size, _BLOCK):
        block = keys[start : start + _BLOCK]
        if not _any_in(block, magnitude_bits, shift, low, high):
            continue
        for i in range(block.size):
            key = block[i]
            magnitude = key & magnitude_bits
            bucket = np.int64(magnitude >> shift)
            if (bucket != low and bucket != high) or magnitude > nan_from or (masked and not inside[start + i]):
                continue
            if two_sided or key == magnitude or magnitude == 0:
                members[n] = magnitude
                n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _any_in(block, magnitude_bits, shift, low, high):  # type: ignore[no-untyped-def]
    """Is any key in one of two buckets? By vector instructions: all of them are looked at."""
    first, second = block.dtype.type(low), block.dtype.type(high)
    hits = np.int32(0)
    for i in range(block.size):
        bucket = (block[i] & magnitude_bits) >> shift
        hits += np.int32((bucket == first) | (bucket == second))
    return hits > 0
