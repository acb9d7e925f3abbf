"""Where the parcels of a label volume touch, how large they are, where they lie, and how many pieces each has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import Array, Backend
from gpuroi.domains.voxel_geometry import neighbour_offsets
from gpuroi.ops.label import label

__all__ = ["count_contacts", "count_pieces", "parcel_columns", "sizes_and_centres"]

_LOOK_UP = 1 << 20  # ids below this are looked up in a table
_PAIR_TABLE = 1 << 20  # up to so many pairs of parcels are counted in a table (8 MB), more are sorted
_PART = 1 << 22  # voxels whose labels are counted at a time
_SLAB = 1 << 18  # voxels at a time: what is worked on stays in the cache, and in memory for volumes of any size


def parcel_columns(backend: Backend, labels: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the ids that occur and the place of each voxel's parcel among them.

    Parameters
    ----------
    backend : Backend
        Which owns the labels.
    labels : integer array, shape (X, Y, Z)
        0 or more; 0 is background.

    Returns
    -------
    ids : int64 array, shape (v,)
        Ascending, without 0; on the host.
    columns : int32 array, shape (X, Y, Z)
        From 1; 0 is background. On the device of the labels, in their order in memory.
    """
    xp = backend.xp
    largest = int(labels.max()) if labels.size else 0  # sync: reads one number
    flat = labels.T.reshape(-1) if labels.flags.f_contiguous else labels.reshape(-1)
    if largest < _LOOK_UP:
        counts = xp.zeros(largest + 1, dtype=np.int64)
        for start in range(0, flat.size, _PART):  # bincount makes 64-bit numbers of all that it is given
            counts += xp.bincount(flat[start : start + _PART].astype(np.int64), minlength=largest + 1)
        present = np.flatnonzero(backend.to_numpy(counts))  # sync: the ids
        ids = present[present > 0].astype(np.int64)
        table = np.zeros(largest + 1, np.int32)
        table[ids] = np.arange(1, len(ids) + 1)
        column = backend.asarray(table)[flat]
    else:
        present = backend.to_numpy(xp.unique(flat)).astype(np.int64)  # sync: the ids
        ids = present[present > 0]
        column = xp.searchsorted(backend.asarray(np.append(0, ids)), flat.astype(np.int64)).astype(np.int32)
    if labels.flags.f_contiguous:
        return ids, column.reshape(labels.shape[::-1]).T
    return ids, column.reshape(labels.shape)


