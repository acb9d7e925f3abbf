"""What a permutation test makes of the data before anything is rearranged: residuals and observed statistics."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError
from gpuroi.inference.columns import ColumnSource, StoredColumns
from gpuroi.inference.heteroscedastic import GroupVariances
from gpuroi.inference.permutation_result import DomainMaps, Observed
from gpuroi.inference.permutation_settings import PlannedTest
from gpuroi.inference.projection import (
    BATCH,
    Projection,
    Rearranged,
    Source,
    batch_of,
    block_of,
    for_each_block,
    product_block,
    residuals,
)
from gpuroi.inference.share_counter import ShareCounter
from gpuroi.inference.sign_flip_group import GroupFlips, SignFlipGroup

__all__ = ["PermutationRun"]

_GROUP_BATCH = 256  # flips of a group in one transform on the CPU, where no maps are kept: the data are read less often
_TIE = 32  # rounding errors that two statistics may differ by and still count as equal


class PermutationRun:
    """A test that is ready to be counted on one device.

    Parameters
    ----------
    backend : Backend
    data : array or ColumnSource, shape (n, v)
    planned : PlannedTest
    method : str
    dtype : dtype
        Of residuals and statistics.
    variance_groups : array, shape (n,), optional
    scratch : Path, optional
        Folder for the residuals.

    Attributes
    ----------
    e : array or StoredColumns, shape (n, w)
        Residuals of the elements that have a statistic.
    compared : array, shape (w,)
        The observed statistic as it is compared: t or F; z where groups have variances of their own.
    mapped : array, shape (w,)
        The same by the product that the others go through: clusters and TFCE of rearrangements that only turn the sign
        of every t are then equal to the last bit.
    least : array, shape (w,)
        What a rearranged statistic has to reach to count.
    source : Source
        Of the statistics of rearrangements.
    counter : ShareCounter
        What counts them.
    """

    def __init__(
        self,
        backend: Backend,
        data: Array | ColumnSource,
        planned: PlannedTest,
        method: str,
        *,
        dtype: np.dtype[Any],
        variance_groups: Any = None,
        scratch: Path | None = None,
    ) -> None:
        part, plan, arrangements, flips = planned.part, planned.plan, planned.arrangements, planned.signs
        self.backend, self.part, self.arrangements, self.plan = backend, part, arrangements, plan
        self.scratch, self.method, self.variance_groups = scratch, method, variance_groups
        self.e, self.kept, self.along, length = residuals(backend, data, part, dtype, scratch=scratch)
        self.df: Any = float(part.df)
        self.batch = batch_of(backend.name, needs_maps=plan.needs_maps) if variance_groups is None else BATCH
        self.statistic: Array | None = None  # v or G, where `compared` is its z
        if variance_groups is None:
            block = product_block(backend, self.e)
            projection = Projection.of(part, method, flips=flips)
            e = self.e if method != "ter-braak" else self._full_model_residuals(data)
            self.source: Source = Rearranged(backend, e, projection, self.batch, block)
            self.compared = self._plain_statistic(length)
            plain = Rearranged(backend, self.e, Projection.of(part, "freedman-lane", flips=flips), BATCH, block)
            self.mapped = self._first_row(plain) if plan.needs_maps else self.compared
            if isinstance(arrangements, SignFlipGroup) and method != "draper-stoneman":
                self.batch = BATCH if plan.needs_maps or backend.name != "cpu" else _GROUP_BATCH
                self.source = GroupFlips(backend, e, projection, self.batch, block, arrangements)
        else:
            self._leave_out_without_variance(variance_groups, method)
            grouped = GroupVariances.of(backend, self.e, part, variance_groups, method)
            self.source = grouped
            self.statistic, self.df = grouped.observed()
            self.compared = self.mapped = self._first_row(self.source)
        self.least = self._least(self.compared)
        on_domain = DomainMaps(backend, self.kept, plan, part, as_z=variance_groups is not None)
        self.counter = ShareCounter(
            backend, self.source, arrangements, plan, self.batch, self.compared, self.mapped, self.least, on_domain
        )

    @property
    def n(self) -> int:
        """Rearrangements, the identity counted."""
        return self.arrangements.n

    def observed(self) -> Observed:
        """Return what p-values need beside the counts, on the host."""
        host = self.backend.to_numpy
        with self.backend.activate():
            effect = None if self.part.kind == "F" else host(self.along[0]) * self.part.effect_factor[0, 0]
            return Observed(
                kept=self.kept,
                compared=host(self.compared),
                mapped=host(self.mapped),
                least=host(self.least),
                effect=effect,
                statistic=None if self.statistic is None else host(self.statistic),
                df=self.df if self.statistic is None else host(self.df),
            )

    def _first_row(self, source: Source) -> Array:
        """The observed statistic, by the product or the fit that the others go through."""
        first = self.backend.xp.empty(self.e.shape[1], dtype=self.e.dtype)

        def keep(part: slice, statistics: Array) -> None:
            first[part] = statistics[0]

        for_each_block(source, self.arrangements.rows(0, 1), keep)
        return first

    def _plain_statistic(self, length: Array) -> Array:
        """The observed t or F by sums in float64: in float32 1 - u^2 has too few digits where t is in the hundreds."""
        xp, df = self.backend.xp, float(self.part.df)
        u = self.along / length
        explained = (u * u).sum(axis=0)
        with np.errstate(divide="ignore"):
            rest = xp.maximum(1 - explained, 0)
            value = u[0] * xp.sqrt(df / rest) if self.part.kind == "t" else df / self.part.r * explained / rest
            return value.astype(self.e.dtype)

    @cached_property
    def key(self) -> str:
        """Digest of all that decides the result; made when a state is asked for: it reads the residuals once."""
        backend, part, plan, arrangements = self.backend, self.part, self.plan, self.arrangements
        some = np.unique(np.linspace(0, arrangements.n - 1, 256).astype(np.int64))
        rows = np.concatenate([arrangements.rows(k, k + 1) for k in some])
        graphs = [] if not plan.needs_maps else [*plan.domain.graph, *(plan.tfce_graph or ())]
        h = hashlib.sha256()
        block, stored = block_of(len(part.z)), isinstance(self.e, StoredColumns)
        for start in range(0, self.e.shape[1], block):
            columns = self.e[:, start : start + block]
            h.update(np.ascontiguousarray(columns if stored else backend.to_numpy(columns)).data)
        h.update(str((self.e.shape, self.e.dtype)).encode())
        for array in (
            backend.to_numpy(self.compared),
            self.kept,
            part.x_orth,
            part.z,
            rows,
            *graphs,
        ):
            h.update(np.ascontiguousarray(array).data)
            h.update(str((array.shape, array.dtype)).encode())
        n_distinct = hex(arrangements.n_distinct)  # of 1600 people there are too many for Python to write as decimals
        told = (self.method, arrangements.n, n_distinct, sorted(plan.describe().items()))
        h.update(repr(told).encode())
        return h.hexdigest()

    def _least(self, observed: Array) -> Array:
        """What a rearranged statistic has to reach to count, a few rounding errors below the observed one.

        The rounding is that of an inner product of unit vectors; how far it moves t or F depends on where they are.
        """
        xp = self.backend.xp
        unit = _TIE * float(np.finfo(observed.dtype).eps)
        if self.statistic is not None:  # z: rounding errors of the conversion
            size = xp.abs(observed) if self.plan.two_sided else observed
            return xp.where(xp.isinf(size), size, size - unit * (1 + xp.abs(size))).astype(observed.dtype)
        # Through the correlation u, t = u sqrt(df / (1 - u^2)): the first-order slack passes t itself where the fit is
        # nearly exact, and is inf where it is exact.
        per_r = self.part.df if self.part.kind == "t" else self.part.df / self.part.r
        value = observed.astype(np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            if self.part.kind == "t":
                u = xp.sign(value) / xp.sqrt(1 + per_r / (value * value))
                u = xp.maximum((xp.abs(u) if self.plan.two_sided else u) - unit, -1)
                return (u * xp.sqrt(per_r / ((1 - u) * (1 + u)))).astype(observed.dtype)
            u = xp.maximum(1 / xp.sqrt(1 + per_r / value) - 2 * unit, 0)
        return (per_r * u * u / ((1 - u) * (1 + u))).astype(observed.dtype)

    def _full_model_residuals(self, data: Array | ColumnSource) -> Array | StoredColumns:
        e, kept, _, _ = residuals(self.backend, data, self.part, self.e.dtype, full_model=True, scratch=self.scratch)
        if not np.array_equal(kept, self.kept):
            raise DataError(
                f"{int((kept != self.kept).sum())} elements are fitted exactly: ter Braak leaves nothing to rearrange",
                'use method="freedman-lane"',
            )
        return e

    def _leave_out_without_variance(self, variance_groups: Any, method: str) -> None:
        """Elements that are constant in one of the groups have no v."""
        statistic, _ = GroupVariances.of(self.backend, self.e, self.part, variance_groups, method).observed()
        good = self.backend.to_numpy(~self.backend.xp.isnan(statistic))
        if not good.any():
            raise DataError("no element varies in every variance group", "join groups, or leave out variance_groups")
        if not good.all():
            where = self.backend.asarray(np.flatnonzero(good))
            self.e, self.along = self.e[:, where], self.along[:, where]
            self.kept[np.flatnonzero(self.kept)[~good]] = False
