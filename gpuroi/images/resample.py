"""Images on another voxel grid: only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.images.headers import check_affine
from gpuroi.images.read import open_image

__all__ = ["resample_to", "resample_volume", "resampled_dtype"]

_ORDERS = {"nearest": 0, "linear": 1, "continuous": 3}
_FLOAT_OF = {1: np.float32, 2: np.float32, 4: np.float32, 8: np.float64}


def resample_to(img: Any, like: Any, *, interpolation: str | None = None) -> Any:
    """Bring an image onto the voxel grid of another. Nothing is registered.

    Parameters
    ----------
    img : path, nibabel image or Image
        3-D or 4-D.
    like : path, nibabel image or Image
        Whose shape and affine the result has.
    interpolation : {"nearest", "linear", "continuous"}, optional
        "continuous" is cubic splines. Default: "nearest" for integers that no scaling makes to fractions, as in masks
        and atlases, else "continuous".

    Returns
    -------
    nibabel.Nifti1Image
        In the type of the data for "nearest", so that no label is lost; otherwise float32 or float64. Outside the
        image it is 0.

    Raises
    ------
    UsageError
        Any other interpolation.
    DataError
        An image that cannot be used.

    Examples
    --------
    >>> import nibabel
    >>> atlas = nibabel.Nifti1Image(np.full((2, 2, 2), 70000, np.int32), np.diag([4, 4, 4, 1]))
    >>> fine = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.diag([2, 2, 2, 1]))
    >>> resampled = resample_to(atlas, fine)
    >>> resampled.shape, resampled.dataobj.dtype, int(resampled.dataobj[0, 0, 0])
    ((4, 4, 4), dtype('int32'), 70000)
    """
    import nibabel

    source, target = open_image(img), open_image(like)
    volumes = source.read(dtype=None)  # (n, X, Y, Z)
    data = volumes.transpose(1, 2, 3, 0) if source.is_4d else volumes[0]
    if interpolation is None:
        interpolation = "nearest" if data.dtype.kind in "biu" else "continuous"
    resampled = resample_volume(
        data, source.affine, target_affine=target.affine, target_shape=target.shape, interpolation=interpolation
    )
    make: Any = nibabel.Nifti1Image
    wide = resampled.dtype if resampled.dtype.kind in "iu" and resampled.dtype.itemsize == 8 else None
    return make(resampled, target.affine, dtype=wide)


def resample_volume(
    data: NDArray[Any],
    affine: ArrayLike,
    *,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    interpolation: str = "continuous",
    fill_value: float = 0.0,
    clip: bool = False,
) -> NDArray[Any]:
    """Interpolate volumes at the voxels of another grid.

    Parameters
    ----------
    data : array, shape (X, Y, Z) or (X, Y, Z, n)
        It is not changed.
    affine : array, shape (4, 4)
        Of the data.
    target_affine : array, shape (4, 4)
    target_shape : sequence of three int
    interpolation : {"continuous", "linear", "nearest"}, default "continuous"
        Cubic splines; trilinear; the value of the nearest voxel.
    fill_value : float, default 0.0
        Beyond the data.
    clip : bool, default False
        Hold the result within the range of the data and 0: splines overshoot at edges.

    Returns
    -------
    array, shape (*target_shape) or (*target_shape, n), Fortran order
        In the type of the data for "nearest" and for floats, in native byte order; integers are interpolated to
        float32, those of 64 bits to float64.

    Raises
    ------
    UsageError
        Any other interpolation, or a target that is not three axes.
    DataError
        An affine that cannot be inverted; data of fewer than three axes.

    Notes
    -----
    Where data are NaN or infinite, values are first extended into the two layers of voxels around the finite ones
    (the mean of the neighbours), so that no NaN spreads; the nearest voxel of the result is NaN. As nilearn's
    `resample_img`, which truncates unsigned integers, and integers where it interpolates linearly.

    Examples
    --------
    >>> line = np.arange(3.0).reshape(3, 1, 1)
    >>> half = np.diag([0.5, 1, 1, 1])
    >>> resample_volume(line, np.eye(4), target_affine=half, target_shape=(5, 1, 1), interpolation="linear").ravel()
    array([0. , 0.5, 1. , 1.5, 2. ])
    """
    if interpolation not in _ORDERS:
        raise UsageError(f"interpolation is {interpolation!r}", f"use one of {', '.join(_ORDERS)}")
    shape = tuple(int(n) for n in target_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"the target has shape {shape}; expected three axes of 1 or more")
    if data.ndim < 3:
        raise DataError(f"data have shape {data.shape}; expected (X, Y, Z) or (X, Y, Z, n)")
    source = check_affine(affine, name="image to resample")
    target = check_affine(target_affine, name="target")
    matrix, offset = _to_source(source, target)
    out = np.empty((*shape, *data.shape[3:]), resampled_dtype(data.dtype, interpolation), order="F")
    for index in np.ndindex(*data.shape[3:]):
        at = (slice(None),) * 3 + index
        _interpolate(data[at], matrix, offset, _ORDERS[interpolation], fill_value, out[at])
    if clip and data.size:
        finite = data[np.isfinite(data)] if data.dtype.kind == "f" else data
        if finite.size:
            np.clip(out, min(finite.min(), 0), max(finite.max(), 0), out=out)
    return out


def resampled_dtype(dtype: np.dtype[Any], interpolation: str) -> np.dtype[Any]:
    """Return the type of interpolated data: floats hold what integers would truncate."""
    if interpolation == "nearest" or dtype.kind not in "biu":
        return dtype.newbyteorder("=")
    return np.dtype(_FLOAT_OF[dtype.itemsize])


def _to_source(source: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return matrix and offset that take voxels of the target to voxels of the source."""
    if np.array_equal(source, target):
        return np.ones(3), np.zeros(3)  # exactly, whatever the inverse rounds to
    transform = np.linalg.inv(source) @ target
    matrix = transform[:3, :3]
    diagonal = np.diag(matrix)
    # A diagonal as a vector: SciPy then interpolates axis by axis.
    return (diagonal if np.array_equal(np.diag(diagonal), matrix) else matrix), transform[:3, 3]


