"""Clean masks: keep the largest part, remove specks and bridges, extend values beyond the border."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuroi.backends import backend_of
from gpuroi.errors import DataError
from gpuroi.nilearn import exceptions
from gpuroi.ops import binary_dilation, binary_erosion, label

__all__ = ["clean_mask", "extrapolate_out_mask", "largest_connected_component"]


def clean_mask(mask: Any, *, opening: int = 0, connected: bool = False, hint: str = "") -> Any:
    """Open a mask and keep its largest component, as nilearn's mask functions do.

    Parameters
    ----------
    mask : bool array, shape (X, Y, Z)
        NumPy or CuPy.
    opening : int, default 0
        Erode this often, dilate twice as often, erode as often again: specks and thin bridges vanish, the rest is
        also closed. 6 neighbours.
    connected : bool, default False
        Keep only the largest component (6 neighbours), as it is after the first erosion.
    hint : str
        What may be wrong if nothing is left; the end of the warning.

    Returns
    -------
    bool array, shape and device of `mask`

    Warns
    -----
    MaskWarning
        If no voxel is left after the first erosion.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 9), bool)
    >>> mask[1:6, 1:6, 1:6] = mask[7, 7, 7] = True
    >>> cleaned = clean_mask(mask, opening=1, connected=True)
    >>> bool(cleaned[3, 3, 3]), bool(cleaned[7, 7, 7])
    (True, False)
    """
    times = int(opening)
    if times:
        mask = binary_erosion(mask, iterations=times)
    is_empty = not bool(mask.any())  # sync: reads one bool
    if is_empty:
        exceptions.warn(f"Computed an empty mask. {hint}", exceptions.MaskWarning)
    elif connected:
        mask = largest_connected_component(mask)
    if times:
        mask = binary_erosion(binary_dilation(mask, iterations=2 * times), iterations=times)
    return mask


def largest_connected_component(volume: Any) -> Any:
    """Return the largest component of a volume; of equal ones the first.

    Parameters
    ----------
    volume : array, shape (X, Y, Z)
        Non-zero inside; 6 neighbours. NumPy or CuPy.

    Returns
    -------
    bool array, shape and device of `volume`

    Raises
    ------
    DataError
        If every voxel is 0.

    Examples
    --------
    >>> largest_connected_component(np.array([[[1, 0, 1, 1]]])).tolist()
    [[[False, False, True, True]]]
    """
    xp = backend_of(volume).xp
    labels, n = label(volume)
    if n == 0:
        raise DataError("No non-zero values: no connected components", "give a mask with voxels inside")
    if n == 1:
        return labels > 0
    sizes = xp.bincount(labels.ravel())
    sizes[0] = 0
    return labels == xp.argmax(sizes)


def extrapolate_out_mask(data: Any, mask: Any, iterations: int = 1) -> tuple[Any, Any]:
    """Extend values beyond the border of a mask: each new voxel is the mean of its neighbours in the mask.

    Parameters
    ----------
    data : array, shape (X, Y, Z) or (X, Y, Z, n)
        NumPy or CuPy. NaN and infinity in the mask do not count.
    mask : array, shape (X, Y, Z)
        Non-zero inside.
    iterations : int, default 1
        Voxels to go beyond the border, through faces.

    Returns
    -------
    data : float64 array, shape and device of `data`
        0 outside the new mask.
    mask : bool array, shape (X, Y, Z)
        The new mask.

    Notes
    -----
    As nilearn's function of the same name.

    Examples
    --------
    >>> row, inside = np.array([[[0.0, 2.0, 0.0, 4.0]]]), np.array([[[False, True, False, True]]])
    >>> extrapolate_out_mask(row, inside)[0].tolist()
    [[[2.0, 2.0, 3.0, 4.0]]]
    """
    backend = backend_of(data, mask)
    values = backend.asarray(data, dtype=np.float64)
    inside = backend.asarray(mask) != 0
    for _ in range(max(1, iterations)):
        values, inside = _one_voxel_further(backend.xp, values, inside)
    return values, inside


def _one_voxel_further(xp: Any, values: Any, inside: Any) -> tuple[Any, Any]:
    grown = binary_dilation(inside)
    extra = (1,) * (values.ndim - 3)  # an axis of volumes, if there is one
    within = inside.reshape((*inside.shape, *extra))
    counts = within & xp.isfinite(values)
    padded = xp.pad(xp.where(counts, values, 0.0), [(1, 1)] * 3 + [(0, 0)] * len(extra))
    counts = xp.pad(counts, [(1, 1)] * 3 + [(0, 0)] * len(extra))
    total, n = xp.zeros_like(values), xp.zeros(values.shape, dtype=np.int64)
    for axis in range(3):
        for start in (2, 0):  # the next voxel, then the one before: nilearn's order of summation
            at = tuple(slice(start, start + values.shape[a]) if a == axis else slice(1, -1) for a in range(3))
            total, n = total + padded[at], n + counts[at]
    mean = total / xp.maximum(n, 1)
    shell = (grown & ~inside).reshape(within.shape)
    return xp.where(within, values, xp.where(shell, mean, 0.0)), grown
