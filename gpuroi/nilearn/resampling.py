"""nilearn's rules for where an image is brought to: which grid `target_affine` and `target_shape` mean."""

from __future__ import annotations

import copy as copying
import itertools
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import UsageError
from gpuroi.images.resample import resample_volume, resampled_dtype
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.niimg import check_niimg, image_data, image_name

__all__ = ["check_target", "resample_img", "resample_to_img", "target_grid"]

_INTERPOLATIONS = ("continuous", "linear", "nearest")


def resample_img(
    img: Any,
    target_affine: Any = None,
    target_shape: Any = None,
    interpolation: str = "continuous",
    copy: bool = True,
    order: str = "F",
    clip: bool = True,
    fill_value: float = 0.0,
    force_resample: bool = True,
    copy_header: bool = True,
) -> Any:
    """Bring an image to another grid; as `nilearn.image.resample_img`.

    Parameters
    ----------
    img : str, path or nibabel image
        3-D or 4-D.
    target_affine : array, shape (3, 3) or (4, 4), optional
        Three by three are directions and voxel sizes: origin and shape follow so that all of the image is inside.
    target_shape : sequence of three int, optional
        Only with an affine of four by four. Default: to the far end of the image.
    interpolation : {"continuous", "linear", "nearest"}, default "continuous"
    copy : bool, default True
        Copy an image that lies on the target already.
    order : {"F", "C"}, default "F"
        Memory order of the result.
    clip : bool, default True
        Hold the result within the range of the data and 0.
    fill_value : float, default 0.0
        Beyond the image.
    force_resample : bool, default True
        Has no effect: shifts by whole voxels are exact either way.
    copy_header : bool, default True

    Returns
    -------
    image of the class given
        Integers are interpolated to floats, with a warning.

    Raises
    ------
    UsageError
        If affine and shape contradict each other.
    BoundingBoxError
        If nothing of the image lies within the target; a ValueError.
    """
    check_types(
        copy_header=copy_header, force_resample=force_resample, target_affine=target_affine, target_shape=target_shape
    )
    check_target(target_affine, target_shape)
    if interpolation not in _INTERPOLATIONS:
        raise UsageError(f"'interpolation' must be one of {_INTERPOLATIONS}.\n'{interpolation}' was provided.")
    is_file = isinstance(img, str | os.PathLike)
    img = check_niimg(img)
    if target_affine is None:
        return _copied(img) if copy and not is_file else img
    _warn_without_sform(img)
    if _is_there(img, np.asarray(target_affine), target_shape):
        return _copied(img) if copy and not is_file else img
    affine, shape = target_grid(img.shape, img.affine, target_affine, target_shape, name=image_name(img))
    data = image_data(img)
    _warn_about(data, interpolation)
    resampled = resample_volume(
        data,
        img.affine,
        target_affine=affine,
        target_shape=shape,
        interpolation=interpolation,
        fill_value=fill_value,
        clip=clip,
    )
    return new_img_like(img, np.asarray(resampled, order="C" if order == "C" else "K"), affine, copy_header=copy_header)


def resample_to_img(
    source_img: Any,
    target_img: Any,
    interpolation: str = "continuous",
    copy: bool = True,
    order: str = "F",
    clip: bool = False,
    fill_value: float = 0.0,
    force_resample: bool = True,
    copy_header: bool = True,
) -> Any:
    """Bring an image to the grid of another; as `nilearn.image.resample_to_img`. See `resample_img`."""
    target = check_niimg(target_img)
    return resample_img(
        source_img,
        target_affine=target.affine,
        target_shape=target.shape[:3],
        interpolation=interpolation,
        copy=copy,
        order=order,
        clip=clip,
        fill_value=fill_value,
        force_resample=force_resample,
        copy_header=copy_header,
    )


def check_target(target_affine: Any, target_shape: Any) -> None:
    """Raise `UsageError` unless affine and shape together say where to."""
    if target_shape is None:
        return
    if len(target_shape) != 3:
        raise UsageError(
            "The shape specified should be the shape of the 3D grid, and thus of length 3. "
            f"{target_shape} was specified."
        )
    if target_affine is None:
        raise UsageError("If target_shape is specified, target_affine should be specified too.")
    if np.shape(target_affine) == (3, 3):
        raise UsageError(
            "Given target shape without anchor vector: 'target_affine' shape should be (4, 4) and not (3, 3)"
        )


def target_grid(
    shape: tuple[int, ...], affine: NDArray[np.float64], target_affine: Any, target_shape: Any = None, *, name: str = ""
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """Return the affine (4, 4) and the shape that an image is brought to.

    Parameters
    ----------
    shape : tuple of int
        Of the image, (X, Y, Z) or (X, Y, Z, n).
    affine : array, shape (4, 4)
        Of the image.
    target_affine : array, shape (3, 3) or (4, 4)
    target_shape : sequence of three int, optional
    name : str
        Of the image, for the error.

    Raises
    ------
    BoundingBoxError
        If nothing of the image lies within.
    """
    given = np.asarray(target_affine, dtype=np.float64)
    if given.shape not in ((3, 3), (4, 4)):
        raise UsageError(f"'target_affine' has shape {given.shape}; expected (3, 3) or (4, 4)")
    target = np.eye(4)
    target[: len(given), : len(given)] = given
    low, high = _corners(shape, np.linalg.inv(target) @ affine)  # voxels of the target, (3,)
    if given.shape == (3, 3):
        target[:3, 3] = target[:3, :3] @ low
        high = high - low
    if (high < 0).any():
        prefix = f"{name}: " if name else ""
        raise exceptions.BoundingBoxError(
            f"{prefix}The field of view given by the target affine does not contain any of the data"
        )
    if target_shape is not None:
        x, y, z = (int(n) for n in target_shape)
    else:
        x, y, z = (int(np.ceil(end)) + 1 for end in high)
    return target, (x, y, z)


def _corners(shape: tuple[int, ...], transform: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the lowest and the highest place of the centres of the corner voxels."""
    ends = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape[:3]))])  # (8, 4)
    places = (transform @ ends.T)[:3]
    return places.min(axis=1), places.max(axis=1)


def _is_there(img: Any, target: NDArray[Any], target_shape: Any) -> bool:
    if target_shape is None or target.shape != (4, 4):
        return False
    return tuple(target_shape) == tuple(img.shape[:3]) and np.allclose(target, img.affine)


def _copied(img: Any) -> Any:
    """Return an image of its own data; voxels of a file are not read for it."""
    return copying.deepcopy(img)


def _warn_without_sform(img: Any) -> None:
    if hasattr(img, "get_sform") and not img.get_sform(coded=True)[1]:
        exceptions.warn(
            f"{image_name(img)}: The provided image has no sform in its header. Please check the provided file. "
            "Results may not be as expected."
        )


def _warn_about(data: NDArray[Any], interpolation: str) -> None:
    """Say what resampling makes of integers, NaN and masks, as nilearn does."""
    to = resampled_dtype(data.dtype, interpolation)
    if interpolation != "nearest" and data.dtype.kind in "biu":
        exceptions.warn(f"Casting data from {data.dtype.name} to {to.name}")
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        exceptions.warn(
            "NaNs or infinite values are present in the data passed to resample. "
            "This is a bad thing as they make resampling ill-defined and much slower.",
            RuntimeWarning,
        )
    if interpolation != "nearest" and ((data == 0) | (data == 1)).all():
        exceptions.warn(
            "Resampling binary images with continuous or linear interpolation. This might lead to unexpected results. "
            "You might consider using nearest interpolation instead."
        )
