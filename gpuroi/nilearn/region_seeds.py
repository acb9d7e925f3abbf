"""Regions around the peaks of a map: seeds at local maxima, and a random walker that shares out the voxels between."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import run_blocks
from gpuroi.images.grid import voxel_sizes_mm
from gpuroi.nilearn import exceptions
from gpuroi.ops.label import label

__all__ = ["local_maxima", "local_regions", "random_walk"]

_REACH = 10  # voxels; no higher voxel within it in any direction makes a peak
_LEAST_OF_MAXIMUM = 0.1  # peaks below this share of the highest are none
_BETA = 130.0  # of the weights: how much a difference in value hinders the walker
_EPSILON = 1e-10
_TOLERANCE = 1e-3
_MOST_STEPS = 5000  # of conjugate gradients; real maps take up to 1500
_LARGEST_DIRECT = 30_000  # voxels of a system that is factorised if they do not converge: 1 s, and 0.3 GiB
_TRUNCATE = 4.0  # standard deviations
_FEW = 2000  # voxels to look around one by one; more take a maximum filter


def local_regions(volume: NDArray[Any], affine: NDArray[Any], fwhm: float | None) -> NDArray[np.int32]:
    """Split the non-zero voxels of a map between its peaks.

    Parameters
    ----------
    volume : array, shape (X, Y, Z)
        Finite. 0 is outside.
    affine : array, shape (4, 4)
    fwhm : float or None
        Peaks are sought in the map smoothed by so many mm.

    Returns
    -------
    int32 array, shape (X, Y, Z)
        0 outside and where no peak can be reached, else the number of the peak, by first voxel in C order. Numbers
        without a voxel may occur in between.
    """
    inside = volume != 0
    where = _box(inside)
    if where is None:
        return np.zeros(volume.shape, np.int32)
    sigma_vox = _sigma_vox(affine, fwhm)
    around = _widened(where, sigma_vox, volume.shape)
    seeds = np.zeros(volume.shape, np.int32)
    seeds[around], _ = label(local_maxima(_smoothed(volume[around], sigma_vox)), 6)
    seeds[~inside] = -1
    walked = np.zeros(volume.shape, np.int32)
    walked[where] = np.maximum(random_walk(volume, seeds, where), 0)
    return walked


def local_maxima(volume: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where nothing higher lies within 10 voxels along any axis, and the value is above a tenth of the highest.

    Voxels of a plateau are all peaks. Beyond the edges lie zeros.

    Examples
    --------
    >>> ridge = np.zeros((1, 1, 40))
    >>> ridge[0, 0, [3, 9, 30, 35]] = 5, 4, 0.4, 2
    >>> np.flatnonzero(local_maxima(ridge)).tolist()
    [3, 35]
    """
    peaks = np.zeros(volume.shape, dtype=bool)
    highest = volume.max(initial=0)
    if highest <= 0 or np.all(volume == highest):
        return peaks
    # In the type of the values, as they are compared.
    above = volume > max(highest * volume.dtype.type(_LEAST_OF_MAXIMUM), 0)
    candidates = np.flatnonzero(above & (volume == _highest_around(volume, 1)))
    if len(candidates) > _FEW:
        peaks.flat[candidates] = (volume == _highest_around(volume, _REACH)).ravel()[candidates]
        return peaks
    for place in np.transpose(np.unravel_index(candidates, volume.shape)):
        around = tuple(slice(max(0, i - _REACH), i + _REACH + 1) for i in place)
        peaks[tuple(place)] = volume[tuple(place)] == volume[around].max()
    return peaks


