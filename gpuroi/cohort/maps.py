"""The maps of a cohort as one matrix, participants by voxels of the mask."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.memory import host_free_bytes, parse_bytes
from gpuroi.backends.threads import limited_threads, n_threads
from gpuroi.cohort.bad_inputs import BadInput
from gpuroi.cohort.grid_check import HasMaps, in_threads, open_maps, read_grid, refuse
from gpuroi.cohort.missing import Coverage, MissingData, MissingRule, apply_missing, is_present
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.columns import StoredColumns
from gpuroi.inference.projection import block_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

    from gpuroi.domains import VoxelGrid
    from gpuroi.images.read import Image

__all__ = ["CohortMaps", "MapReader", "bytes_allowed", "common_dtype", "kept_grid", "maps_peak_bytes", "read_maps"]

_log = logging.getLogger("gpuroi")
_SHARE_OF_FREE = 0.8
_BATCH_BYTES = 64 << 20  # of rows that are read before they go to the scratch file


@dataclass(frozen=True, eq=False)
class CohortMaps:
    """Maps of a cohort, masked.

    Attributes
    ----------
    ids : list of str
        Participants, in the order of the rows.
    mask : VoxelGrid
        The voxels that stay, in the order of the columns.
    data : array or ColumnSource, shape (n, v)
        A matrix in memory, or one on disk that gives its columns.
    affine : float64 array, shape (4, 4)
    n_per_element : int64 array, shape (v,)
        Maps that have each voxel: the N map, `mask.to_volume(n_per_element)`.
    coverage : Coverage
        What was left out, filled or kept.
    like : Image or None
        Whose header the results take their space codes from.
    """

    ids: list[str] = field(repr=False)
    mask: VoxelGrid = field(repr=False)
    data: Any = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False)
    coverage: Coverage = field(repr=False)
    like: Image | None = field(default=None, repr=False)

    @property
    def n_per_element(self) -> NDArray[np.int64]:
        """Maps that have each voxel."""
        return self.coverage.n_per_element

    @property
    def shape(self) -> tuple[int, int]:
        """Participants and voxels."""
        return len(self.ids), self.mask.n_elements


def read_maps(
    participants: HasMaps,
    mask: Any,
    *,
    missing_data: MissingRule = "drop-voxel",
    min_coverage: float = 0.9,
    zero_is_missing: bool = False,
    smoothing_fwhm_mm: float | None = None,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CohortMaps:
    """Read the maps of all participants into one matrix, in parallel and one volume a thread at a time.

    Parameters
    ----------
    participants : Participants
        Anything with `ids` and `maps`. Row i of the matrix is map i.
    mask : path, image or VoxelGrid
        Non-zero inside. All maps must lie on its grid.
    missing_data : {"drop-voxel", "mean", "pattern"}, default "drop-voxel"
        What happens to voxels that some maps lack, because a value is NaN or infinite: "drop-voxel" leaves them out;
        "mean" puts the mean of the other maps there; "pattern" keeps NaN.
    min_coverage : float, default 0.9
        Voxels that a smaller share of the maps has are left out under every rule.
    zero_is_missing : bool, default False
        Exact zeros are missing too.
    smoothing_fwhm_mm : float, optional
        Smooth each map, before it is masked. What a map lacks takes no part, and is missing afterwards too.
    dtype : dtype, optional
        Of the matrix. Default as stored: float32, float64 and integers of up to 16 bits stay; integers that are
        scaled or smoothed become float32; wider ones float64.
    threads : int, optional
        Default as the CPU kernels: GPUROI_NUM_THREADS, or the processors of this process.
    memory_limit : int or str, optional
        Bytes that this may allocate, as 400MB or 8GB; default 80 % of what is free. A matrix that is larger goes to a
        scratch file.
    scratch : path, optional
        Folder for that file; default the system's temporary folder. The file goes when the matrix does.
    progress : callable, optional
        Called with the number of maps read and of all maps, from any thread.

    Returns
    -------
    CohortMaps

    Raises
    ------
    DataError
        One for all maps that cannot be used, as `check_maps` finds them or found damaged when read; an empty mask; no
        voxel left.
    GridError
        If all that is wrong is that maps lie on another grid.
    UsageError
        If even one volume a thread is more than the memory limit.

    Notes
    -----
    `maps_peak_bytes` says what this takes. Nothing of the matrix depends on the number of threads or on where it lies.

    Examples
    --------
    >>> import nibabel, tempfile
    >>> from types import SimpleNamespace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [Path(folder, f"sub-{i}.nii") for i in range(3)]
    ...     for i, path in enumerate(paths):
    ...         nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), i, "f4"), np.eye(4)), path)
    ...     maps = read_maps(SimpleNamespace(ids=["a", "b", "c"], maps=paths), paths[1])
    >>> maps.data[:, 0].tolist(), maps.coverage.text
    ([0.0, 1.0, 2.0], 'all 3 maps have all 8 voxels of the mask')
    """
    how = MissingData(missing_data, min_coverage, zero_is_missing)
    reader = MapReader(participants, mask, smoothing_fwhm_mm=smoothing_fwhm_mm, dtype=dtype, threads=threads)
    stored = np.promote_types(reader.dtype, how.dtype(reader.dtype))
    matrix = _room(reader, stored, bytes_allowed(memory_limit), scratch)
    counts = _fill(reader, matrix, how, progress)
    data, coverage = apply_missing(matrix, how, counts=counts)
    return CohortMaps(
        ids=list(participants.ids),
        mask=kept_grid(reader.grid, coverage),
        data=data,
        affine=np.asarray(reader.grid.affine),
        coverage=coverage,
        like=reader.images[0],
    )


def maps_peak_bytes(
    n_maps: int,
    n_elements: int,
    shape: tuple[int, int, int],
    dtype: DTypeLike = np.float32,
    *,
    smoothing: bool = False,
    threads: int | None = None,
) -> int:
    """Return the bytes that `read_maps` allocates at its peak with the matrix in memory.

    Parameters
    ----------
    n_maps, n_elements : int
        Of the matrix; with `n_maps` 0 what the threads take alone.
    shape : (int, int, int)
        Of a map.
    dtype : dtype, default float32
        Of the matrix and of the files.
    smoothing : bool, default False
    threads : int, optional

    Examples
    --------
    >>> round(maps_peak_bytes(1000, 235_000, (91, 109, 91), threads=2) / 1e6)
    963
    """
    item = np.dtype(dtype).itemsize
    threads = threads or n_threads()
    voxels = int(np.prod(shape))
    # The file as it lies on disk, and inflated; smoothed: the floats, the result, the present and their share.
    volume = voxels * (2 * item + (5 * max(4, item) + 2 if smoothing else 0))
    return item * n_maps * n_elements + threads * (volume + item * n_elements) + 28 * n_elements


class MapReader:
    """Rows of the matrix, read when they are asked for.

    Parameters
    ----------
    participants, mask, smoothing_fwhm_mm, dtype, threads
        As in `read_maps`.

    Attributes
    ----------
    grid : VoxelGrid
    images : list of Image
        The maps, opened.
    dtype : dtype
        Of the rows.
    threads : int
    fwhm_mm : float or None
    largest_relative_error : float
        Of the values read so far that a narrower type has rounded, apart from those below its normal range.
    n_underflows : int
        Values read so far that are not zero, but below the normal range of the type.
    """

    def __init__(
        self,
        participants: HasMaps,
        mask: Any,
        *,
        smoothing_fwhm_mm: float | None = None,
        dtype: DTypeLike | None = None,
        threads: int | None = None,
    ) -> None:
        self.grid = read_grid(mask)
        self.ids = list(participants.ids)
        opened, bad = open_maps(participants, self.grid)
        refuse(bad, len(opened))
        self.images = [image for image in opened if image is not None]
        self.threads = threads or n_threads()
        self.fwhm_mm = smoothing_fwhm_mm or None
        self.largest_relative_error, self.n_underflows = 0.0, 0
        self._lock = threading.Lock()
        self.dtype = common_dtype(self.images, smoothed=self.fwhm_mm is not None) if dtype is None else np.dtype(dtype)
        # Voxels of the mask in C order, as places in a volume whose first axis is the fastest.
        size_x, size_y, _ = self.grid.mask.shape
        x, y, z = np.nonzero(self.grid.mask)
        self._places = x + size_x * (y + size_y * z)

    @property
    def shape(self) -> tuple[int, int]:
        """Maps and voxels of the mask."""
        return len(self.images), self.grid.n_elements

    def peak_bytes(self, n_rows: int) -> int:
        """Return what `read` takes at its peak, with `n_rows` rows in memory."""
        dtype = max((image.stored_dtype for image in self.images), key=lambda d: d.itemsize)
        widest = dtype if dtype.itemsize > self.dtype.itemsize else self.dtype
        beside = maps_peak_bytes(
            0, self.grid.n_elements, self.grid.mask.shape, widest, smoothing=bool(self.fwhm_mm), threads=self.threads
        )
        return beside + n_rows * self.grid.n_elements * self.dtype.itemsize

    def read(
        self,
        start: int,
        out: NDArray[Any],
        *,
        how: MissingData | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Read maps start, start + 1, ... into the rows of `out`.

        Parameters
        ----------
        start : int
        out : array, shape (r, v)
        how : MissingData, optional
            What counts as missing; default NaN and infinity.
        progress : callable, optional
            Called with the number of maps up to the last one read, and of all maps, from any thread.

        Returns
        -------
        lacking : int64 array, shape (v,)
            Maps, of these, that lack each voxel.
        per_map : int64 array, shape (r,)
            Voxels that each map lacks.

        Raises
        ------
        DataError
            One for all maps that turn out damaged.
        """
        how = how or MissingData()
        lacking, per_map = np.zeros(out.shape[1], np.int64), np.zeros(len(out), np.int64)

        def read_row(i: int) -> NDArray[np.int64] | BadInput:
            image = self.images[start + i]
            try:
                with limited_threads(1):
                    self._read_row(image, out[i], how)
            except DataError as error:
                found = error.message.removeprefix(f"{image.name}: ")
                return BadInput(self.ids[start + i], image.name, found, "a whole file")
            return np.flatnonzero(~is_present(out[i], zero_is_missing=how.zero_is_missing))

        told = None if progress is None else lambda done, _: progress(start + done, len(self.images))
        results = in_threads(read_row, len(out), self.threads, told)
        refuse([result for result in results if isinstance(result, BadInput)], len(self.images))
        for i, missing in enumerate(results):
            if not isinstance(missing, BadInput) and missing.size:
                lacking[missing] += 1
                per_map[i] = missing.size
        return lacking, per_map

    def _read_row(self, image: Image, row: NDArray[Any], how: MissingData) -> None:
        stored = _unscaled_dtype(image)
        read_as = stored if stored is not None and self.fwhm_mm is None else _float_for(image.stored_dtype, self.dtype)
        volume = image.read(dtype=None if read_as is stored else read_as)[0]
        if self.fwhm_mm is not None:
            volume = _smoothed(volume, self.fwhm_mm, image.zooms_mm, how)
        values = volume.reshape(-1, order="F")
        if values.dtype == row.dtype:
            np.take(values, self._places, out=row, mode="clip")  # "clip": without it NumPy copies the row twice
            return
        taken = values[self._places]
        _check_range(taken, row.dtype, image.name)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            row[:] = taken
        if row.dtype.kind == "f" and not np.can_cast(taken.dtype, row.dtype):
            self._note_rounding(taken, row)

    def _note_rounding(self, values: NDArray[Any], rounded: NDArray[Any]) -> None:
        size = np.abs(values.astype(np.float64))
        normal = np.isfinite(size) & (size >= float(np.finfo(rounded.dtype).smallest_normal))
        error = np.abs(rounded[normal] - values[normal].astype(np.float64)) / size[normal]
        with self._lock:
            self.largest_relative_error = max(self.largest_relative_error, float(error.max(initial=0.0)))
            self.n_underflows += int(np.count_nonzero(np.isfinite(size) & (size > 0) & ~normal))


