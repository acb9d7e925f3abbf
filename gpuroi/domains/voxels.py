"""The voxels inside a mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array
from gpuroi.backends.graph import Graph
from gpuroi.domains.domain import on_host, read_only
from gpuroi.domains.voxel_geometry import checked_affine, neighbour_offsets, voxel_mm3
from gpuroi.errors import DataError, UsageError

__all__ = ["VoxelGrid"]

_VOXELS_AT_ONCE = 32_768  # 26 places of 8 bytes each: 7 MB, which stay in cache


@dataclass(frozen=True, eq=False, init=False, repr=False)
class VoxelGrid:
    """Voxels of a mask, in C order of the volume, and their 6, 18 or 26 neighbours.

    Parameters
    ----------
    mask : array, shape (X, Y, Z)
        Non-zero inside. NumPy or CuPy; kept on the host.
    affine : array, shape (4, 4), optional
        Voxel indices to mm. Needed for weights in mm3.
    connectivity : {6, 18, 26}, default 6
        Neighbours of a voxel: faces; and edges; and corners. Neighbours outside the mask do not count.
    weights : {"voxels", "mm3"}, default "voxels"
        What the size of a cluster counts: 1 a voxel, or its volume.

    Attributes
    ----------
    mask : bool array, shape (X, Y, Z)
    affine : float64 array, shape (4, 4), or None
    connectivity : int
    unit : str
        As given in `weights`.
    n_elements : int
        Voxels inside.

    Raises
    ------
    UsageError
        Any other connectivity or weights; mm3 without an affine.
    DataError
        A mask that is not three-dimensional, holds NaN or no voxel at all; an affine that is none.

    Notes
    -----
    Nothing can be changed afterwards. Neighbours are found when first asked for, then kept: 26 of them for 235 000
    voxels are 25 MB.

    Examples
    --------
    >>> grid = VoxelGrid(np.array([[[1, 1, 0, 1]]]))
    >>> grid.n_elements, grid.indptr.tolist(), grid.indices.tolist()
    (3, [0, 1, 2, 2], [1, 0])
    >>> grid.to_volume(np.array([5.0, 6.0, 7.0]))
    array([[[5., 6., 0., 7.]]])
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64] | None
    connectivity: int
    unit: str
    n_elements: int

    def __init__(
        self, mask: Any, affine: ArrayLike | None = None, connectivity: int = 6, *, weights: str = "voxels"
    ) -> None:
        inside = _checked_mask(mask)
        matrix = checked_affine(affine)
        neighbour_offsets(connectivity)  # raises for any other number
        if weights not in ("voxels", "mm3"):
            raise UsageError(f"weights is {weights!r}", 'use "voxels" or "mm3"')
        if weights == "mm3" and matrix is None:
            raise UsageError('weights "mm3" need the affine', "pass affine=img.affine")
        vars(self).update(
            mask=inside,
            affine=matrix,
            connectivity=int(connectivity),
            unit=weights,
            n_elements=int(np.count_nonzero(inside)),
        )

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return f"voxel grid {'x'.join(map(str, self.mask.shape))}"

    @cached_property
    def graph(self) -> Graph:
        """Neighbours and weights; built when first asked for, then kept."""
        indptr, indices = _neighbours(self.mask, neighbour_offsets(self.connectivity))
        return Graph(read_only(indptr), read_only(indices), self.weights)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """1 a voxel, or its volume in mm3; float64, shape (v,)."""
        each = 1.0 if self.unit == "voxels" or self.affine is None else voxel_mm3(self.affine)
        return read_only(np.full(self.n_elements, each))

    @property
    def indptr(self) -> NDArray[np.int64]:
        """Where the neighbours of each voxel begin in `indices`; int64, shape (v + 1,)."""
        return self.graph.indptr

    @property
    def indices(self) -> NDArray[np.int32]:
        """Neighbours, ascending in each row; int32."""
        return self.graph.indices

    def with_connectivity(self, connectivity: int) -> VoxelGrid:
        """Return the same grid with other neighbours, or itself if they are the same."""
        if connectivity == self.connectivity:
            return self
        return VoxelGrid(self.mask, self.affine, connectivity, weights=self.unit)

    def to_volume(self, values: Any, fill: float = 0) -> Array:
        """Put the values of the voxels back into volumes.

        Parameters
        ----------
        values : array, shape (..., v)
            NumPy or CuPy.
        fill : number, default 0
            What stands outside the mask.

        Returns
        -------
        array, shape (..., X, Y, Z)
            In C order; dtype and device of `values`.

        Raises
        ------
        DataError
            If the last axis is not v long, or the dtype cannot hold `fill`.
        """
        backend = backend_of(values)
        xp = backend.xp
        values = values if backend.owns(values) else np.asarray(values)
        if values.ndim == 0 or values.shape[-1] != self.n_elements:
            raise DataError(f"values have shape {tuple(values.shape)}, but the mask holds {self.n_elements} voxels")
        if not _holds(values.dtype, fill):
            raise DataError(f"values of dtype {values.dtype} cannot hold fill {fill}", "convert them to floats first")
        lead = tuple(values.shape[:-1])
        with backend.activate():
            volumes = xp.full((*lead, self.mask.size), fill, dtype=values.dtype)
            volumes[..., backend.asarray(np.flatnonzero(self.mask))] = values
        return volumes.reshape((*lead, *self.mask.shape))

    def from_volume(self, volumes: Any) -> Array:
        """Take the values of the voxels out of volumes.

        Parameters
        ----------
        volumes : array, shape (..., X, Y, Z)
            NumPy or CuPy, in C or Fortran order: neither is copied as a whole.

        Returns
        -------
        array, shape (..., v)
            In C order; dtype and device of `volumes`.

        Raises
        ------
        DataError
            If the volumes do not have the shape of the mask.
        """
        backend = backend_of(volumes)
        volumes = volumes if backend.owns(volumes) else np.asarray(volumes)
        if tuple(volumes.shape[-3:]) != self.mask.shape:
            raise DataError(f"volumes have shape {tuple(volumes.shape)}, but the mask has {self.mask.shape}")
        lead, axes = tuple(volumes.shape[:-3]), tuple(range(volumes.ndim - 3))
        place = np.nonzero(self.mask)
        turned = volumes.transpose((*axes, -1, -2, -3))
        if turned.flags.c_contiguous and not volumes.flags.c_contiguous:  # NIfTI's layout: a view, not a copy
            volumes, place = turned, place[::-1]
        columns = np.ravel_multi_index(place, tuple(volumes.shape[-3:]))
        with backend.activate():
            return backend.xp.take(volumes.reshape((*lead, self.mask.size)), backend.asarray(columns), axis=-1)

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the results has to know, in types that JSON has."""
        return {
            "domain": "voxels",
            "n_elements": self.n_elements,
            "shape": list(self.mask.shape),
            "affine": None if self.affine is None else self.affine.tolist(),
            "connectivity": self.connectivity,
            "weights": self.unit,
        }

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.mask.shape))
        return f"VoxelGrid({self.n_elements} of {shape} voxels, {self.connectivity} neighbours)"


def _checked_mask(mask: Any) -> NDArray[np.bool_]:
    """Return a read-only bool copy of the mask, in C order."""
    given = on_host(mask)
    if given.ndim != 3:
        raise DataError(f"mask has shape {given.shape}: expected (X, Y, Z)", "pass one volume, as in mask[..., 0]")
    if given.dtype.kind not in "biuf":
        raise DataError(f"mask has dtype {given.dtype}: expected bool or numbers, non-zero inside")
    if given.dtype.kind == "f" and np.isnan(given).any():
        raise DataError(f"mask holds NaN in {np.isnan(given).sum()} voxels", "say what they are: mask > 0")
    inside = np.array(given != 0, order="C")
    if not inside.any():
        raise DataError(f"mask of shape {given.shape} has no voxel inside", "non-zero is inside")
    return read_only(inside)


def _holds(dtype: Any, fill: float) -> bool:
    """Can a value of this dtype be `fill`?"""
    if dtype.kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= fill <= limits.max and fill == int(fill))


def _neighbours(mask: NDArray[np.bool_], offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the neighbours of the voxels of a mask as compressed sparse rows.

    Offsets ascend and elements are numbered in the same order, so that the neighbours of a voxel come out sorted.
    """
    padded = np.pad(mask, 1)  # one voxel around, so that no step leaves the volume or enters the next row
    _, y, z = padded.shape
    steps = offsets @ np.array([y * z, z, 1])
    place = np.flatnonzero(padded)
    inside = padded.reshape(-1)
    number = np.full(padded.size, -1, np.int32)
    number[place] = np.arange(len(place), dtype=np.int32)
    # Counted first, one half of the steps standing for both: growing the array would need it twice.
    n_pairs = 2 * sum(int(np.count_nonzero(inside[place + step])) for step in steps[steps > 0])
    indices = np.empty(n_pairs, np.int32)
    indptr = np.zeros(len(place) + 1, np.int64)
    filled = 0
    for start in range(0, len(place), _VOXELS_AT_ONCE):
        near = number[place[start : start + _VOXELS_AT_ONCE, None] + steps]  # (voxels, connectivity)
        found = near >= 0
        rows = near[found]
        indices[filled : filled + len(rows)] = rows
        filled += len(rows)
        indptr[start + 1 : start + 1 + len(near)] = found.sum(axis=1)
    np.cumsum(indptr, out=indptr)
    return indptr, indices
