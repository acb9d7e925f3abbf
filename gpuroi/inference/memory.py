"""What a permutation test takes at its peak, stated before it runs."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["permutation_peak_bytes"]

_BATCH = 64
_BLOCK = 8192


def permutation_peak_bytes(
    n_subjects: int,
    n_elements: int,
    dtype: Any = np.float32,
    *,
    n_products: int = 2,
    needs_maps: bool = False,
    as_z: bool = False,
    some_left_out: bool = False,
) -> int:
    """Return the bytes that `permutation_test` allocates at its peak on the CPU, beside its input.

    Parameters
    ----------
    n_subjects, n_elements : int
    dtype : dtype, default float32
        Of the data; integers count as the floats that they become.
    n_products : int, default 2
        Rows of the product for one rearrangement: effects and what is left of the nuisance.
    needs_maps : bool, default False
        Clusters or TFCE.
    as_z : bool, default False
        Maps are turned into z.
    some_left_out : bool, default False
        Some elements have no statistic, so that whole maps are put together again.

    Returns
    -------
    int
        1.0 to 1.2 times what is measured for 30 000 elements or more.

    Examples
    --------
    >>> round(permutation_peak_bytes(100, 235_000) / 1e6)
    137
    """
    item = 8 if np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize > 4 else 4
    residuals = item * n_subjects * n_elements
    if some_left_out:
        residuals *= 2  # the kept elements are copied out
    projecting = residuals + 4 * 8 * n_subjects * min(n_elements, _BLOCK) + 28 * n_elements
    maps = _BATCH * item * n_elements * needs_maps
    product = _BATCH * n_products * min(n_elements, _BLOCK) * item
    kept = item * n_subjects * n_elements + maps + (28 + 2 * item) * n_elements
    multiplying = kept + 2 * product  # the last product is there until the next is done
    converting = kept + maps * (as_z + some_left_out) + product // 2
    return int(1.08 * max(projecting, multiplying, converting))
