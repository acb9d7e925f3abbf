"""Thresholding of images: by value or percentile, voxel by voxel or by cluster."""

from __future__ import annotations

import math
import numbers
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.masking import load_mask_img
from gpuroi.nilearn.mesh_clusters import MeshLabeller
from gpuroi.nilearn.niimg import (
    check_niimg,
    check_niimg_3d,
    finite_data,
    image_data,
    is_image,
    is_surface,
)
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.same_grid import same_grid
from gpuroi.nilearn.surface_images import check_same_mesh, finite_parts, surface_like
from gpuroi.nilearn.volume_batches import apply_to_volumes
from gpuroi.ops import peak_bytes, percentile_cutoff, threshold

__all__ = ["threshold_img"]

_ABOVE_PERCENTILE = 1e-5  # nilearn adds this to the cutoff of a percentile, so that a tie with it is dropped
_FORM = 'If "threshold" is given as string it should be a number followed by the percent sign, e.g. "25.3%"'


def threshold_img(
    img: Any,
    threshold: float | str,
    cluster_threshold: int = 0,
    two_sided: bool = True,
    mask_img: Any = None,
    copy: bool = True,
    copy_header: bool = True,
) -> Any:
    """Set what does not reach a threshold to 0; as `nilearn.image.threshold_img`.

    Parameters
    ----------
    img : str, path, nibabel image or SurfaceImage
        3-D or 4-D map. NaN and infinity count as 0.
    threshold : float or str
        A value, or a percentile such as "97%" of the whole image: of |x| if two-sided, else of the values that are
        not negative; within the mask if there is one.
    cluster_threshold : int, default 0
        Keep only clusters of at least this many voxels (or vertices). Voxels that share a face are one cluster,
        positive and negative ones apart; on surfaces vertices that an edge joins, whatever their signs.
    two_sided : bool, default True
        True keeps ``|x| >= threshold``; False ``x >= threshold``, or ``x <= threshold`` if that is negative.
    mask_img : str, path, nibabel image or SurfaceImage, optional
        Applied first: values outside become 0. Brought to the grid of `img` if on another (nearest voxel).
    copy : bool, default True
        False writes into the data of `img` itself, where they are in memory.
    copy_header : bool, default True
        Keep the header of `img`.

    Returns
    -------
    image of the kind and type of data given

    Raises
    ------
    TypeError
        If it is no image, the mask is of another kind, or the threshold is no number and no string.
    ValueError
        If the threshold is negative and two-sided, NaN, or no percentile from "0%" to "100%"; if the mask is empty or
        holds more than two values.

    Warns
    -----
    UserWarning
        If no value reaches the threshold; if NaN or infinity were replaced.

    Notes
    -----
    As nilearn, which takes NIfTI images only; here all kinds of volumes are. Where no value has the sign of a one-sided
    threshold nilearn fails, or keeps all if it is a percentile; here the result is 0 everywhere. A cluster that fills
    the whole image is held to `cluster_threshold` as others.

    Examples
    --------
    >>> import nibabel
    >>> data = np.array([[[-3.0, -1.0, 0.0, 2.0, 3.0]]])
    >>> img = nibabel.Nifti1Image(data, np.eye(4))
    >>> threshold_img(img, 2, cluster_threshold=2).get_fdata()[0, 0]
    array([0., 0., 0., 2., 3.])
    """
    check_types(cluster_threshold=cluster_threshold, copy_header=copy_header)
    _check_threshold_type(threshold)
    if is_surface(img):
        return _surface(img, threshold, cluster_threshold, two_sided, mask_img, copy)
    if not isinstance(img, str | os.PathLike) and not is_image(img):
        raise TypeError(f"'img' should be a 3D/4D Niimg-like object or a SurfaceImage. Got {type(img).__name__}.")
    return _volume(check_niimg(img), threshold, cluster_threshold, two_sided, mask_img, copy, copy_header)


def _volume(
    img: Any, cutoff: float | str, min_size: int, two_sided: bool, mask_img: Any, copy: bool, copy_header: bool
) -> Any:
    inside = None if mask_img is None else _mask_of(mask_img, img)
    data = finite_data(img, copy=False)
    population = data if inside is None else data[inside]
    value = _cutoff(cutoff, population, two_sided)
    value = _comparable(value, data.dtype, above=two_sided or value >= 0)

    def op(backend: Any, volumes: Any) -> Any:
        mask = None if inside is None else backend.asarray(inside)
        return threshold(volumes, value, two_sided=two_sided, cluster_threshold=max(0, min_size), mask=mask)

    shape = (1, *data.shape[:3], 1, 1)[:4]
    kept = apply_to_volumes(
        data,
        op,
        lambda device: peak_bytes("threshold", shape, data.dtype, device=device, masked=True, clusters=min_size > 1),
    )
    if not copy and getattr(img, "in_memory", True):
        target = image_data(img)
        target[...] = kept
        kept = target
    return new_img_like(img, kept, img.affine, copy_header=copy_header)


