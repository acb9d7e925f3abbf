"""The voxels of all regions of a label image as one list, with their neighbours."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuroi.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["STEPS", "Beside", "RegionVoxels"]

_OUTSIDE_REGION, _OUTSIDE_VOLUME = -1, -2  # a voxel of the background, and no voxel

STEPS: list[tuple[int, int, int]] = [
    (x, y, z) for x, y, z in itertools.product((-1, 0, 1), repeat=3) if (x, y, z) != (0, 0, 0)
]
"""To the 26 neighbours."""


class Beside(NamedTuple):
    """What lies beside some voxels; each array has one entry a voxel."""

    near: NDArray[np.int32]
    """Index of the neighbour in the list; 0 where it is not in it."""

    fellow: NDArray[np.bool_]
    """Whether it is in the list, and of the same region."""

    in_volume: NDArray[np.bool_]
    """Whether there is a voxel at all."""


@dataclass(frozen=True, eq=False)
class RegionVoxels:
    """The voxels of all regions as a list, ascending in C order.

    Attributes
    ----------
    labels : int array, shape (X, Y, Z)
        0 outside; ids may have gaps.
    """

    labels: NDArray[Any]

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.dtype.kind not in "biu":
            raise UsageError(
                f"labels have shape {self.labels.shape} and dtype {self.labels.dtype}; expected integers (X, Y, Z)"
            )
        if self.labels.dtype.kind == "i" and self.labels.size and self.labels.min() < 0:
            raise UsageError(f"labels run from {self.labels.min()}; expected 0 outside and positive ids inside")

    @cached_property
    def place(self) -> NDArray[np.intp]:
        """Index of each voxel in the raveled volume; shape (v,)."""
        return np.flatnonzero(self.labels)

    @cached_property
    def _numbered(self) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        values = self.labels.ravel()[self.place]
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        largest = int(values.max(initial=0))
        if largest > 4 * values.size + 1024:
            ids, region = np.unique(values, return_inverse=True)
            return ids.astype(np.int64), region
        present = np.bincount(values.astype(np.intp, copy=False), minlength=largest + 1) > 0  # a sort takes ten times
        return np.flatnonzero(present), (np.cumsum(present) - 1)[values]

    @property
    def ids(self) -> NDArray[np.int64]:
        """The label of each region, ascending; shape (r,)."""
        return self._numbered[0]

    @property
    def region(self) -> NDArray[np.intp]:
        """Index into `ids` of each voxel's region; shape (v,)."""
        return self._numbered[1]

    @cached_property
    def ijk(self) -> NDArray[np.intp]:
        """Voxel indices; shape (v, 3)."""
        return np.stack(np.unravel_index(self.place, self.labels.shape), axis=1)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Voxels of each region; shape (r,)."""
        return np.bincount(self.region, minlength=len(self.ids)).astype(np.int64)

    def values(self, stat: NDArray[Any]) -> NDArray[Any]:
        """Return the values of a map on the same grid; shape (v,)."""
        if stat.shape != self.labels.shape:
            raise UsageError(
                f"labels have shape {self.labels.shape}, the map {stat.shape}; both must be on one grid",
                "resample one to the grid of the other first",
            )
        return stat.ravel()[self.place]

    @cached_property
    def _padded(self) -> tuple[NDArray[np.int32], tuple[int, int], NDArray[np.intp]]:
        """The list index of each place of a box around all regions, raveled; its strides; the places of the list."""
        low = self.ijk.min(axis=0) - 1
        high = self.ijk.max(axis=0) + 2
        shape = tuple(int(n) for n in high - low)
        inside = np.full(shape, _OUTSIDE_REGION, np.int32)
        for axis in range(3):
            ends = np.moveaxis(inside, axis, 0)
            if low[axis] < 0:
                ends[0] = _OUTSIDE_VOLUME
            if high[axis] > self.labels.shape[axis]:
                ends[-1] = _OUTSIDE_VOLUME
        strides = (shape[1] * shape[2], shape[2])
        shifted = self.ijk - low
        at = shifted[:, 0] * strides[0] + shifted[:, 1] * strides[1] + shifted[:, 2]
        inside = inside.ravel()
        inside[at] = np.arange(len(at), dtype=np.int32)
        return inside, strides, at

    def beside(self, voxels: NDArray[np.intp], step: tuple[int, int, int]) -> Beside:
        """Return what lies one step from some voxels of the list."""
        if not len(voxels):
            return Beside(np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, bool))
        inside, (stride_x, stride_y), at = self._padded
        x, y, z = step
        found = inside[at[voxels] + (x * stride_x + y * stride_y + z)]
        index = np.maximum(found, 0)
        return Beside(index, (found >= 0) & (self.region[index] == self.region[voxels]), found != _OUTSIDE_VOLUME)
