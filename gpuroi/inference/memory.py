"""What a permutation test takes at its peak, stated before it runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuroi.backends.threads import n_threads
from gpuroi.inference.projection import BATCH, block_of

__all__ = ["permutation_peak_bytes"]


def permutation_peak_bytes(
    n_subjects: int,
    n_elements: int,
    dtype: Any = np.float32,
    *,
    n_products: int = 2,
    needs_maps: bool = False,
    as_z: bool = False,
    some_left_out: bool = False,
    stored: bool = False,
    source_itemsize: int = 0,
    threads: int | None = None,
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
    stored : bool, default False
        The residuals are in a scratch folder.
    source_itemsize : int, default 0
        Bytes of a value on disk, where the data are a `ColumnSource`: two blocks a thread are in memory then.
    threads : int, optional
        Of the CPU; as many as it will have by default.

    Returns
    -------
    int
        1.0 to 1.2 times what is measured for 30 000 elements or more.

    Examples
    --------
    >>> round(permutation_peak_bytes(100, 235_000, threads=1) / 1e6)
    136
    """
    threads = threads or n_threads()
    item = 8 if np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize > 4 else 4
    block = min(n_elements, block_of(n_subjects))
    residuals = 0 if stored else item * n_subjects * n_elements
    copies = 1 + (some_left_out and not stored)  # the kept elements are copied out
    projecting = (
        copies * residuals
        + threads * (3 << 20)
        + threads * (stored * item + 2 * source_itemsize) * n_subjects * block
        + 28 * n_elements
    )
    maps = BATCH * item * n_elements * needs_maps
    product = threads * BATCH * n_products * block * item + threads * stored * item * n_subjects * block
    kept = residuals + maps + (28 + 2 * item) * n_elements
    multiplying = kept + 2 * product  # the last product is there until the next is done
    converting = kept + maps * (as_z + some_left_out) + product // 2
    finishing = residuals + (122 + 3 * item) * n_elements  # p-values, sorted for FDR
    return int(1.08 * max(projecting, multiplying, converting, finishing))
