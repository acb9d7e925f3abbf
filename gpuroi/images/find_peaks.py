"""Peaks of regions: local maxima of a map within each region, a minimum distance apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import UsageError
from gpuroi.images.grid import voxel_to_mm
from gpuroi.images.region_voxels import STEPS, RegionVoxels

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

__all__ = ["highest_around", "joined_to", "region_peaks", "regional_maxima", "spaced_peaks"]


def region_peaks(
    labels: NDArray[Any],
    stat: NDArray[Any],
    affine: ArrayLike,
    *,
    n_peaks: int = 4,
    min_distance_mm: float = 8.0,
) -> pd.DataFrame:
    """Find the highest local maxima of |stat| within each region, none closer to another than a minimum distance.

    Parameters
    ----------
    labels : int array, shape (X, Y, Z)
        0 outside. Ids may have gaps.
    stat : array, shape (X, Y, Z)
        NaN is never a peak.
    affine : array, shape (4, 4)
    n_peaks : int, default 4
        At most so many for each region: the peak and its sub-peaks.
    min_distance_mm : float, default 8.0
        Between any two peaks of one region, at least.

    Returns
    -------
    pandas.DataFrame
        One row a peak: `id` of the region, ascending; `peak`, 1 for the highest, then 2, 3, ...; `x`, `y`, `z` (mm) and
        `stat`, with its sign. Regions of NaN alone have no row.

    Raises
    ------
    UsageError
        If the shapes differ, a label is negative, `n_peaks` is below 1 or the distance negative or NaN.

    Notes
    -----
    A local maximum is a voxel, or a plateau of equal voxels, whose 26 neighbours of the same region are all lower; a
    plateau's place is its first voxel in C order. They are taken from the highest down, of equals the first in C order,
    and one that lies closer than the minimum distance to one that was taken is left out. (nilearn compares with the
    last one taken only, so that its sub-peaks can lie closer together than asked for.) The peak of a region of zeros is
    its first voxel; zeros are no sub-peaks.

    Examples
    --------
    >>> stat = np.array([[[3.0, -9.0, 3.0, 4.0, 3.0, 8.0, 1.0]]])
    >>> table = region_peaks(np.ones((1, 1, 7), int), stat, np.diag([1, 1, 2, 1]), min_distance_mm=5)
    >>> table[["peak", "z", "stat"]].values.tolist()
    [[1.0, 2.0, -9.0], [2.0, 10.0, 8.0]]
    """
    import pandas as pd

    voxels = RegionVoxels(labels)
    values = voxels.values(stat).astype(np.float64)
    chosen, rank = spaced_peaks(voxels, values, affine, n_peaks=n_peaks, min_distance_mm=min_distance_mm)
    mm = voxel_to_mm(affine, voxels.ijk[chosen])
    return pd.DataFrame(
        {
            "id": voxels.ids[voxels.region[chosen]],
            "peak": rank.astype(np.int64),
            "x": mm[:, 0],
            "y": mm[:, 1],
            "z": mm[:, 2],
            "stat": values[chosen],
        }
    )


def spaced_peaks(
    voxels: RegionVoxels, values: NDArray[np.float64], affine: ArrayLike, *, n_peaks: int, min_distance_mm: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the list indices of the peaks and their rank, 1 for the highest; by region, then by rank.

    Parameters and errors are those of `region_peaks`; `values` is the map at the voxels, float64 (v,).
    """
    if n_peaks < 1:
        raise UsageError(f"n_peaks is {n_peaks}", "ask for one or more")
    if not min_distance_mm >= 0:
        raise UsageError(f"min_distance_mm is {min_distance_mm}; expected 0 or more, in mm")
    height = np.where(np.isnan(values), -1.0, np.abs(values))
    peak = _highest(voxels, height)  # one a region, be it 0
    if n_peaks == 1:
        return peak, np.ones_like(peak)
    left = np.union1d(peak, regional_maxima(voxels, height))  # (m,)
    left = left[np.lexsort((left, -height[left], voxels.region[left]))]
    mm = voxel_to_mm(affine, voxels.ijk[left])  # (m, 3)
    chosen, ranks = [], []
    for rank in range(1, n_peaks + 1):
        # The first of each region is the highest of those that are left.
        _, first, group = np.unique(voxels.region[left], return_index=True, return_inverse=True)
        if not len(first):
            break
        chosen.append(left[first])
        ranks.append(np.full(len(first), rank))
        apart = np.linalg.norm(mm - mm[first[group]], axis=1) >= min_distance_mm
        apart[first] = False
        left, mm = left[apart], mm[apart]
    if not chosen:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    peaks, rank_of = np.concatenate(chosen), np.concatenate(ranks)
    order = np.lexsort((rank_of, voxels.region[peaks]))
    return peaks[order], rank_of[order]


def regional_maxima(voxels: RegionVoxels, height: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the list index of each local maximum within its region, a plateau's first voxel, ascending.

    `height` is float64 (v,); only values above 0 are a maximum.
    """
    top = highest_around(voxels, height, np.flatnonzero(height > 0))
    rises = np.zeros(len(top), bool)  # belongs to a plateau that has a higher neighbour somewhere else
    index = np.full(len(voxels.place), -1, np.intp)
    index[top] = np.arange(len(top))
    pairs = []
    for step in STEPS:
        near, fellow, _ = voxels.beside(top, step)
        level = fellow & (height[near] == height[top])
        rises |= level & (index[near] < 0)
        if step > (0, 0, 0):  # each pair once
            both = np.flatnonzero(level & (index[near] >= 0))
            pairs.append((both, index[near[both]]))
    plateau = joined_to(np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]), len(top))
    keep = np.ones(len(top), bool)
    keep[plateau[rises]] = False
    maxima: NDArray[np.intp] = top[(plateau == np.arange(len(top))) & keep]
    return maxima


def highest_around(voxels: RegionVoxels, height: NDArray[Any], candidates: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return those of the candidates that have no higher neighbour in their region."""
    for step in STEPS:  # each leaves fewer: all 26 cost about four
        near, fellow, _ = voxels.beside(candidates, step)
        higher = fellow & (height[near] > height[candidates])
        candidates = candidates[~higher]
    return candidates


def _highest(voxels: RegionVoxels, height: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the first of the highest voxels of each region that has one of 0 or more."""
    largest = np.full(len(voxels.ids), -1.0)
    np.maximum.at(largest, voxels.region, height)
    tied = np.flatnonzero((height == largest[voxels.region]) & (height >= 0))
    _, first = np.unique(voxels.region[tied], return_index=True)
    return tied[first]


def joined_to(first: NDArray[np.intp], second: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return for each of n things the first one that a chain of pairs joins it to; itself, if none comes before."""
    if not len(first):
        return np.arange(n)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = coo_array((np.ones(len(first), bool), (first, second)), shape=(n, n))
    _, piece = connected_components(pairs, directed=False)
    _, start = np.unique(piece, return_index=True)
    return np.asarray(start[piece])
