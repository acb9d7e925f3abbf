"""How the signed sums of a group of flips are laid out, on every device: rows of equal code in one bin.

A flip is a number g, and subject i changes sign where `popcount(g & codes[i])` is odd. The low bits of g are one fast
Walsh-Hadamard transform over bins of subjects with equal low codes; its high bits only change signs of the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Bins", "odd_parity", "sign_flip_bins"]


class Bins(NamedTuple):
    """Subjects by low code, and their weights for each high part of a flip; on the host."""

    members: NDArray[np.int64]  # (n,): subjects, bin by bin, in order
    first: NDArray[np.int64]  # (2^bits + 1,): where each bin begins
    weights: NDArray[Any]  # (2^(log2_k - bits), m, n)


def sign_flip_bins(
    weights: NDArray[np.float64], codes: NDArray[np.int64], log2_k: int, most_bits: int, dtype: DTypeLike
) -> Bins:
    """Lay out `2^log2_k` flips with at most `most_bits` bits in the transform.

    Parameters
    ----------
    weights : float64 array, shape (m, n)
    codes : int64 array, shape (n,)
        Bits from `log2_k` on are not looked at.
    log2_k, most_bits : int
    dtype : dtype
        Of the weights that come back.

    Examples
    --------
    >>> import numpy as np
    >>> sign_flip_bins(np.ones((1, 3)), np.array([1, 0, 1]), 1, 6, np.float64).members
    array([1, 0, 2])
    """
    bits = min(log2_k, most_bits)
    low = codes & ((1 << bits) - 1)
    members = np.argsort(low, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(low, minlength=1 << bits))]).astype(np.int64)
    high = (codes >> bits) & ((1 << (log2_k - bits)) - 1)
    odd = odd_parity(np.arange(1 << (log2_k - bits))[:, None] & high)  # (H, n)
    signed = np.where(odd[:, None, :], -weights, weights)
    return Bins(members.astype(np.int64), first, np.ascontiguousarray(signed, dtype=dtype))


def odd_parity(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Is the number of bits that are set odd? The values are >= 0."""
    return (np.bitwise_count(values) & 1).astype(np.bool_)
