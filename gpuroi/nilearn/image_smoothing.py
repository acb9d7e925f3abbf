"""Smoothing of images."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import UsageError
from gpuroi.images import voxel_sizes_mm
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.niimg import as_list, check_niimg, finite_data, is_image, is_surface
from gpuroi.nilearn.surface_images import all_surfaces, smooth_surface
from gpuroi.nilearn.volume_batches import apply_to_volumes
from gpuroi.ops import peak_bytes, smooth

__all__ = ["smooth_data", "smooth_img"]

_FAST_WEIGHT = 0.2  # of each of the six neighbours, the voxel itself counting 1


def smooth_img(imgs: Any, fwhm: Any) -> Any:
    """Smooth images with a Gaussian; as `nilearn.image.smooth_img`.

    Parameters
    ----------
    imgs : str, path, nibabel image, SurfaceImage, or iterable of these
        3-D or 4-D; every volume is smoothed by itself. NaN and infinity count as 0.
    fwhm : float, sequence of three, "fast" or None
        Full width at half maximum, mm, for all axes or each (None or 0: not along this one). "fast" mixes each voxel
        with its six neighbours. None only replaces NaN and infinity. On surfaces a number or None.

    Returns
    -------
    image of the kind given, or a list of them if `imgs` was an iterable
        Integers become float32, those of 64 bits float64.

    Raises
    ------
    TypeError
        If it is no image, or widths for each axis are given for a surface.
    UsageError
        If a width is negative, NaN or infinite.

    Notes
    -----
    As nilearn with these differences: unsigned integers are not truncated (versions before 0.14.1 did);
    a negative or NaN width is an error, there it is no smoothing. float32 images are summed in float32: values differ
    by less than 1e-6 of the largest. A vertex without neighbours keeps its value; there it is halved again and again.

    Examples
    --------
    >>> import nibabel
    >>> impulse = np.zeros((9, 9, 9), np.uint8)
    >>> impulse[4, 4, 4] = 200
    >>> smoothed = smooth_img(nibabel.Nifti1Image(impulse, np.diag([2, 2, 2, 1])), fwhm=4)
    >>> round(float(smoothed.get_fdata().sum()), 2)
    200.0
    """
    given = as_list(imgs)
    if is_surface(given):
        return _surface(given, fwhm)
    if isinstance(given, str | os.PathLike) or is_image(given) or not isinstance(given, list | tuple):
        return _volume(given, fwhm)
    if all_surfaces(given):
        return [_surface(one, fwhm) for one in given]
    return [_volume(one, fwhm) for one in given]


def smooth_data(data: NDArray[Any], affine: NDArray[np.float64], fwhm: Any) -> NDArray[Any]:
    """Return smoothed volumes.

    Parameters
    ----------
    data : floating array, shape (X, Y, Z) or (X, Y, Z, n)
        Without NaN and infinity. It is not changed.
    affine : array, shape (4, 4)
    fwhm : float, sequence of three, "fast" or None
        As in `smooth_img`.

    Returns
    -------
    array, shape of `data`
        `data` itself where nothing is smoothed.
    """
    if not _smooths(fwhm):
        return data
    widths = _widths_mm(fwhm)
    zooms_mm = tuple(voxel_sizes_mm(affine))

    def op(backend: Any, volumes: Any) -> Any:
        if widths is None:
            return _with_neighbours(volumes)
        return smooth(volumes, widths, zooms_mm)

    shape = (1, *data.shape[:3], 1, 1)[:4]
    return apply_to_volumes(data, op, lambda device: peak_bytes("smooth", shape, data.dtype, device=device))


def _volume(given: Any, fwhm: Any) -> Any:
    img = check_niimg(given)
    if np.ndim(fwhm) == 0 and not isinstance(fwhm, str) and fwhm == 0:
        exceptions.warn(
            f"The parameter 'fwhm' for smoothing is specified as {fwhm}. "
            "Setting it to None (no smoothing will be performed)"
        )
    data = finite_data(img, warn=False, copy=not _smooths(fwhm))
    if data.dtype.kind in "biu":
        data = data.astype(np.float64 if data.dtype.itemsize == 8 else np.float32)
    return new_img_like(img, smooth_data(data, img.affine, fwhm), img.affine)


def _surface(img: Any, fwhm: Any) -> Any:
    if fwhm is not None and hasattr(fwhm, "__iter__"):
        raise TypeError("For surface data, 'fwhm' must be a scalar.")
    return smooth_surface(img, fwhm)


def _widths_mm(fwhm: Any) -> tuple[float, float, float] | None:
    """Return a width for each axis, 0 for none; None for "fast"."""
    if isinstance(fwhm, str):
        if fwhm == "fast":
            return None
        raise UsageError(f"'fwhm' is {fwhm!r}", 'give a width in mm, three of them, "fast" or None')
    given = [fwhm] if np.ndim(fwhm) == 0 else list(fwhm)
    if len(given) not in (1, 3):
        raise UsageError(f"'fwhm' has {len(given)} values", "give one width in mm for all axes, or three")
    widths = [0.0 if width is None else float(width) for width in given]
    for width in widths:
        if not (math.isfinite(width) and width >= 0):
            raise UsageError(f"'fwhm' is {width} mm", "give finite widths of 0 or more, or None")
    x, y, z = widths * (3 // len(widths))
    return x, y, z


def _smooths(fwhm: Any) -> bool:
    return _widths_mm(fwhm) != (0.0, 0.0, 0.0)


def _with_neighbours(volumes: Any) -> Any:
    """Weighted sum of each voxel and its six neighbours; missing ones at the border count as 0."""
    sums, weighted = volumes.copy(order="K"), _FAST_WEIGHT * volumes
    for axis in (1, 2, 3):
        before = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        sums[before] += weighted[after]
        sums[after] += weighted[before]
    sums /= 1 + 6 * _FAST_WEIGHT
    return sums