def _surface(img: Any, cutoff: float | str, min_size: int, two_sided: bool, mask_img: Any, copy: bool) -> Any:
    inside = None if mask_img is None else _surface_mask_of(mask_img, img)
    parts = finite_parts(img, warn=True)
    population = np.concatenate(list(parts.values()), axis=0)
    if inside is not None:
        population = population[np.concatenate([inside[name] for name in parts])]
    value = _cutoff(cutoff, population, two_sided)
    for name, values in parts.items():
        below = _misses(values, value, two_sided)
        if inside is not None:
            below[~inside[name]] = True
        values[below] = 0
        if min_size > 1:
            clusters = MeshLabeller(img.mesh.parts[name])
            for column in values.reshape(len(values), -1).T:  # views: of one map or of several
                labels, sizes = clusters(column != 0)
                column[np.append(0, sizes)[labels] < min_size] = 0
        if not copy:
            img.data.parts[name][...] = values
    return surface_like(img, parts)


def _misses(values: NDArray[Any], cutoff: float, two_sided: bool) -> NDArray[np.bool_]:
    if two_sided:
        return np.asarray((values > -cutoff) & (values < cutoff))
    return np.asarray(values < cutoff if cutoff >= 0 else values > cutoff)


def _check_threshold_type(cutoff: Any) -> None:
    if cutoff is None:
        raise TypeError("threshold should be either a number or a string finishing with a percent sign")
    if isinstance(cutoff, bool) or not isinstance(cutoff, str | numbers.Real):
        raise TypeError(f"'threshold' must be of type(s): 'float, int, str'.\nGot: '{type(cutoff).__name__}'")


def _cutoff(given: float | str, population: NDArray[Any], two_sided: bool) -> float:
    """Return the threshold as a number; warn if nothing in the population reaches it."""
    value, is_percentile = _number(given)
    if math.isnan(value):
        raise UsageError("'threshold' is NaN", 'give a number, or a percentile such as "97%"')
    if value < 0 and two_sided:
        raise UsageError('"threshold" should not be a negative value when two_sided=True.', "give its absolute value")
    if value < 0 and is_percentile:
        raise UsageError('"threshold" should not be a negative percentile value.')
    if is_percentile:
        found = percentile_cutoff(population.reshape((1, 1, -1), order="A"), value, two_sided=two_sided)
        return math.inf if math.isnan(found) else found + _ABOVE_PERCENTILE  # NaN: no value is 0 or more
    _warn_if_out_of_reach(value, population, two_sided)
    return value


def _number(given: float | str) -> tuple[float, bool]:
    if not isinstance(given, str):
        return float(given), False
    try:
        return float(given.removesuffix("%")) if given.endswith("%") else float("no percent sign"), True
    except ValueError:
        raise UsageError(f"{_FORM}, not {given!r}.") from None


def _warn_if_out_of_reach(value: float, population: NDArray[Any], two_sided: bool) -> None:
    if not population.size:
        return
    low, high = population.min().item(), population.max().item()  # Python's numbers: -(-128) is 128
    if value < 0:
        if value < low:
            exceptions.warn(
                f"The given float value must not be less than {low}. But, you have given threshold={value}."
            )
        return
    largest = max(high, -low) if two_sided else high
    if value > largest:
        exceptions.warn(f"The given float value must not exceed {largest}. But, you have given threshold={value}.")


def _comparable(value: float, dtype: np.dtype[Any], *, above: bool) -> float:
    """Return a cutoff that divides the values of a type just as this one does, and that is exact in that type."""
    if dtype.kind in "iu" and math.isfinite(value):
        return float(math.ceil(value) if above else math.floor(value))
    return float(dtype.type(value)) if dtype.kind == "f" else value


def _mask_of(mask_img: Any, img: Any) -> NDArray[np.bool_]:
    """Return a mask on the grid of the image."""
    if is_surface(mask_img):
        raise _incompatible(mask_img, img)
    if not isinstance(mask_img, str | os.PathLike) and not is_image(mask_img):
        raise TypeError(f"'mask' must be of type(s): 'Nifti1Image, str, Path'.\nGot: '{type(mask_img).__name__}'")
    mask = check_niimg_3d(mask_img)
    if not same_grid(mask, img):
        mask = resample_img(mask, target_affine=img.affine, target_shape=img.shape[:3], interpolation="nearest")
    inside, _ = load_mask_img(mask)
    return np.asarray(inside)


def _surface_mask_of(mask_img: Any, img: Any) -> dict[str, NDArray[np.bool_]]:
    if not is_surface(mask_img):
        raise _incompatible(mask_img, img)
    check_same_mesh(mask_img.mesh, img.mesh)
    mask, _ = load_mask_img(mask_img)
    return dict(mask.data.parts)


def _incompatible(mask_img: Any, img: Any) -> TypeError:
    return TypeError(
        "Mask and input images must be of compatible types.\n"
        f"Got mask of type: {type(mask_img).__name__}, and images of type: {[type(img)]}"
    )
