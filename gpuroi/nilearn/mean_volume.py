"""The mean of volumes, read one after the other, as nilearn's mask functions take it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import n_threads, run_blocks
from gpuroi.errors import DataError
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.volume_series import VolumeSeries

__all__ = ["mean_on_grid", "mean_volume"]

_WORTH_A_THREAD = 100_000  # voxels


def mean_on_grid(
    series: VolumeSeries, target_affine: Any = None, target_shape: Any = None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the mean volume on another grid, if one is asked for, and the affine it lies on.

    Parameters
    ----------
    series : VolumeSeries
    target_affine, target_shape
        As for `resample_img`.
    """
    mean = mean_volume(series)
    if target_affine is None and target_shape is None:
        return mean, series.affine
    from nibabel import Nifti1Image

    image: Any = Nifti1Image
    if mean.dtype.kind in "bu":
        mean = mean.astype(np.float64)  # of a single volume; `resample_img` makes float32 of bytes, nilearn here not
    resampled = resample_img(image(mean, series.affine), target_affine, target_shape)
    return np.asarray(resampled.dataobj), np.asarray(resampled.affine)


def mean_volume(series: VolumeSeries) -> NDArray[Any]:
    """Return the mean of all volumes, or the only one of a 3-D image.

    Parameters
    ----------
    series : VolumeSeries

    Returns
    -------
    array, shape (X, Y, Z), the caller's own
        float32 for float32 volumes, else float64; a 3-D image keeps its type. Sums are float64, added in the order of
        the volumes, whatever the number of threads; in NumPy's order where float64 values of a voxel lie together.

    Raises
    ------
    DataError
        If there is no volume.
    """
    if not len(series):
        raise DataError(f"{series.name}: 0 volumes, no mean can be taken")
    try:
        if not series.is_4d:
            only = series.volume(0)
            return np.array(only, dtype=only.dtype.newbyteorder("="), order="K")
        return _mean(series)
    finally:
        series.release()


def _mean(series: VolumeSeries) -> NDArray[Any]:
    array = series.array
    dtype = np.float32 if series.dtype == np.float32 else np.float64
    if array is not None and array.ndim == 4 and array.dtype.isnative and _is_known(array.dtype):
        if array.flags.f_contiguous:
            return _mean_of_volumes(array, dtype)
        if array.strides[3] == array.itemsize:
            return _mean_of_voxels(array, dtype)
    total = np.zeros(series.shape[::-1]).T  # x fastest, as volumes are
    with np.errstate(invalid="ignore", over="ignore"):
        _add_up(series, total)
        total /= len(series)
        return total.astype(dtype)


def _mean_of_volumes(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return the mean of volumes that lie one after the other; each thread has its own part of all of them."""
    from gpuroi.backends.kernels.running_sums import mean_of_rows

    mean = np.empty(array.shape[2::-1], dtype)
    rows, flat = array.T.reshape(array.shape[3], -1), mean.reshape(-1)
    run_blocks(lambda start, stop: mean_of_rows(rows, flat, start, stop), flat.size, least=_WORTH_A_THREAD)
    return mean.T


def _mean_of_voxels(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return the mean over the last axis, along which the values of a voxel lie together."""
    from gpuroi.backends.kernels.running_sums import mean_of_columns

    mean = np.empty(array.shape[:3], dtype)

    def part(start: int, stop: int) -> None:
        if array.dtype == np.float64:  # NumPy adds these in pairs, and so does nilearn, whose digits are kept
            with np.errstate(invalid="ignore", over="ignore"):
                np.add.reduce(array[start:stop], axis=3, out=mean[start:stop])
                mean[start:stop] /= array.shape[3]
            return
        for x in range(start, stop):  # a slab is a copy only where the array is a cut-out
            mean_of_columns(array[x].reshape(-1, array.shape[3]), mean[x].reshape(-1))

    run_blocks(part, len(mean))
    return mean


def _add_up(series: VolumeSeries, total: NDArray[np.float64]) -> None:
    """Add the volumes in their order: some are read at a time, and each thread adds its own part of them."""
    from gpuroi.backends.kernels.running_sums import add_values

    step = 2 * n_threads()
    flat = total.T.reshape(-1)  # a view: x is fastest
    for first in range(0, len(series), step):
        volumes: dict[int, NDArray[Any]] = {}
        series.for_each(volumes.__setitem__, first, min(first + step, len(series)))
        ordered = [_flat(volumes[i]) for i in sorted(volumes)]

        def add(start: int, stop: int, ordered: list[NDArray[Any]] = ordered) -> None:
            for values in ordered:
                add_values(values[start:stop], flat[start:stop])

        run_blocks(add, flat.size, least=_WORTH_A_THREAD)


def _flat(volume: NDArray[Any]) -> NDArray[Any]:
    """Return values with x fastest, in a type that the kernel knows."""
    dtype = volume.dtype.newbyteorder("=") if _is_known(volume.dtype) else np.float64
    return np.ascontiguousarray(volume.T, dtype).reshape(-1)


def _is_known(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" or dtype.newbyteorder("=") in (np.float32, np.float64)