def common_dtype(images: list[Image], *, smoothed: bool = False) -> np.dtype[Any]:
    """Return the type that holds all maps as they are stored, or the float that their scaled values take.

    Examples
    --------
    >>> import nibabel
    >>> from gpuroi.images import open_image
    >>> whole = nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4))
    >>> common_dtype([open_image(whole)]), common_dtype([open_image(whole)], smoothed=True)
    (dtype('uint8'), dtype('float32'))
    """
    found = {_unscaled_dtype(image) or _float_for(image.stored_dtype) for image in images}
    dtype = np.result_type(*found)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    if smoothed or (dtype.kind in "iu" and dtype.itemsize > 2):
        dtype = np.result_type(*(_float_for(one) for one in found))
    return dtype


def bytes_allowed(memory_limit: int | str | None) -> int:
    """Return the bytes that may be taken: the limit, or most of what is free."""
    return int(_SHARE_OF_FREE * host_free_bytes()) if memory_limit is None else parse_bytes(memory_limit)


def kept_grid(grid: VoxelGrid, coverage: Coverage) -> VoxelGrid:
    """Return the voxels that stay, as a grid."""
    if coverage.keep.all():
        return grid
    from gpuroi.domains import VoxelGrid

    return VoxelGrid(grid.to_volume(coverage.keep, fill=False), grid.affine, grid.connectivity, weights=grid.unit)