def count_contacts(
    backend: Backend, columns: Array, v: int, connectivity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count the pairs of touching voxels for each pair of parcels.

    Parameters
    ----------
    backend : Backend
        Which owns the columns; it does the counting.
    columns : int32 array, shape (X, Y, Z)
        Parcel of each voxel, 1 to v; 0 is background.
    v : int
        Number of parcels.
    connectivity : {6, 18, 26}

    Returns
    -------
    pairs : int64 array, shape (n_pairs, 2)
        Places from 0, the lower first, sorted: the pairs that touch at all.
    faces : int64 array, shape (n_pairs, 3)
        Shared faces across X, Y and Z.
    contact : int64 array, shape (n_pairs,)
        Touching voxels: shared faces, and with 18 and 26 also those that meet at an edge or a corner.

    Examples
    --------
    >>> from gpuroi.backends import get_backend
    >>> pairs, faces, contact = count_contacts(get_backend("cpu"), np.array([[[1, 2], [1, 1]]], np.int32), 2, 18)
    >>> pairs.tolist(), faces.tolist(), contact.tolist()
    ([[0, 1]], [[0, 1, 1]], [3])
    """
    offsets = neighbour_offsets(connectivity)[connectivity // 2 :]  # the other half are the same pairs reversed
    volume, turned = columns, bool(columns.flags.f_contiguous and not columns.flags.c_contiguous)
    if turned:  # in the order of memory
        volume, offsets = columns.T, offsets[:, ::-1]
        offsets = np.where(_points_back(offsets)[:, None], -offsets, offsets)
    found = []
    for offset in offsets:
        code, count = _touching(backend, volume, v, offset)
        axes = np.flatnonzero(offset[::-1] if turned else offset)
        found.append((code, count, axes[0] if len(axes) == 1 else None))
    codes = np.unique(np.concatenate([code for code, _, _ in found]))
    faces = np.zeros((len(codes), 3), np.int64)
    contact = np.zeros(len(codes), np.int64)
    for code, count, axis in found:
        row = np.searchsorted(codes, code)  # each code stands once in `code`: no two counts fall on one place
        contact[row] += count
        if axis is not None:
            faces[row, axis] += count
    return np.stack([codes // v, codes % v], axis=1), faces, contact


def count_pieces(
    columns: Array, pairs: NDArray[np.int64], v: int, connectivity: int, backend: Backend
) -> NDArray[np.int64]:
    """Count the connected pieces of each parcel, int64 (v,), on the host.

    Parcels are coloured so that no two which touch share a colour: then one labelling of each colour does for all.

    Parameters
    ----------
    columns : int32 array, shape (X, Y, Z)
    pairs : int64 array, shape (n_pairs, 2)
        All that touch under this connectivity, by places from 0.
    v : int
    connectivity : {6, 18, 26}
    backend : Backend

    Examples
    --------
    >>> from gpuroi.backends import get_backend
    >>> count_pieces(np.array([[[1, 2, 1, 0, 1]]], np.int32), np.array([[0, 1]]), 2, 6, get_backend("cpu")).tolist()
    [3, 1]
    """
    xp = backend.xp
    volume = columns if columns.flags.c_contiguous else columns.T  # in the order of memory
    flat = volume.reshape(-1)
    where = xp.flatnonzero(flat)
    owner = flat[where]
    colours = _colours(pairs, v)
    colour = backend.asarray(np.append(0, colours).astype(np.int32))[owner]
    order = xp.argsort(colour, kind="stable")
    where, owner = where[order], owner[order]
    pieces = xp.zeros(v + 1, dtype=np.int64)
    stop = 0
    for count in backend.to_numpy(xp.bincount(colour, minlength=1)).tolist():  # sync: voxels of each colour
        start, stop = stop, stop + count
        mask = xp.zeros(flat.shape, dtype=bool)
        mask[where[start:stop]] = True
        labels, n = label(mask.reshape(volume.shape), connectivity)
        parcel = xp.zeros(n + 1, dtype=owner.dtype)
        parcel[labels.reshape(-1)[where[start:stop]]] = owner[start:stop]  # all voxels of a component write the same
        pieces += xp.bincount(parcel[1:], minlength=v + 1)
    return np.asarray(backend.to_numpy(pieces)[1:], np.int64)  # sync: reads the counts


def sizes_and_centres(backend: Backend, columns: Array, v: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the voxels of each parcel, (v,), and their mean place in voxels, (v, 3), on the host.

    Examples
    --------
    >>> from gpuroi.backends import get_backend
    >>> sizes_and_centres(get_backend("cpu"), np.array([[[1, 1, 0, 2]]], np.int32), 2)
    (array([2, 1]), array([[0. , 0. , 0.5], [0. , 0. , 3. ]]))
    """
    xp = backend.xp
    turned = not columns.flags.c_contiguous
    volume = columns.T if turned else columns  # in the order of memory
    inside = xp.nonzero(volume)
    column = volume[inside] - 1
    voxels = backend.to_numpy(xp.bincount(column, minlength=v)).astype(np.int64)
    # Sums of whole numbers, exact in float64: the same on every device.
    sums = [backend.to_numpy(xp.bincount(column, weights=place, minlength=v)) for place in inside]
    sums = sums[::-1] if turned else sums
    return voxels, np.stack(sums, axis=1).astype(np.float64) / voxels[:, None]


def _touching(
    backend: Backend, volume: Array, v: int, offset: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number for the two parcels, low * v + high, of voxels of different ones at this offset, and counts."""
    xp = backend.xp
    here, there = volume[_part(-offset)], volume[_part(offset)]
    planes = max(1, _SLAB // max(1, here[:1].size)) if backend.name == "cpu" else max(1, len(here))
    total: Any = None if v * v > _PAIR_TABLE else xp.zeros(v * v, dtype=np.int64)
    parts = []
    for start in range(0, len(here), planes):
        one, other = here[start : start + planes], there[start : start + planes]
        border = one != other
        border &= one != 0
        border &= other != 0
        one, other = one[border].astype(np.int64) - 1, other[border].astype(np.int64) - 1
        code = xp.minimum(one, other) * v + xp.maximum(one, other)
        if total is None:
            parts.append([backend.to_numpy(a) for a in xp.unique(code, return_counts=True)])
        elif code.size:
            total += xp.bincount(code, minlength=v * v)
    if total is not None:
        counts = backend.to_numpy(total)
        codes = np.flatnonzero(counts)
        return codes, counts[codes].astype(np.int64)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    codes, place = np.unique(np.concatenate([code for code, _ in parts]), return_inverse=True)
    summed = np.bincount(place, weights=np.concatenate([count for _, count in parts]), minlength=len(codes))
    return codes.astype(np.int64), summed.astype(np.int64)


def _part(offset: NDArray[np.int64]) -> tuple[slice, ...]:
    """Return where a voxel can stand so that a step back by `offset` stays in the volume."""
    return tuple(slice(max(step, 0), step if step < 0 else None) for step in offset.tolist())


def _points_back(offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Is the first step that is not 0 negative?"""
    first = np.argmax(offsets != 0, axis=1)
    return np.asarray(offsets[np.arange(len(offsets)), first] < 0)


def _colours(pairs: NDArray[np.int64], v: int) -> NDArray[np.int64]:
    """Colour a graph greedily, those with most neighbours first: neighbours differ."""
    near: list[list[int]] = [[] for _ in range(v)]
    for a, b in pairs.tolist():
        near[a].append(b)
        near[b].append(a)
    colours = np.full(v, -1, np.int64)
    for i in sorted(range(v), key=lambda i: (-len(near[i]), i)):
        taken = {int(colours[j]) for j in near[i]}
        colours[i] = next(c for c in range(len(taken) + 1) if c not in taken)
    return colours
