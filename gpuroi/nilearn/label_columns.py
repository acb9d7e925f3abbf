"""Regions of a label image as columns of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["label_columns"]

_LOOK_UP = 1 << 22  # a range of ids up to this is looked up in a table


def label_columns(labels: NDArray[Any], background: float = 0) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the ids that occur, and the column of each voxel.

    Parameters
    ----------
    labels : real array of any shape and type
        Finite. Ids may be sparse, negative, or no whole numbers.
    background : number, default 0
        This id is no region.

    Returns
    -------
    ids : array, shape (n,), of the type of `labels`
        Ascending, without the background.
    columns : int32 array, shape and memory order of `labels`
        1..n, and 0 in the background.

    Examples
    --------
    >>> label_columns(np.array([[0, 70000], [-3, 70000]]))
    (array([   -3, 70000]), array([[0, 2],
           [1, 2]], dtype=int32))
    """
    whole = _as_whole(labels)
    if whole is None:
        ids, place = np.unique(labels, return_inverse=True)
        columns = _numbers(ids, background)[place.reshape(labels.shape)]
        return ids[ids != background], columns
    least = int(whole.min())
    shifted = whole - least if least else whole
    occurs = np.zeros(int(shifted.max()) + 1, dtype=bool)
    occurs[shifted.ravel(order="K")] = True
    ids = np.flatnonzero(occurs) + least
    table = np.zeros(len(occurs), np.int32)
    table[ids - least] = _numbers(ids, background)
    return ids[ids != background].astype(labels.dtype), table[shifted]


def _numbers(ids: NDArray[Any], background: float) -> NDArray[np.int32]:
    is_region = ids != background
    return np.where(is_region, np.cumsum(is_region), 0).astype(np.int32)


def _as_whole(labels: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return the labels as integers if they are whole and their range is short."""
    if not labels.size:
        return None
    if labels.dtype.kind == "b":
        return labels.astype(np.int64)
    if int(labels.max()) - int(labels.min()) >= _LOOK_UP or abs(int(labels.min())) >= 2**62:
        return None
    whole = labels.astype(np.int64)
    return whole if labels.dtype.kind in "iu" or np.array_equal(whole, labels) else None
