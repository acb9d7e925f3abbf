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
        the volumes, whatever the number of threads.

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
    total = np.zeros(series.shape[::-1]).T  # x fastest, as volumes are
    with np.errstate(invalid="ignore", over="ignore"):
        if array is not None and array.ndim == 4 and array.strides[3] == array.itemsize:
            _add_along(array, total)
        else:
            _add_up(series, total)
        total /= len(series)
        return total.astype(dtype)


def _add_along(array: NDArray[Any], total: NDArray[np.float64]) -> None:
    """Sum over the last axis, along which the values of a voxel lie together."""

    def add(start: int, stop: int) -> None:
        np.add.reduce(array[start:stop], axis=3, dtype=np.float64, out=total[start:stop])

    run_blocks(add, len(array))


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
    known = volume.dtype.kind in "iu" or volume.dtype.newbyteorder("=") in (np.float32, np.float64)
    return np.ascontiguousarray(volume.T, volume.dtype.newbyteorder("=") if known else np.float64).reshape(-1)
