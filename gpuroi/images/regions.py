"""Regions of a label image: leave out the small ones, and describe the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.images.grid import voxel_to_mm, voxel_volume_mm3

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

__all__ = ["drop_small_regions", "region_table"]


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


def region_table(labels: NDArray[Any], stat: NDArray[Any], affine: ArrayLike) -> pd.DataFrame:
    """Describe every region of a label image by its size, its peak and its centre.

    Parameters
    ----------
    labels : int array, shape (X, Y, Z)
        0 outside. Ids may have gaps.
    stat : array, shape (X, Y, Z)
        The map in which the peaks are sought.
    affine : array, shape (4, 4)

    Returns
    -------
    pandas.DataFrame
        One row a region, ids ascending: `id`, `voxels` (int64), `mm3`, `peak_x`, `peak_y`, `peak_z` (mm; the
        voxel of the largest |stat|, of several the first in C order), `peak_stat` (with its sign), `center_x`,
        `center_y`, `center_z` (mm; the unweighted centre of mass, which may lie outside a curved region).
        Without regions the table is empty, with the same columns and types.

    Raises
    ------
    UsageError
        If the shapes differ or a label is negative.

    Notes
    -----
    NaN is never a peak. A region where all is NaN has a peak of NaN at NaN.

    Examples
    --------
    >>> labels = np.array([[[1, 1, 0, 2]]])
    >>> table = region_table(labels, np.array([[[2.0, -5.0, 9.0, np.nan]]]), np.diag([2, 2, 2, 1]))
    >>> table[["id", "voxels", "mm3", "peak_z", "peak_stat", "center_z"]].values.tolist()
    [[1.0, 2.0, 16.0, 2.0, -5.0, 1.0], [2.0, 1.0, 8.0, nan, nan, 6.0]]
    """
    import pandas as pd

    if labels.shape != stat.shape:
        raise UsageError(f"labels have shape {labels.shape}, the map {stat.shape}; both must be on one grid")
    flat = labels.ravel()
    if flat.size and flat.min() < 0:
        raise UsageError(f"labels run from {flat.min()}; expected 0 outside and positive ids inside")
    inside = np.flatnonzero(flat)  # (v,) ascending: C order
    ids, region = np.unique(flat[inside], return_inverse=True)  # (r,), (v,)
    voxels = np.bincount(region, minlength=len(ids))  # (r,)
    ijk = np.stack(np.unravel_index(inside, labels.shape), axis=1)  # (v, 3)
    values = stat.ravel()[inside].astype(np.float64)
    peak = _peaks(values, region, len(ids))  # (r,) into v
    peak_stat = values[peak]
    peak_mm = np.where(np.isnan(peak_stat)[:, None], np.nan, voxel_to_mm(affine, ijk[peak]))
    sums = [np.bincount(region, weights=ijk[:, axis], minlength=len(ids)) for axis in range(3)]
    center_mm = voxel_to_mm(affine, np.stack(sums, axis=1) / np.maximum(voxels, 1)[:, None])
    return pd.DataFrame(
        {
            "id": ids.astype(np.int64),
            "voxels": voxels.astype(np.int64),
            "mm3": voxels * voxel_volume_mm3(affine),
            "peak_x": peak_mm[:, 0],
            "peak_y": peak_mm[:, 1],
            "peak_z": peak_mm[:, 2],
            "peak_stat": peak_stat,
            "center_x": center_mm[:, 0],
            "center_y": center_mm[:, 1],
            "center_z": center_mm[:, 2],
        }
    )


def _peaks(values: NDArray[np.float64], region: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return for each region the first place of its largest magnitude."""
    magnitude = np.where(np.isnan(values), -1.0, np.abs(values))
    largest = np.full(n, -1.0)
    np.maximum.at(largest, region, magnitude)
    candidates = np.flatnonzero(magnitude == largest[region])
    _, first = np.unique(region[candidates], return_index=True)
    return candidates[first]
