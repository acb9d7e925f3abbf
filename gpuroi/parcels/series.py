"""The series of voxels, read from images: masked, smoothed and put one below the other."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.memory import map_chunks
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError
from gpuroi.images.grid import check_same_grid, voxel_sizes_mm
from gpuroi.images.masks import read_mask
from gpuroi.images.read import Image, open_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.backends.base import Array, Backend

__all__ = ["Series", "check_series", "is_images", "read_series", "standardized"]

_SMOOTHING_COPIES = 4  # of each volume on the device: what goes in, out, and between


@dataclass(frozen=True, eq=False)
class Series:
    """Series of voxels.

    Attributes
    ----------
    values : float32 array, shape (n, v)
        All volumes of all images, in the order given. Host.
    runs : tuple of slice
        Rows of each image.
    domain : VoxelGrid
        The voxels, in the order of the columns.
    like : Image
        The first image.
    """

    values: NDArray[np.float32]
    runs: tuple[slice, ...]
    domain: VoxelGrid
    like: Image

    def smoothed(self, fwhm_mm: Any, *, backend: Backend, memory_limit: int | None = None) -> Series:
        """Return the series smoothed among the voxels of the mask alone; see `read_series`."""
        values = self.values.copy()
        _smooth(values, fwhm_mm, self.domain, backend, memory_limit)
        return replace(self, values=values)


def is_images(given: Any) -> bool:
    """Tell images, or a list of them, from arrays.

    Examples
    --------
    >>> is_images("bold.nii.gz"), is_images(["a.nii", "b.nii"]), is_images(np.ones((2, 3)))
    (True, True, False)
    """
    first = given[0] if isinstance(given, (list, tuple)) and len(given) else given
    return isinstance(first, (str, os.PathLike, Image)) or (hasattr(first, "dataobj") and hasattr(first, "affine"))


def read_series(
    imgs: Any,
    mask: Any,
    *,
    connectivity: int,
    backend: Backend,
    fwhm_mm: Any = None,
    memory_limit: int | None = None,
    checked: bool = False,
) -> Series:
    """Read the voxels inside a mask from images.

    Parameters
    ----------
    imgs : image, path, pattern, or list of these
        3-D or 4-D, on one grid.
    mask : image, path, VoxelGrid or None
        None: the voxels that are finite and vary over time in every image; of single volumes, those that are finite.
    connectivity : {6, 18, 26}
    backend : Backend
        Where to smooth.
    fwhm_mm : float or three, optional
        Smooth with a Gaussian, among the voxels of the mask alone.
    memory_limit : int, optional
        Bytes to smooth with.
    checked : bool, default False
        Refuse series that are constant or not finite, before they are smoothed.

    Returns
    -------
    Series

    Raises
    ------
    DataError, GridError
        Images that cannot be read or lie on different grids; refused series.
    """
    images = open_images(imgs)
    check_same_grid(images[1:], reference=images[0])
    if isinstance(mask, VoxelGrid):
        domain = mask
    else:
        inside = _varying(images) if mask is None else read_mask(mask, images[0])
        domain = VoxelGrid(inside, images[0].affine, connectivity)
    if domain.mask.shape != images[0].shape:
        raise DataError(f"{images[0].name} has shape {images[0].shape}, but the mask has {domain.mask.shape}")
    ends = np.cumsum([image.n_volumes for image in images])
    runs = tuple(slice(int(end) - image.n_volumes, int(end)) for end, image in zip(ends, images, strict=True))
    values = np.empty((int(ends[-1]), domain.n_elements), np.float32)
    for image, rows in zip(images, runs, strict=True):
        _read_masked(image, domain, values[rows])
        if checked:
            check_series(values[rows], image.name, domain)
        if fwhm_mm is not None and np.any(np.asarray(fwhm_mm) > 0):
            _smooth(values[rows], fwhm_mm, domain, backend, memory_limit)
        image.release()
    return Series(values, runs, domain, images[0])


def check_series(values: Array, name: str, domain: Any = None) -> None:
    """Refuse series that are not finite, or constant over time.

    Parameters
    ----------
    values : array, shape (n, v)
        A single row is not asked to vary.
    name : str
        Of the image or the argument, for the message.
    domain : VoxelGrid, optional
        Says where an element lies.

    Raises
    ------
    DataError
        With the number of such elements and the first of them.
    """
    low, high = values.min(axis=0), values.max(axis=0)
    broken = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if len(broken):
        raise DataError(
            f"{name}: {_counted(broken, values.shape[1], domain)} hold NaN or infinite values",
            "leave them out of the mask, or mend them",
        )
    constant = np.flatnonzero(low == high) if len(values) > 1 else np.empty(0, np.int64)
    if len(constant):
        raise DataError(
            f"{name}: {_counted(constant, values.shape[1], domain)} are constant over time",
            "leave them out of the mask; without a mask they are left out",
        )


def standardized(values: Array, runs: tuple[slice, ...]) -> Array:
    """Return the series with mean 0 and standard deviation 1 in each run; a run of one volume has mean 0 alone."""
    result = np.empty_like(values)
    for rows in runs:
        part = values[rows].astype(np.float64)
        part -= part.mean(axis=0)
        spread = part.std(axis=0)
        result[rows] = part / np.where(spread > 0, spread, 1)
    return result


def _counted(found: NDArray[np.int64], v: int, domain: Any) -> str:
    """How many elements, and where the first one is."""
    first = f"element {found[0]}"
    if isinstance(domain, VoxelGrid):
        place = np.unravel_index(np.flatnonzero(domain.mask)[found[0]], domain.mask.shape)
        first = f"voxel ({', '.join(str(int(i)) for i in place)})"
    return f"the series of {len(found)} of {v} elements (the first is {first})"


def _varying(images: list[Image]) -> NDArray[np.bool_]:
    """Return the voxels that are finite and vary over time in every image."""
    inside = np.ones(images[0].shape, np.bool_)
    for image in images:
        low = high = image.read(0, 1)[0]
        for volume in range(1, image.n_volumes):
            values = image.read(volume, volume + 1)[0]
            low, high = np.minimum(low, values), np.maximum(high, values)  # NaN stays
        inside &= np.isfinite(low) & np.isfinite(high)
        if image.n_volumes > 1:
            inside &= low != high
    if not inside.any():
        raise DataError(f"{images[0].name}: no voxel is finite and varies over time in every image", "check the images")
    return inside


def _read_masked(image: Image, domain: VoxelGrid, rows: NDArray[np.float32]) -> None:
    for volume in range(image.n_volumes):
        rows[volume] = domain.from_volume(image.read(volume, volume + 1)[0])


def _smooth(
    rows: NDArray[np.float32], fwhm_mm: Any, domain: VoxelGrid, backend: Backend, memory_limit: int | None
) -> None:
    from gpuroi.ops import smooth

    if domain.affine is None:
        raise UsageError("smoothing in mm needs the affine of the domain", "pass VoxelGrid(mask, affine)")
    x, y, z = (float(size) for size in voxel_sizes_mm(domain.affine))

    def work(part: slice) -> None:
        with backend.activate():
            volumes = domain.to_volume(backend.asarray(rows[part]))
            smoothed = smooth(volumes, fwhm_mm, (x, y, z), mask=backend.asarray(domain.mask))
            rows[part] = backend.to_numpy(domain.from_volume(smoothed))

    map_chunks(work, len(rows), 4 * _SMOOTHING_COPIES * domain.mask.size, backend=backend, limit=memory_limit)