class _ScratchMatrix(StoredColumns):
    """A matrix in a temporary file, written by rows and read by columns; the file goes with the object."""

    def __init__(self, folder: str | os.PathLike[str] | None, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        room = tempfile.TemporaryDirectory(prefix="gpuroi-maps-", dir=folder)  # lives as long as self
        super().__init__(Path(room.name, "maps"), shape, dtype, block=block_of(shape[0]))  # as it is read
        weakref.finalize(self, room.cleanup)

    def write_rows(self, start: int, rows: NDArray[Any]) -> None:
        """Put whole rows in: one stretch of the file for every block of columns."""
        for first, last, offset, width in self._blocks(0, self.shape[1]):
            self._write(np.ascontiguousarray(rows[:, first:last]), offset + start * width * self.dtype.itemsize)


def _room(
    reader: MapReader, dtype: np.dtype[Any], limit: int, scratch: str | os.PathLike[str] | None
) -> NDArray[Any] | _ScratchMatrix:
    """Return where the matrix will lie: in memory, or in a scratch file if the limit asks for it."""
    n, v = reader.shape
    if reader.peak_bytes(0) + n * v * dtype.itemsize <= limit:
        return np.empty((n, v), dtype)
    needed = reader.peak_bytes(1)
    if needed > limit:
        raise UsageError(
            f"the memory limit is {limit / 1e6:.0f} MB, but reading takes {needed / 1e6:.0f} MB with "
            f"{reader.threads} threads, with the matrix on disk",
            "raise --memory-limit, or set GPUROI_NUM_THREADS=1",
        )
    _log.info(
        "%.1f GB of maps do not fit into memory: they lie in %s",
        n * v * dtype.itemsize / 1e9,
        scratch or tempfile.gettempdir(),
    )
    return _ScratchMatrix(scratch, (n, v), dtype)


def _fill(
    reader: MapReader,
    matrix: NDArray[Any] | _ScratchMatrix,
    how: MissingData,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read all maps into the matrix; return the maps that have each voxel, and the voxels that each map lacks."""
    n, v = reader.shape
    if isinstance(matrix, np.ndarray):
        lacking, per_map = reader.read(0, matrix, how=how, progress=progress)
        return n - lacking, per_map
    rows = np.empty((min(n, max(1, _BATCH_BYTES // (v * matrix.dtype.itemsize))), v), matrix.dtype)
    lacking, per_map = np.zeros(v, np.int64), np.zeros(n, np.int64)
    for start in range(0, n, len(rows)):
        part = rows[: n - start]
        some, per_map[start : start + len(part)] = reader.read(start, part, how=how, progress=progress)
        lacking += some
        matrix.write_rows(start, part)
    return n - lacking, per_map


def _smoothed(volume: NDArray[Any], fwhm_mm: float, zooms_mm: NDArray[np.float64], how: MissingData) -> NDArray[Any]:
    from gpuroi.ops.smooth import smooth

    size = (float(zooms_mm[0]), float(zooms_mm[1]), float(zooms_mm[2]))
    present = is_present(volume, zero_is_missing=how.zero_is_missing)
    if present.all():
        return np.asarray(smooth(volume, fwhm_mm, size))
    smoothed = np.asarray(smooth(volume, fwhm_mm, size, mask=present))
    smoothed[~present] = 0 if how.zero_is_missing else np.nan
    return smoothed


def _unscaled_dtype(image: Image) -> np.dtype[Any] | None:
    """Type of the voxels in native byte order, None where they are scaled (or might be, which headers do not say)."""
    header = image.header
    if hasattr(header, "get_slope_inter"):
        slope, inter = header.get_slope_inter()
        is_plain = (slope is None or slope == 1) and not inter
    else:
        is_plain = not hasattr(header, "get_data_scaling") and type(header).__name__ in ("MGHHeader", "AnalyzeHeader")
    return image.stored_dtype.newbyteorder("=") if is_plain else None


def _float_for(stored: np.dtype[Any], wanted: np.dtype[Any] | None = None) -> np.dtype[Any]:
    """float64 for what float32 does not hold, or where it is wanted."""
    wide = (stored.kind == "f" and stored.itemsize > 4) or (stored.kind in "iu" and stored.itemsize > 2)
    return np.dtype(np.float64 if wide or wanted == np.float64 else np.float32)


def _check_range(values: NDArray[Any], dtype: np.dtype[Any], name: str) -> None:
    """Refuse values that the type of the matrix does not hold: rounding is allowed, infinity and wrapping are not."""
    if np.can_cast(values.dtype, dtype):
        return
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if dtype.kind == "f":
        beyond = np.abs(finite.astype(np.float64)) > float(np.finfo(dtype).max)
        wrong = "beyond the range"
    else:
        limits = np.iinfo(dtype)
        beyond = (finite != np.rint(finite)) | (finite < limits.min) | (finite > limits.max)
        wrong = "not whole numbers in the range"
        if finite.size < values.size:
            raise DataError(f"{name}: NaN or infinity, which {dtype} does not hold", "store floats: --dtype float32")
    if beyond.any():
        raise DataError(
            f"{name}: {np.count_nonzero(beyond):,} values {wrong} of {dtype}, such as {finite[beyond][0]:.6g}",
            "use a wider type: --dtype float32",
        )
