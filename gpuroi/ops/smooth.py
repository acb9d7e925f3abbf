"""Gaussian smoothing, with the width in mm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Backend
from gpuroi.errors import UsageError
from gpuroi.ops.volumes import as_float, as_inside, as_volumes

__all__ = ["smooth"]

MODES = ("reflect", "constant", "nearest", "mirror", "wrap")
_TRUNCATE = 4.0  # the kernel ends at this many standard deviations, as SciPy's does


def smooth(
    data: Any,
    fwhm: float | tuple[float, float, float] | None,
    voxel_size: float | tuple[float, float, float] = 1.0,
    *,
    mode: str = "reflect",
    mask: Any = None,
) -> Any:
    r"""Smooth volumes with a Gaussian of the given full width at half maximum.

    The standard deviation along an axis is ``fwhm / (2 sqrt(2 log 2) * voxel_size)`` voxels; the kernel ends
    at 4 standard deviations and sums to 1.

    Parameters
    ----------
    data : array, shape (..., X, Y, Z)
        NumPy or CuPy. float32 and float64 stay what they are; bool and integers up to 16 bits become float32,
        wider ones float64: nothing is rounded to integers.
    fwhm : float, (float, float, float) or None
        Full width at half maximum, mm, for all axes or each. 0 or None: that axis is left alone.
    voxel_size : float or (float, float, float), default 1.0
        mm along each axis: the lengths of the affine's columns. At 1.0 `fwhm` is in voxels.
    mode : {"reflect", "constant", "nearest", "mirror", "wrap"}
        What lies beyond the edges, as in SciPy; "constant" is zeros.
    mask : array, shape (X, Y, Z), optional
        Smooth within it: values outside do not count (NaN neither), weights are renormalised to those inside, and the
        result is 0 outside.

    Returns
    -------
    array, shape of `data`
        float32 or float64, on the device of `data`, in its memory layout.

    Raises
    ------
    UsageError
        Negative or non-finite widths; an unknown mode.
    DataError
        Fewer than three axes; a mask of another shape; complex data.

    Notes
    -----
    NaN and inf spread over the reach of the kernel, as in SciPy; nilearn sets them to 0 first. With `mask` only those
    inside do. Sums are taken in the precision of the data, SciPy's in float64: the difference is below 1e-6 of the
    largest value for float32. nibabel rounds the result of integer data to integers, which can leave nothing.

    Examples
    --------
    >>> import numpy as np
    >>> impulse = np.zeros((9, 9, 9), np.int16)
    >>> impulse[4, 4, 4] = 10
    >>> smoothed = smooth(impulse, fwhm=4.0, voxel_size=2.0)
    >>> smoothed.dtype, bool(abs(smoothed.sum() - 10) < 1e-4)
    (dtype('float32'), True)
    """
    backend = backend_of(data, mask)
    weights = _weights(fwhm, voxel_size)
    if mode not in MODES:
        raise UsageError(f'smoothing mode is "{mode}"', f"use one of {', '.join(MODES)}")
    values = as_float(backend, data, "data")
    volumes = as_volumes(values, "data")
    inside = as_inside(backend, mask, volumes.shape[1:])
    if inside is None:
        return backend.gaussian(volumes, weights, mode).reshape(values.shape)
    return _smooth_inside(backend, volumes, weights, mode, inside).reshape(values.shape)


def _smooth_inside(
    backend: Backend, volumes: Any, weights: tuple[NDArray[np.float64], ...], mode: str, mask: Any
) -> Any:
    """Smoothed values over the smoothed mask: the weighted mean of the neighbours inside."""
    xp = backend.xp
    zero = xp.zeros((), dtype=volumes.dtype)
    share = backend.gaussian(mask.astype(volumes.dtype)[None], weights, mode)
    smoothed = backend.gaussian(xp.where(mask, volumes, zero), weights, mode)
    with np.errstate(invalid="ignore", divide="ignore"):
        return xp.where(mask, smoothed / share, zero)


def _weights(fwhm: Any, voxel_size: Any) -> tuple[NDArray[np.float64], ...]:
    """Normalised weights along each axis; a single 1 where an axis is left alone."""
    widths = _three(0.0 if fwhm is None else fwhm, "fwhm")
    sizes = _three(voxel_size, "voxel_size")
    for width in widths:
        if not (math.isfinite(width) and width >= 0):
            raise UsageError(f"fwhm is {width} mm", "give a finite width of 0 or more")
    for size in sizes:
        if not (math.isfinite(size) and size > 0):
            raise UsageError(f"voxel_size is {size} mm", "give the lengths of the affine's columns")
    return tuple(_gaussian(w / (s * math.sqrt(8 * math.log(2)))) for w, s in zip(widths, sizes, strict=True))


def _three(value: Any, name: str) -> tuple[float, ...]:
    values = np.ravel(np.asarray(value, dtype=np.float64))
    if values.size not in (1, 3):
        raise UsageError(f"{name} has {values.size} values", "give one for all axes, or three")
    return tuple(float(v) for v in np.broadcast_to(values, 3))


def _gaussian(sigma_vox: float) -> NDArray[np.float64]:
    radius = int(_TRUNCATE * sigma_vox + 0.5)
    if radius == 0:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_vox) ** 2)
    return np.asarray(weights / weights.sum())
