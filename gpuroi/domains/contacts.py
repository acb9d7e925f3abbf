"""Where the parcels of a label volume touch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.domains.voxel_geometry import neighbour_offsets

__all__ = ["count_contacts"]


def count_contacts(
    labels: NDArray[Any], ids: NDArray[np.int64], connectivity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the pairs of touching voxels for each pair of parcels.

    Parameters
    ----------
    labels : integer array, shape (X, Y, Z)
        0 is background, all else is one of `ids`.
    ids : int64 array, shape (v,)
        Ascending.
    connectivity : {6, 18, 26}

    Returns
    -------
    pairs : int64 array, shape (n_pairs, 2)
        Positions in `ids`, the lower first, sorted: the pairs that touch at all.
    faces : int64 array, shape (n_pairs, 3)
        Shared faces across X, Y and Z.
    contact : int64 array, shape (n_pairs,)
        Touching voxels: shared faces, and with 18 and 26 also those that meet at an edge or a corner.

    Examples
    --------
    >>> pairs, faces, contact = count_contacts(np.array([[[4, 9], [4, 4]]]), np.array([4, 9]), 18)
    >>> pairs.tolist(), faces.tolist(), contact.tolist()
    ([[0, 1]], [[0, 1, 1]], [3])
    """
    found = []
    for offset in neighbour_offsets(connectivity)[connectivity // 2 :]:  # the other half are the same pairs reversed
        code, count = np.unique(_touching(labels, ids, offset), return_counts=True)
        found.append((code, count, np.flatnonzero(offset) if np.abs(offset).sum() == 1 else None))
    codes = np.unique(np.concatenate([code for code, _, _ in found]))
    faces = np.zeros((len(codes), 3), np.int64)
    contact = np.zeros(len(codes), np.int64)
    for code, count, axis in found:
        row = np.searchsorted(codes, code)  # each code stands once in `code`: no two counts fall on one place
        contact[row] += count
        if axis is not None:
            faces[row, axis] += count
    return np.stack([codes // len(ids), codes % len(ids)], axis=1), faces, contact


def _touching(labels: NDArray[Any], ids: NDArray[np.int64], offset: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for the two parcels, low * v + high, of every two voxels of different ones at this offset."""
    here, there = labels[_part(offset)], labels[_part(-offset)]
    border = (here != there) & (here != 0) & (there != 0)
    one, other = np.searchsorted(ids, here[border]), np.searchsorted(ids, there[border])
    return np.asarray(np.minimum(one, other) * len(ids) + np.maximum(one, other), dtype=np.int64)


def _part(offset: NDArray[np.int64]) -> tuple[slice, ...]:
    """Return where a voxel can stand so that a step of `offset` stays in the volume."""
    return tuple(slice(max(-step, 0), -step if step > 0 else None) for step in offset.tolist())
