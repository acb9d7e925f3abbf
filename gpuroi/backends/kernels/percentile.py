"""Order statistics of |x| by radix: a histogram of the high bits, then the members of one bucket.

`keys` are the bits of floats as unsigned integers: without the sign bit, their order is that of |x|.
"""

from __future__ import annotations

import numba as nb
import numpy as np

__all__ = ["count_buckets", "members_of"]


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
    signed = np.zeros(2 * n_buckets, np.int64)
    negative_zeros = 0
    for i in range(keys.size):
        key = keys[i]
        magnitude = key & magnitude_bits
        if magnitude > nan_from:
            continue
        signed[key >> shift] += 1
        negative_zeros += (magnitude == 0) & (key != 0)
    for bucket in range(n_buckets):
        counts[bucket] += signed[bucket]
        if two_sided:
            counts[bucket] += signed[bucket + n_buckets]
    if not two_sided:
        counts[0] += negative_zeros


@nb.njit(cache=True, nogil=True)
def members_of(  # type: ignore[no-untyped-def]
    keys, inside, masked, magnitude_bits, nan_from, two_sided, shift, low, high, members
):
    """Collect the magnitudes whose buckets are `low` or `high` into `members`; return how many there are."""
    n = 0
    for i in range(keys.size):
        key = keys[i]
        magnitude = key & magnitude_bits
        bucket = np.int64(magnitude >> shift)
        if (bucket != low and bucket != high) or magnitude > nan_from or (masked and not inside[i]):
            continue
        if two_sided or key == magnitude or magnitude == 0:
            members[n] = magnitude
            n += 1
    return n
