"""Regions of a label image: leave out the small ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.images.grid import voxel_volume_mm3

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["drop_small_regions"]


def drop_small_regions(
    labels: NDArray[np.int32], n: int, *, min_size_mm3: float, affine: ArrayLike
) -> tuple[NDArray[np.int32], int]:
    """Keep the regions of at least `min_size_mm3`, renumbered without gaps in their old order.

    Parameters
    ----------
    labels : int32 array, shape (X, Y, Z)
        0 outside, 1..n in the regions.
    n : int
        Number of regions.
    min_size_mm3 : float
        A region stays if its voxels times the volume of one voxel are >= this. 0 keeps all regions.
    affine : array, shape (4, 4)

    Returns
    -------
    labels : int32 array, same shape
        0 outside and where a region was left out, 1..m in those that stayed.
    m : int

    Raises
    ------
    UsageError
        If a label lies outside 0..n, or the size is negative or NaN.

    Notes
    -----
    nilearn's `connected_regions` keeps sizes strictly above the limit; here a region of exactly the limit stays.

    Examples
    --------
    >>> labels = np.array([[[1, 0, 2, 2, 0, 3, 3]]], dtype=np.int32)
    >>> drop_small_regions(labels, 3, min_size_mm3=2.0, affine=np.eye(4))
    (array([[[0, 0, 1, 1, 0, 2, 2]]], dtype=int32), 2)
    """
    if not min_size_mm3 >= 0:
        raise UsageError(f"min_size_mm3 is {min_size_mm3}; expected 0 or more, in mm3")
    flat = labels.ravel(order="K")
    if flat.size and not (flat.min() >= 0 and flat.max() <= n):
        raise UsageError(f"labels run from {flat.min()} to {flat.max()}; expected 0 to {n}")
    sizes = np.bincount(flat, minlength=n + 1)
    # A hair below the limit counts as the limit: 27 voxels of 0.1 mm3 are 2.7 mm3, whatever the last bit says.
    keep = (sizes > 0) & (sizes * voxel_volume_mm3(affine) >= min_size_mm3 * (1 - 1e-9))
    keep[0] = False
    renumbered = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return renumbered[labels], int(keep.sum())