def _interpolate(
    volume: NDArray[Any], matrix: NDArray[Any], offset: NDArray[Any], order: int, fill: float, out: NDArray[Any]
) -> None:
    from scipy import ndimage

    transform: Any = ndimage.affine_transform
    volume = volume.astype(volume.dtype.newbyteorder("="), copy=False)
    broken = ~np.isfinite(volume) if volume.dtype.kind == "f" else None
    if broken is None or not broken.any():
        transform(volume, matrix, offset, out.shape, out, order=order, cval=fill)
        return
    extended = _extended(_extended(volume, ~broken), _dilated(~broken))
    transform(extended, matrix, offset, out.shape, out, order=order, cval=fill)
    out[transform(broken, matrix, offset, out.shape, order=0)] = np.nan


def _extended(volume: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return values, 0 outside a mask but for one layer of voxels around it, which get the mean of their neighbours."""
    values = np.pad(np.where(inside, volume, 0).astype(np.float64), 1)
    counted = np.pad(inside, 1)
    sums, numbers = np.zeros(volume.shape), np.zeros(volume.shape, np.int64)
    core = (slice(1, -1),) * 3
    for axis in range(3):
        for step in (slice(2, None), slice(None, -2)):
            at = (*core[:axis], step, *core[axis + 1 :])
            sums += values[at]
            numbers += counted[at]
    layer = ~inside & (numbers > 0)
    extended = np.ascontiguousarray(values[core])
    extended[layer] = sums[layer] / numbers[layer]
    return extended


def _dilated(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    return np.asarray(ndimage.binary_dilation(inside))