def random_walk(volume: NDArray[Any], seeds: NDArray[np.int32], where: tuple[slice, ...]) -> NDArray[np.int32]:
    """Give each open voxel the seed that a random walker starting there most probably reaches first.

    The walker steps between face neighbours, the more rarely the more their values differ: weights are
    exp(-beta (a - b)^2 / (10 s)) with the standard deviation s of the volume.

    Parameters
    ----------
    volume : array, shape (X, Y, Z)
        Finite.
    seeds : int32 array, shape (X, Y, Z)
        Numbers of the seeds; 0 is open, -1 outside.
    where : tuple of slices
        Box outside which all is -1; the result is that of the box.

    Returns
    -------
    int32 array, shape of the box
        -1 outside, and where no seed can be reached; seeds without an open neighbour are given up.

    Notes
    -----
    Conjugate gradients from 0, to a residual of 1e-3, as nilearn takes them from scikit-image: at the border between
    two regions a closer solution would differ in a few voxels of ten thousand. Components that hold one seed alone need
    no solution: it is reached for certain. nilearn's solver stops before it gets to their furthest voxels, which fall
    to a seed of another component. Where the solver has not arrived, or does not converge, the system is factorised.

    References
    ----------
    .. [1] Grady L (2006). Random walks for image segmentation. IEEE TPAMI 28(11), 1768-1783.
       doi:10.1109/TPAMI.2006.233
    """
    given = np.ascontiguousarray(seeds[where])
    everywhere = given.size == seeds.size
    if not (given == 0).any():
        exceptions.warn(
            "Random walker only segments unlabeled areas, where labels == 0. No zero valued areas in labels were "
            "found. Returning provided labels."
        )
        return given
    if everywhere and not given.any():
        exceptions.warn("Random walker received no seed label. Returning provided labels.")
        return given
    component, n = label(given >= 0, 6)
    owner = component.ravel()
    numbers = given.ravel()
    is_open = np.bincount(owner[numbers == 0], minlength=n + 1) > 0
    is_seeded = np.bincount(owner[numbers > 0], minlength=n + 1) > 0
    is_open[0] = False
    kept = is_open & is_seeded
    if not kept.any():
        exceptions.warn(
            "Random walker only segments unlabeled areas, where labels == 0. Data provided only contains isolated "
            "seeds and isolated pixels. Returning provided labels."
        )
        return given
    walked = np.where(kept[owner], numbers, -1)  # (v,)
    links = _seeds_of(owner, walked)  # (links, 2): component, seed
    alone = np.bincount(links[:, 0], minlength=n + 1) == 1
    only_seed = np.zeros(n + 1, np.int32)
    only_seed[links[:, 0]] = links[:, 1]
    open_voxels = np.flatnonzero(walked == 0)
    certain = alone[owner[open_voxels]]
    shared = open_voxels[~certain]
    if shared.size:
        values = _as_float(np.ascontiguousarray(volume[where]))
        steepness = float(_BETA / (10 * _as_float(volume).std()))
        _share(values, walked.reshape(given.shape), owner, links, alone, steepness)
    walked[open_voxels[certain]] = only_seed[owner[open_voxels[certain]]]
    return walked.reshape(given.shape)


def _share(
    values: NDArray[Any],
    walked: NDArray[np.int32],
    owner: NDArray[np.int32],
    links: NDArray[np.int64],
    alone: NDArray[np.bool_],
    steepness: float,
) -> None:
    """Fill in the components that hold several seeds; components that share a seed are solved as one system."""
    from gpuroi.backends.kernels.random_walk import walk_system

    group = _groups(links, len(alone))
    n_groups = int(group.max()) + 1
    has_choice = np.zeros(n_groups, dtype=bool)
    has_choice[group[~alone & (group >= 0)]] = True
    flat = walked.reshape(-1)
    candidates = np.flatnonzero(flat == 0)
    of_group = group[owner[candidates]]
    candidates, of_group = candidates[has_choice[of_group]], of_group[has_choice[of_group]]
    order = np.argsort(of_group, kind="stable")
    candidates, of_group = candidates[order], of_group[order]
    parts = np.split(candidates, np.flatnonzero(np.diff(of_group)) + 1)
    of_link = group[links[:, 0]]
    place = np.full(flat.size, -1, np.int32)
    found: list[NDArray[Any]] = []
    for voxels in parts:
        numbers = np.unique(links[of_link == group[owner[voxels[0]]], 1])
        place[voxels] = np.arange(len(voxels), dtype=np.int32)
        system = walk_system(values, walked, voxels, place, steepness, _EPSILON)
        chance = _chances(system, numbers)
        found.append(numbers[np.argmax(chance, axis=0)])
    flat[candidates] = np.concatenate(found)


