"""The v and G statistics of rearranged data: groups of observations with variances of their own.

They have no short cut: every rearrangement is fitted anew, in blocks of elements. Their degrees of freedom differ
between elements and rearrangements, so they are compared as z with the same tail area.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.design import Partition
from gpuroi.inference.glm_blocks import Model, solve_block
from gpuroi.inference.projection import moved
from gpuroi.inference.zscore import f_to_z, t_to_z

__all__ = ["GroupVariances"]

_BLOCK = 4096  # elements at a time: their small covariance matrices are solved together


@dataclass(frozen=True)
class GroupVariances:
    """Statistics of rearranged residuals with one variance a group.

    Attributes
    ----------
    backend : Backend
    e : array, shape (n, w)
        Residuals without the nuisance, unit length.
    part : Partition
    model : Model
    """

    backend: Backend
    e: Array
    part: Partition
    model: Model

    @classmethod
    def of(cls, backend: Backend, e: Array, part: Partition, variance_groups: Any, method: str) -> GroupVariances:
        """Check the groups and set up."""
        given = np.asarray(variance_groups).reshape(-1)
        if given.size != len(part.z):
            raise DataError(
                f"variance_groups has {given.size} labels but data has {len(part.z)} rows",
                "give one label per subject",
            )
        if method != "freedman-lane":
            raise UsageError(f"variance groups go with Freedman-Lane, not with {method}", "leave out method")
        groups = np.unique(given, return_inverse=True)[1].astype(np.int64)
        model = Model.of(backend, part.basis, [part.contrast], [part.kind == "F"], groups)
        return cls(backend, e, part, model)

    def parts(self) -> list[slice]:
        """Blocks of elements."""
        w = self.e.shape[1]
        return [slice(start, min(w, start + _BLOCK)) for start in range(0, w, _BLOCK)]

    def prepare(self, rows: NDArray[np.int32]) -> Callable[[slice], Array]:
        """Statistics on the z scale, (k, part of w), of a block of elements; 0 where there is none."""
        xp = self.backend.xp

        def statistics(part: slice) -> Array:
            e = self.e[:, part].astype(np.float64)
            maps = []
            for row in rows:
                z = self._as_z(*self._fit(self._moved(e, row)))
                maps.append(xp.where(xp.isnan(z), 0.0, z).astype(self.e.dtype))
            return xp.stack(maps)

        return statistics

    def on(self, backend: Backend) -> GroupVariances:
        """The same on another device, which is the current one."""
        part, groups = self.part, self.model.groups
        model = Model.of(backend, part.basis, [part.contrast], [part.kind == "F"], groups)
        return GroupVariances(backend, moved(self.e, self.backend, backend), part, model)

    def observed(self) -> tuple[Array, Array]:
        """Observed v or G and their degrees of freedom, float64 (w,)."""
        xp = self.backend.xp
        found = [self._fit(self.e[:, part].astype(np.float64)) for part in self.parts()]
        return xp.concatenate([v for v, _ in found]), xp.concatenate([df for _, df in found])

    def _fit(self, y: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            estimates, _, _ = solve_block(self.model, y, [])
        return estimates[0].statistic, estimates[0].df

    def _as_z(self, statistic: Array, df: Array) -> Array:
        return t_to_z(statistic, df) if self.part.kind == "t" else f_to_z(statistic, self.part.r, df)

    def _moved(self, e: Array, row: NDArray[np.int32]) -> Array:
        """Residual i goes to place |row[i]| and takes its sign; a copy."""
        source = np.empty(len(row), np.int64)
        source[np.abs(row) - 1] = np.arange(len(row))
        sign = np.sign(row)[source].astype(np.float64)
        return e[self.backend.asarray(source)] * self.backend.asarray(sign)[:, None]
