"""One number for each region in each volume: sums, means, deviations, extremes, medians."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.backends.base import Backend
from gpuroi.backends.threads import run_blocks
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.volume_series import VolumeSeries

__all__ = ["STRATEGIES", "summarise"]

STRATEGIES = ("maximum", "mean", "median", "minimum", "standard_deviation", "sum", "variance")
_BLOCK_BYTES = 1 << 27  # of values held at once
_EXACT_IN_FLOAT32 = ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16")


def summarise(series: VolumeSeries, columns: NDArray[np.int32], n_regions: int, strategy: str) -> NDArray[np.float64]:
    """Summarise the voxels of each region in each volume.

    Parameters
    ----------
    series : VolumeSeries
        Read a block of volumes at a time. NaN and infinite values in regions count as 0, with a warning.
    columns : int32 array, shape (X, Y, Z)
        1..n_regions, every one of which occurs; 0 is no region.
    n_regions : int
    strategy : str
        One of `STRATEGIES`.

    Returns
    -------
    float64 array, shape (n_volumes, n_regions)
        Sums are taken in float64, in a fixed order.
    """
    backend = get_backend("auto")
    signals = np.empty((len(series), n_regions))
    dtype = np.dtype(np.float32 if series.dtype.name in _EXACT_IN_FLOAT32 else np.float64)
    replaced = False
    with backend.activate():
        if _is_interleaved(series.array):
            for part, regions, sizes in _regions_together(series.array, columns, dtype):
                column = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
                signals[:, regions], some = _of_rows(backend, part, column, len(sizes), strategy)
                replaced |= some
        else:
            column, order = columns.ravel(order="F"), None
            if strategy == "median":
                order, _ = _by_region(column)
                column = column[order]
            for start, rows in _volumes(series, dtype, whole=backend.name == "cpu"):
                taken = rows if order is None else _taken(rows, order)
                found, some = _of_rows(backend, taken, column, n_regions, strategy)
                signals[start : start + len(rows)] = found
                replaced |= some
    if replaced:
        exceptions.warn("Non-finite values detected. These values will be replaced with zeros.")
    return signals


def _volumes(series: VolumeSeries, dtype: np.dtype[Any], *, whole: bool) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the first volume and the rows (n, v) of one block after the other; voxels in Fortran order.

    `whole`: what lies in memory in that order is one block.
    """
    n, v = len(series), math.prod(series.shape)
    size = max(4, _BLOCK_BYTES // max(1, v * dtype.itemsize) // 4 * 4)  # sums are taken of four rows at once
    array = series.array
    if array is not None and array.dtype == dtype and array.flags.f_contiguous and array.ndim == 4:
        rows = array.reshape((v, n), order="F").T
        size = n if whole else size
        for start in range(0, n, size):
            yield start, rows[start : start + size]
        return
    block = np.empty((min(size, n), v), dtype)
    for start in range(0, n, size):
        stop = min(n, start + size)

        def fill(index: int, volume: NDArray[Any]) -> None:
            np.copyto(block[index - start].reshape(series.shape[::-1]).T, volume, casting="same_kind")  # noqa: B023

        series.for_each(fill, start, stop)
        yield start, block[: stop - start]
    series.release()


def _is_interleaved(array: NDArray[Any] | None) -> bool:
    """Are the values of one voxel in all volumes neighbours in memory?"""
    return array is not None and array.ndim == 4 and array.shape[3] > 1 and array.flags.c_contiguous


def _regions_together(
    array: Any, columns: NDArray[np.int32], dtype: np.dtype[Any]
) -> Iterator[tuple[NDArray[Any], slice, NDArray[np.int64]]]:
    """Yield values (n, w) of some regions at a time, sorted by region, which regions, and the voxels of each."""
    values = array.reshape(-1, array.shape[3])  # (v, n)
    order, sizes = _by_region(columns.ravel())
    ends = np.cumsum(sizes)
    most = max(1, _BLOCK_BYTES // (values.shape[1] * dtype.itemsize))
    first = 0
    while first < len(sizes):
        start = int(ends[first] - sizes[first])
        last = max(first + 1, int(np.searchsorted(ends, start + most, side="right")))
        voxels = order[start : ends[last - 1]]
        part = np.empty((values.shape[1], len(voxels)), dtype)

        def fill(begin: int, end: int) -> None:
            for at in range(begin, end, 4096):  # a tile that stays in cache while it is turned
                tile = slice(at, min(end, at + 4096))
                part[:, tile] = values[voxels[tile]].T  # noqa: B023

        run_blocks(fill, len(voxels), least=4096)
        yield part, slice(first, last), sizes[first:last]
        first = last


def _by_region(flat: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of the voxels in regions, region by region, and how many each region has."""
    places = np.flatnonzero(flat)
    order = places[np.argsort(flat[places], kind="stable")]
    return order, np.bincount(flat[places])[1:].astype(np.int64)


def _taken(rows: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    taken = np.empty((len(rows), len(order)), rows.dtype)

    def take(start: int, stop: int) -> None:
        np.take(rows[start:stop], order, axis=1, out=taken[start:stop], mode="clip")

    run_blocks(take, len(rows))
    return taken


def _of_rows(
    backend: Backend, rows: NDArray[Any], column: NDArray[np.int32], n_regions: int, strategy: str
) -> tuple[NDArray[np.float64], bool]:
    """Summarise rows (n, w), and say whether some values were not finite; for medians they are sorted by region."""
    rows = np.ascontiguousarray(rows)
    sums, sizes = _sums(backend, rows, column, n_regions)
    replaced = False
    if not np.isfinite(sums).all():  # the sums say where to look: a value that is not finite leaves none that is
        broken = ~np.isfinite(rows) & (column > 0)
        replaced = bool(broken.any())  # else the sums of finite values are beyond float64
        rows = np.where(broken, rows.dtype.type(0), rows)
        sums, _ = _sums(backend, rows, column, n_regions)
    if strategy == "sum":
        return sums, replaced
    if strategy in ("minimum", "maximum"):
        return _extremes(rows, column, n_regions, strategy), replaced
    if strategy == "median":
        return _medians(rows, column), replaced
    means = sums / sizes
    if strategy == "mean":
        return means, replaced
    variance = _deviations(backend, rows, column, means) / sizes
    return (variance if strategy == "variance" else np.sqrt(variance)), replaced


def _sums(
    backend: Backend, rows: NDArray[Any], column: NDArray[np.int32], n_regions: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sums (n, n_regions) and the voxels of each region."""
    sums, sizes = backend.label_sums(backend.asarray(rows), backend.asarray(column), n_regions)
    return np.asarray(backend.to_numpy(sums)), np.asarray(backend.to_numpy(sizes))


def _deviations(
    backend: Backend, rows: NDArray[Any], column: NDArray[np.int32], means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sums of squared deviations from the mean, in a second pass."""
    if backend.name == "cpu":
        from gpuroi.backends.kernels.label_spread import label_deviations
        from gpuroi.backends.kernels.label_sums import labelled_runs

        begin, end, number = labelled_runs(column)
        sums = np.zeros(means.shape)
        run_blocks(lambda start, stop: label_deviations(rows, begin, end, number, means, sums, start, stop), len(rows))
        return sums
    place = backend.asarray(column)
    mean = backend.asarray(np.pad(means, ((0, 0), (1, 0))))  # a column for voxels of no region
    deviation = backend.asarray(rows).astype(np.float64) - mean[:, place]
    found, _ = backend.label_sums(deviation * deviation, place, means.shape[1])
    return np.asarray(backend.to_numpy(found))


def _extremes(rows: NDArray[Any], column: NDArray[np.int32], n_regions: int, strategy: str) -> NDArray[np.float64]:
    from gpuroi.backends.kernels.label_spread import label_extremes
    from gpuroi.backends.kernels.label_sums import labelled_runs

    begin, end, number = labelled_runs(column)
    sign = 1.0 if strategy == "maximum" else -1.0
    found = np.full((len(rows), n_regions), -np.inf)
    run_blocks(lambda start, stop: label_extremes(rows, begin, end, number, sign, found, start, stop), len(rows))
    return sign * found


def _medians(rows: NDArray[Any], column: NDArray[np.int32]) -> NDArray[np.float64]:
    edges = np.append(np.flatnonzero(np.diff(column, prepend=0)), len(column))
    medians = np.empty((len(rows), len(edges) - 1))

    def fill(start: int, stop: int) -> None:
        for region in range(len(edges) - 1):
            values = rows[start:stop, edges[region] : edges[region + 1]]
            middle = values.shape[1] // 2
            pair = (middle - 1 + values.shape[1] % 2, middle)
            ordered = np.partition(values, pair, axis=1)
            medians[start:stop, region] = (ordered[:, pair[0]] + ordered[:, pair[1]]) / 2

    run_blocks(fill, len(rows))
    return medians