def _chances(system: tuple[Any, ...], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how probable it is to reach each seed first, (seeds, v)."""
    from gpuroi.backends.kernels.random_walk import conjugate_gradients

    neighbours, weights, diagonal, reached = system
    chance = np.empty((len(numbers), len(diagonal)))
    converged = np.empty(len(numbers), dtype=bool)

    def right(row: int) -> NDArray[np.float64]:
        return np.asarray(np.where(reached == numbers[row], weights, 0.0).sum(axis=0))

    def solve(start: int, stop: int) -> None:
        for row in range(start, stop):
            chance[row], converged[row] = conjugate_gradients(
                neighbours, weights, diagonal, right(row), _TOLERANCE, _MOST_STEPS
            )

    run_blocks(solve, len(numbers))
    not_reached = chance.max(axis=0) <= 0
    if (converged.all() and not not_reached.any()) or len(diagonal) > _LARGEST_DIRECT:
        return chance
    exact = _solved_directly(neighbours, weights, diagonal, np.stack([right(row) for row in range(len(numbers))]))
    return np.where(not_reached, exact, chance) if converged.all() else exact


def _solved_directly(
    neighbours: NDArray[Any], weights: NDArray[Any], diagonal: NDArray[Any], right: NDArray[Any]
) -> NDArray[np.float64]:
    """Factorise: links of 1e-10 beside links of 1 are more than conjugate gradients can bear."""
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import splu

    n = len(diagonal)
    row = np.broadcast_to(np.arange(n), neighbours.shape)
    inner = neighbours < n
    links = csc_array((weights[inner], (row[inner], neighbours[inner])), shape=(n, n))
    return np.asarray(splu((diags_array(diagonal) - links).tocsc()).solve(right.T).T)


def _seeds_of(owner: NDArray[np.int32], walked: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return which component holds which seed, each pair once."""
    seeded = np.flatnonzero(walked > 0)
    pairs = np.stack([owner[seeded], walked[seeded]], axis=1).astype(np.int64)
    return np.unique(pairs, axis=0)


def _groups(links: NDArray[np.int64], n_components: int) -> NDArray[np.int32]:
    """Return the group of each component, -1 if it has no seed: components that share a seed are of one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_seeds = int(links[:, 1].max()) + 1
    n = n_components + n_seeds
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1] + n_components)), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    result = np.full(n_components, -1, np.int32)
    result[links[:, 0]] = group[links[:, 0]]
    return result


def _highest_around(volume: NDArray[Any], reach: int) -> NDArray[Any]:
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(volume, size=2 * reach + 1, mode="constant"))


def _sigma_vox(affine: NDArray[Any], fwhm: float | None) -> NDArray[np.float64]:
    return (fwhm or 0.0) / (math.sqrt(8 * math.log(2)) * voxel_sizes_mm(affine))


def _smoothed(volume: NDArray[Any], sigma_vox: NDArray[np.float64]) -> NDArray[Any]:
    """Smooth on the host, by SciPy's filter: of two mirrored peaks the last bit decides which one is the higher."""
    from scipy.ndimage import gaussian_filter1d

    values = np.array(_as_float(volume), order="C")
    for axis, sigma in enumerate(sigma_vox):
        if sigma > 0:
            gaussian_filter1d(values, sigma, axis=axis, output=values, truncate=_TRUNCATE)
    return values


def _widened(where: tuple[slice, ...], sigma_vox: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the box with all voxels that smoothing reaches, and one more: beyond it lie zeros."""
    margins = [int(_TRUNCATE * sigma + 0.5) + 1 for sigma in sigma_vox]
    return tuple(
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, margin, size in zip(where, margins, shape, strict=True)
    )


def _as_float(values: NDArray[Any]) -> NDArray[Any]:
    """Return float32 as it is, integers of up to 32 bits as float32, all else as float64."""
    if values.dtype in (np.float32, np.float64):
        return values
    narrow = values.dtype.kind in "uib" and values.dtype.itemsize <= 4
    return values.astype(np.float32 if narrow else np.float64)


def _box(inside: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Return the smallest box around the voxels inside, None if there are none."""
    slices = []
    for axis in range(inside.ndim):
        others = tuple(a for a in range(inside.ndim) if a != axis)
        at = np.flatnonzero(inside.any(axis=others))
        if not at.size:
            return None
        slices.append(slice(int(at[0]), int(at[-1]) + 1))
    return tuple(slices)
