"""Values in a mask: from images into a matrix and back, and masks from masks."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.threads import n_threads, run_blocks
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.mask_cleaning import largest_connected_component
from gpuroi.nilearn.masked_rows import masked_series
from gpuroi.nilearn.niimg import check_niimg_3d, finite_data, image_name, is_surface, is_volume_input
from gpuroi.nilearn.same_grid import check_same_fov
from gpuroi.nilearn.surface_images import all_surfaces, surface_data
from gpuroi.nilearn.surface_masks import load_surface_mask, surface_series, unmask_surface

__all__ = ["apply_mask", "intersect_masks", "load_mask_img", "masked_series", "unmask"]


def apply_mask(
    imgs: Any,
    mask_img: Any,
    dtype: DTypeLike | str | None = "f",
    smoothing_fwhm: float | None = None,
    ensure_finite: bool = True,
) -> NDArray[Any]:
    """Read the values of images in a mask; as `nilearn.masking.apply_mask`.

    Parameters
    ----------
    imgs : path, pattern, nibabel image, SurfaceImage, or (nested) list of these
        3-D or 4-D, on one grid.
    mask_img : path, nibabel image or SurfaceImage
        Two values, one of them 0; on the same grid.
    dtype : dtype or "f", default "f"
        Of the result; "f" keeps the type of floating images and makes float32 of others.
    smoothing_fwhm : float, optional
        Full width at half maximum in mm; implies `ensure_finite`.
    ensure_finite : bool, default True
        NaN and infinity become 0, before smoothing.

    Returns
    -------
    array, shape (n, v)
        One row a volume, voxels in C order; (v,) for a single 3-D image. C-contiguous, in native byte order.

    Raises
    ------
    TypeError
        Anything that is no image; masks of several volumes; surfaces with a mask that is none.
    DataError
        A mask that is empty or has other values; broken files.
    GridError
        Images on other grids than the mask.

    Notes
    -----
    Volumes go straight into the matrix, a file a thread: neither all volumes nor their float64 copies are ever in
    memory. Beside nilearn: the mask and the images given are never written to; with an integer `dtype` smoothing is
    done before the conversion (nilearn then drops it); images of a list keep their values where the first has a
    narrower type (nilearn converts all to the type of the first); lists of SurfaceImage are taken. Smoothing runs on
    the device that GPUROI_DEVICE names.

    Examples
    --------
    >>> import nibabel
    >>> maps = nibabel.Nifti1Image(np.arange(16.0).reshape(2, 2, 2, 2), np.eye(4))
    >>> mask = nibabel.Nifti1Image(np.array([[[0, 1], [0, 0]], [[0, 0], [1, 0]]], np.uint8), np.eye(4))
    >>> apply_mask(maps, mask).tolist()
    [[2.0, 12.0], [3.0, 13.0]]
    """
    check_types(smoothing_fwhm=smoothing_fwhm)
    if is_surface(imgs) or all_surfaces(imgs):
        return _from_surfaces(imgs, mask_img, dtype, smoothing_fwhm)
    mask, affine = _volume_mask(mask_img, allow_empty=False)
    return masked_series(
        imgs, mask, affine, dtype=dtype, smoothing_fwhm=smoothing_fwhm, ensure_finite=ensure_finite, name=mask_img
    )


def unmask(X: Any, mask_img: Any, order: str = "F") -> Any:
    """Put values back into the voxels of a mask, 0 elsewhere; as `nilearn.masking.unmask`.

    Parameters
    ----------
    X : array, shape (v,) or (n, v), or list of these
        Values in the order of `apply_mask`.
    mask_img : path, nibabel image or SurfaceImage
        Two values, one of them 0.
    order : {"F", "C"}, default "F"
        Memory order of the data; "F", that of files, is the faster.

    Returns
    -------
    nibabel image, shape (X, Y, Z) or (X, Y, Z, n), or SurfaceImage, or list of these
        In the type of `X`.

    Raises
    ------
    TypeError
        Another number of values than the mask has voxels; more than two axes; masks of several volumes.
    DataError
        A mask that is empty or has other values.

    Notes
    -----
    Beside nilearn, a SurfaceImage is taken for a mask.

    Examples
    --------
    >>> import nibabel
    >>> mask = nibabel.Nifti1Image(np.array([[[0, 1], [1, 0]]], np.uint8), np.eye(4))
    >>> np.asanyarray(unmask(np.array([2.0, 3.0]), mask).dataobj).tolist()
    [[[0.0, 2.0], [3.0, 0.0]]]
    """
    if isinstance(X, list) and not (X and isinstance(X[0], numbers.Number)):
        loaded = load_mask_img(mask_img) if X else None
        return [_unmasked(np.asanyarray(x), mask_img, loaded, order) for x in X]
    return _unmasked(np.asanyarray(X), mask_img, load_mask_img(mask_img), order)


def intersect_masks(mask_imgs: Any, threshold: float = 0.5, connected: bool = True) -> Any:
    """Keep the voxels that lie in a given share of the masks; as `nilearn.masking.intersect_masks`.

    Parameters
    ----------
    mask_imgs : list of paths or nibabel images
        3-D, on one grid; two values each, one of them 0. Masks that are empty count.
    threshold : float, default 0.5
        A voxel stays if it lies in more than this share of the masks; 0 is the union, 1 the intersection.
    connected : bool, default True
        Keep only the largest component (6 neighbours).

    Returns
    -------
    nibabel image, int8

    Raises
    ------
    TypeError
        Surfaces; masks of several volumes.
    UsageError
        No masks; a threshold outside [0, 1].
    GridError
        Masks on different grids.

    Examples
    --------
    >>> import nibabel
    >>> rows = ([1, 1, 0, 1], [1, 1, 1, 0])
    >>> masks = [nibabel.Nifti1Image(np.array([[row]], np.uint8), np.eye(4)) for row in rows]
    >>> np.asanyarray(intersect_masks(masks, threshold=1).dataobj).tolist()
    [[[1, 1, 0, 0]]]
    """
    check_types(threshold=threshold, connected=connected)
    if threshold > 1:
        raise UsageError(f"The threshold should be smaller than 1, got {threshold}")
    if threshold < 0:
        raise UsageError(f"The threshold should be greater than 0, got {threshold}")
    masks = [mask_imgs] if isinstance(mask_imgs, str) else list(mask_imgs)
    if not masks:
        raise UsageError("No mask provided for intersection", "give one or more masks")
    others = [f"mask_imgs[{i}] = {type(m).__name__}" for i, m in enumerate(masks) if not is_volume_input(m)]
    if others:
        raise TypeError(f"All masks must be a 3D Niimg-like object. Got: {', '.join(others)}.")
    opened = [check_niimg_3d(mask) for mask in masks]
    grids = {f"img_#{i} ({image_name(mask)})": mask for i, mask in enumerate(opened)}
    check_same_fov(grids, "resample the masks to one grid first")
    counts = _counts(opened)
    # 1 is the intersection: more than (n - a little) of n.
    backend = get_backend("auto")
    with backend.activate():
        inside = backend.asarray(counts) > min(threshold, 1 - 1e-7) * len(masks)
        if connected and bool(inside.any()):  # sync: reads one bool
            inside = largest_connected_component(inside)
        result = backend.to_numpy(inside)
    return new_img_like(opened[0], result.astype(np.int8), opened[0].affine)


def load_mask_img(mask_img: Any, allow_empty: bool = False) -> tuple[Any, NDArray[np.float64] | None]:
    """Load a mask and check that it has two values, one of them 0; as nilearn's function of the same name.

    Parameters
    ----------
    mask_img : path, nibabel image or SurfaceImage
    allow_empty : bool, default False
        Accept a mask with no voxel inside.

    Returns
    -------
    mask : bool array, shape (X, Y, Z), or SurfaceImage with bool parts
    affine : array, shape (4, 4), or None for a surface

    Raises
    ------
    TypeError
        Anything else, or several volumes.
    DataError
        An empty mask; values that cannot be read as true and false.
    """
    if is_surface(mask_img):
        return load_surface_mask(mask_img, check=lambda values: _as_mask(values, "the mask", allow_empty)), None
    if not is_volume_input(mask_img):
        raise TypeError(f"'img' should be a 3D/4D Niimg-like object or a SurfaceImage. Got {type(mask_img).__name__}.")
    return _volume_mask(mask_img, allow_empty=allow_empty)


def _from_surfaces(imgs: Any, mask_img: Any, dtype: DTypeLike | str | None, fwhm: float | None) -> NDArray[Any]:
    if not is_surface(mask_img):
        raise TypeError(
            f"the images are SurfaceImage, but the mask is {type(mask_img).__name__}: expected SurfaceImage"
        )
    mask, _ = load_mask_img(mask_img)
    if not is_surface(imgs):
        return surface_series(list(imgs), mask, dtype, fwhm)
    rows = surface_series([imgs], mask, dtype, fwhm)
    return rows if surface_data(imgs).ndim == 2 else np.asarray(rows[0])


# --------------------------------------------------------------------------- masks


def _volume_mask(mask_img: Any, *, allow_empty: bool) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    loaded = check_niimg_3d(mask_img)
    return _as_mask(finite_data(loaded), image_name(loaded), allow_empty), np.asarray(loaded.affine)


def _as_mask(values: NDArray[Any], name: str, allow_empty: bool) -> NDArray[np.bool_]:
    """Return where values are not 0, if they have no third value."""
    inside = values != 0 if values.dtype != np.bool_ else values
    first = values[np.unravel_index(int(np.argmax(inside)), values.shape)] if values.size else 0
    if first == 0 and not allow_empty:
        raise DataError(
            f"The mask is invalid as it is empty: it masks all data. ({name})", "give a mask with voxels inside"
        )
    is_second = inside & (values != first)
    if not is_second.any():
        return np.asarray(inside)
    found = np.unique(values)
    shown = f"{found}" if found.size <= 8 else f"{found.size} values from {found[0]} to {found[-1]}"
    if found.size == 2:
        raise DataError(
            f"Background of the mask must be represented with 0. Given mask contains: {shown}. ({name})",
            "set the voxels outside to 0",
        )
    raise DataError(
        f"Given mask is not made of 2 values: {shown}. Cannot interpret as true or false. ({name})",
        "give a mask, such as one made of image != 0",
    )


def _counts(masks: Sequence[Any]) -> NDArray[np.int32]:
    """In how many masks each voxel lies."""
    total = np.zeros(masks[0].shape, np.int32)
    step = n_threads()
    loaded: dict[int, NDArray[np.bool_]] = {}

    def load(start: int, stop: int) -> None:
        for i in range(start, stop):
            loaded[i] = _volume_mask(masks[first + i], allow_empty=True)[0]

    for first in range(0, len(masks), step):
        loaded.clear()
        run_blocks(load, min(step, len(masks) - first))
        for mask in loaded.values():
            total += mask
    return total


# --------------------------------------------------------------------------- rows to volumes


def _unmasked(values: NDArray[Any], mask_img: Any, loaded: Any, order: str) -> Any:
    if order not in ("F", "C"):
        raise UsageError(f"order is {order!r}", 'use "F" or "C"')
    mask = surface_data(loaded[0]) if is_surface(mask_img) else loaded[0]
    if values.ndim not in (1, 2):
        raise TypeError(f"Masked data X must be 2D or 1D array; got shape: {values.shape}")
    n = int(np.count_nonzero(mask))
    if values.shape[-1] != n:
        raise TypeError(f"X must be of shape (samples, {n}), as many as the mask has voxels; got shape: {values.shape}")
    if is_surface(mask_img):
        return unmask_surface(values, loaded[0])
    paint = _painted if order == "F" else _painted_c
    return new_img_like(check_niimg_3d(mask_img), paint(values, mask), loaded[1], copy_header=False)


def _painted(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Volumes with x fastest, one after the other."""
    rows = np.atleast_2d(values)
    out = np.zeros((len(rows), *mask.shape[::-1]), values.dtype)
    inside = np.ascontiguousarray(mask.T)
    rank = np.zeros(mask.shape, np.int64)
    rank[mask] = np.arange(rows.shape[1])
    order = rank.T[inside]  # the columns as they come with x fastest

    def fill(start: int, stop: int) -> None:
        for i in range(start, stop):
            out[i][inside] = rows[i].take(order)

    run_blocks(fill, len(rows))
    volumes = out.T
    return volumes if values.ndim == 2 else volumes[..., 0]


def _painted_c(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    out = np.zeros((*mask.shape, *values.shape[:-1]), values.dtype)
    out[mask] = values.T
    return out
