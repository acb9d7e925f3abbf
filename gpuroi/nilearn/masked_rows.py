"""Values of volumes in a mask, straight into a matrix: a volume a thread, never all of them in memory."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.memory import map_chunks
from gpuroi.backends.threads import run_blocks
from gpuroi.errors import GridError
from gpuroi.images import voxel_sizes_mm
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.niimg import image_name
from gpuroi.nilearn.volume_series import VolumeSeries, open_series
from gpuroi.ops import peak_bytes, smooth

__all__ = ["masked_series"]

_BATCH_BYTES = 1 << 29  # for the volumes that a device smooths at a time


def masked_series(
    imgs: Any,
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    dtype: DTypeLike | str | None = "f",
    smoothing_fwhm: Any = None,
    ensure_finite: bool = True,
    name: Any = "the mask",
) -> NDArray[Any]:
    """Read the values of images in a mask that is loaded; see `apply_mask`.

    Parameters
    ----------
    imgs : path, pattern, nibabel image, VolumeSeries, or (nested) list of images
    mask : bool array, shape (X, Y, Z)
    affine : array, shape (4, 4)
        Of the mask.
    dtype, smoothing_fwhm, ensure_finite
        As for `apply_mask`; `smoothing_fwhm` may be three widths.
    name : path or image
        What the mask is called in messages.

    Returns
    -------
    array, shape (n, v), or (v,) for a single 3-D image
    """
    series = imgs if isinstance(imgs, VolumeSeries) else open_series(imgs)
    _check_mask_grid(series, mask, affine, name)
    fwhm = _width(smoothing_fwhm)
    target = _target_dtype(dtype, series)
    try:
        if fwhm is not None:
            rows = _smoothed_rows(series, mask, target, fwhm)
        else:
            rows = _rows(series, mask, target, ensure_finite=ensure_finite)
    finally:
        series.release()
    return rows if series.is_4d else np.asarray(rows[0])


def _check_mask_grid(
    series: VolumeSeries, mask: NDArray[np.bool_], affine: NDArray[np.float64], mask_name: Any
) -> None:
    names = f"({series.name}; mask: {mask_name if isinstance(mask_name, str) else image_name(mask_name)})"
    if not np.allclose(affine, series.affine):
        raise GridError(
            f"Mask affine:\n{affine}\n is different from img affine:\n{series.affine}\n{names}",
            "resample one to the grid of the other first",
        )
    if mask.shape != series.shape:
        raise GridError(
            f"Mask shape: {mask.shape}\n is different from img shape:{series.shape}\n{names}",
            "resample one to the grid of the other first",
        )


def _width(fwhm: Any) -> Any:
    if isinstance(fwhm, numbers.Real) and fwhm == 0:
        exceptions.warn(
            f"The parameter 'fwhm' for smoothing is specified as {fwhm}. "
            "Setting it to None (no smoothing will be performed)"
        )
        return None
    return fwhm


def _target_dtype(dtype: DTypeLike | str | None, series: VolumeSeries) -> np.dtype[Any]:
    if dtype is not None and not (isinstance(dtype, str) and dtype == "f"):
        return np.dtype(dtype)
    return series.dtype if dtype is None or series.dtype.kind == "f" else np.dtype(np.float32)


def _rows(series: VolumeSeries, mask: NDArray[np.bool_], target: np.dtype[Any], *, ensure_finite: bool) -> NDArray[Any]:
    rows = np.empty((len(series), np.count_nonzero(mask)), target)
    array = series.array
    if array is not None and array.ndim == 4 and array.strides[3] == array.itemsize:
        _columns(array, mask, rows, ensure_finite)  # the values of a voxel lie together
        return rows
    if len(series) == 1:
        _convert(series.volume(0)[mask], rows[0], ensure_finite)
        return rows
    places = _places(mask)

    def fill(i: int, volume: NDArray[Any]) -> None:
        _take(volume, places, rows[i], ensure_finite)

    series.for_each(fill)
    return rows


def _columns(array: NDArray[Any], mask: NDArray[np.bool_], rows: NDArray[Any], ensure_finite: bool) -> None:
    """Fill rows from data whose volumes are interleaved, some voxels at a time."""
    edges = np.cumsum([0, *(np.count_nonzero(plane) for plane in mask)])

    def fill(start: int, stop: int) -> None:
        for x in range(start, stop):
            _convert(array[x][mask[x]].T, rows[:, edges[x] : edges[x + 1]], ensure_finite)

    run_blocks(fill, len(mask))


def _smoothed_rows(series: VolumeSeries, mask: NDArray[np.bool_], target: np.dtype[Any], fwhm: Any) -> NDArray[Any]:
    rows = np.empty((len(series), np.count_nonzero(mask)), target)
    work = target if target in (np.float32, np.float64) else np.dtype(np.float64)
    x, y, z = (float(size) for size in voxel_sizes_mm(series.affine))
    backend, places = get_backend("auto"), _places(mask)
    if backend.name == "cpu":

        def fill(i: int, volume: NDArray[Any]) -> None:
            _take(smooth(_finite(volume, work), fwhm, (x, y, z)), places, rows[i], False)

        series.for_each(fill)  # volume by volume: each stays in the cache of its processor
        return rows

    def batch(part: slice) -> None:
        volumes = np.empty((part.stop - part.start, *series.shape[::-1]), work).transpose(0, 3, 2, 1)
        series.for_each(lambda i, v: _convert(v, volumes[i - part.start], True), part.start, part.stop)
        smoothed = smooth(backend.asarray(volumes), fwhm, (x, y, z))
        flat = smoothed.transpose(0, 3, 2, 1).reshape(len(volumes), -1)
        rows[part] = backend.to_numpy(flat[:, taken])

    shape = (1, *series.shape)
    needed = mask.size * work.itemsize + peak_bytes("smooth", shape, work, device=backend.name)
    with backend.activate():
        taken = backend.asarray(places)
        map_chunks(batch, len(series), needed, backend=backend, limit=_BATCH_BYTES)
    return rows


def _finite(volume: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A copy of a volume, x fastest, NaN and infinity as 0."""
    out = np.empty(volume.shape[::-1], dtype).T
    _convert(volume, out, True)
    return out


def _places(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the voxels of a mask, in C order, lie in a volume with x fastest."""
    x, y, z = np.nonzero(mask)
    nx, ny, _ = mask.shape
    return np.asarray(x + nx * (y + ny * z))


def _take(volume: NDArray[Any], places: NDArray[np.int64], out: NDArray[Any], ensure_finite: bool) -> None:
    """Copy the values at some places, x fastest, into a row."""
    flat = volume.T.reshape(-1)  # a view of what was read from a file
    if flat.dtype == out.dtype:
        flat.take(places, out=out, mode="clip")  # the default mode would take a copy first; all places are inside
        _convert(out, out, ensure_finite)
    else:
        _convert(flat.take(places), out, ensure_finite)


def _convert(values: NDArray[Any], out: NDArray[Any], ensure_finite: bool) -> None:
    """Copy values into another type; floats beyond its range are infinite, hence 0 if `ensure_finite`."""
    if ensure_finite and values.dtype.kind == "f" and out.dtype.kind != "f":
        values = np.where(np.isfinite(values), values, 0)
    if values is not out:
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="unsafe")
    if ensure_finite and out.dtype.kind == "f" and values.dtype.kind == "f":
        broken = ~np.isfinite(out)
        if broken.any():
            out[broken] = 0
