"""Peaks and sub-peaks of clusters by nilearn's rules, for all clusters at once."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuroi.images import voxel_to_mm
from gpuroi.images.find_peaks import highest_around, joined_to
from gpuroi.images.region_voxels import STEPS, RegionVoxels
from gpuroi.nilearn import exceptions

__all__ = ["ClusterPeaks", "cluster_peaks"]

_FACES = [step for step in STEPS if abs(step[0]) + abs(step[1]) + abs(step[2]) == 1]
_MOST_PEAKS = 4  # the peak and three sub-peaks: what the table shows


class ClusterPeaks(NamedTuple):
    """Peaks of one cluster, the highest first: voxel indices (k, 3) and heights (k,)."""

    ijk: NDArray[np.intp]
    height: NDArray[Any]


def cluster_peaks(
    voxels: RegionVoxels, height: NDArray[Any], affine: NDArray[np.float64], min_distance: float
) -> list[ClusterPeaks]:
    """Return at most four peaks of each cluster, as nilearn finds them.

    Parameters
    ----------
    voxels : RegionVoxels
        Clusters that do not touch by faces.
    height : array, shape (v,)
        Above 0 everywhere.
    affine : array, shape (4, 4)
    min_distance : float
        mm.

    Returns
    -------
    list of ClusterPeaks
        One a cluster, in the order of `voxels.ids`.

    Notes
    -----
    A peak is a group of voxels, joined by faces, that no voxel of their cluster within one step is higher than; its
    place is the rounded centre of the group, or the group's voxel next to it. Voxels amid equals do not count, unless
    the whole cluster is of one value. From the highest down a peak stays if it is more than the minimum distance from
    the one kept last; nilearn asks for no more, so that it may be closer to one kept earlier.
    """
    top = _maxima(voxels, height)
    group, start = _groups(voxels, top)
    ijk = _places(voxels, height, top, group, start)
    cluster = voxels.region[top[start]]  # (groups,)
    values = height[top[start]]
    order = np.argsort(cluster, kind="stable")
    ends = np.searchsorted(cluster[order], np.arange(len(voxels.ids) + 1))
    mm = voxel_to_mm(affine, ijk)
    found = []
    for first, stop in itertools.pairwise(ends):
        own = order[first:stop]
        if len(own) > 1:
            # The very call that nilearn makes: of equal peaks it takes the same one first.
            own = own[(-values[own]).argsort()]
            own = own[_apart(mm[own], min_distance)]
        found.append(ClusterPeaks(ijk[own], values[own]))
    return found


def _maxima(voxels: RegionVoxels, height: NDArray[Any]) -> NDArray[np.intp]:
    """Return the voxels that are higher than or as high as all around them, without those amid equals."""
    top = highest_around(voxels, height, np.arange(len(voxels.place)))
    lower = np.zeros(len(top), bool)
    for step in STEPS:
        near, fellow, in_volume = voxels.beside(top, step)
        lower |= in_volume & ~(fellow & (height[near] == height[top]))
    by_region = np.argsort(voxels.region, kind="stable")
    starts = np.searchsorted(voxels.region[by_region], np.arange(len(voxels.ids)))
    highest = np.maximum.reduceat(height[by_region], starts)
    lowest = np.minimum.reduceat(height[by_region], starts)
    flat = np.isclose(highest, lowest)  # (clusters,)
    return top[lower | flat[voxels.region[top]]]


def _groups(voxels: RegionVoxels, top: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the group of each maximum, joined by faces, and the first maximum of each group."""
    index = np.full(len(voxels.place), -1, np.intp)
    index[top] = np.arange(len(top))
    pairs = []
    for step in _FACES:
        near, fellow, _ = voxels.beside(top, step)
        both = np.flatnonzero(fellow & (index[near] >= 0))
        pairs.append((both, index[near[both]]))
    first = joined_to(np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]), len(top))
    start, group = np.unique(first, return_inverse=True)
    return group, start


def _places(
    voxels: RegionVoxels, height: NDArray[Any], top: NDArray[np.intp], group: NDArray[np.intp], start: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the voxel nearest to the centre of each group; shape (groups, 3)."""
    weight, ijk = height[top].astype(np.float64), voxels.ijk[top]
    total = np.bincount(group, weights=weight)
    # Sums in SciPy's order, so that a centre halfway between two voxels is rounded to the same one.
    centre = np.stack([np.bincount(group, weights=weight * ijk[:, axis]) / total for axis in range(3)], axis=1)
    place = np.round(centre).astype(np.intp)
    flat = np.ravel_multi_index(tuple(place.T), voxels.labels.shape)
    found = np.minimum(np.searchsorted(voxels.place[top], flat), len(top) - 1)
    outside = (voxels.place[top[found]] != flat) | (group[found] != np.arange(len(start)))
    if outside.any():
        exceptions.warn(
            "Attention: At least one of the (sub)peaks falls outside of the cluster body. "
            "Identifying the nearest in-cluster voxel."
        )
        order = np.argsort(group, kind="stable")
        ends = np.searchsorted(group[order], np.arange(len(start) + 1))
        for g in np.flatnonzero(outside):
            own = ijk[order[ends[g] : ends[g + 1]]]
            place[g] = own[np.argmin(((own - place[g]) ** 2).sum(axis=1))]
    return place


def _apart(mm: NDArray[np.float64], min_distance: float) -> list[int]:
    """Return which peaks stay, the highest first, four at most."""
    kept = [0]
    while len(kept) < _MOST_PEAKS:
        rest = mm[kept[-1] + 1 :]
        far = np.linalg.norm(rest - mm[kept[-1]], axis=1) > min_distance
        if not far.any():
            break
        kept.append(kept[-1] + 1 + int(np.argmax(far)))
    return kept
