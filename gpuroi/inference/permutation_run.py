"""A permutation test under way: residuals, observed maps, and what has been counted so far."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError
from gpuroi.inference.columns import ColumnSource, StoredColumns
from gpuroi.inference.correct import fdr
from gpuroi.inference.design import Partition
from gpuroi.inference.heteroscedastic import GroupVariances
from gpuroi.inference.plan import StatisticsPlan
from gpuroi.inference.projection import (
    BATCH,
    Projection,
    Rearranged,
    Source,
    block_of,
    for_each_block,
    product_block,
    residuals,
)
from gpuroi.inference.rearrange import Rearrangements
from gpuroi.inference.result import PermutationResult, PermutationState
from gpuroi.inference.sign_flip_group import GroupFlips, SignFlipGroup
from gpuroi.inference.ztable import FZTable, ZTable

__all__ = ["PermutationRun"]

_GROUP_BATCH = 256  # flips of a group in one transform on the CPU, where no maps are kept: the data are read less often
_TIE = 32  # rounding errors that two statistics may differ by and still count as equal
_TIE_SUM = {"float32": 1e-5, "float64": 1e-10}  # relative difference at which sums over a cluster of ties are equal


class PermutationRun:
    """Rearranges, computes and counts, batch by batch.

    `observed` is the statistic as it is compared: t or F; z where groups have variances of their own. `mapped` is the
    same by the product that the others go through: clusters and TFCE of rearrangements that only turn the sign of every
    t are then equal to the last bit.
    """

    def __init__(
        self,
        backend: Backend,
        data: Array | ColumnSource,
        part: Partition,
        method: str,
        arrangements: Rearrangements | SignFlipGroup,
        plan: StatisticsPlan,
        *,
        dtype: np.dtype[Any],
        flips: bool,
        variance_groups: Any = None,
        scratch: Path | None = None,
    ) -> None:
        self.backend, self.part, self.arrangements, self.plan = backend, part, arrangements, plan
        self.scratch = scratch
        self.e, self.kept, self.along, length = residuals(backend, data, part, dtype, scratch=scratch)
        self.df: Any = float(part.df)
        self.batch = BATCH
        self.statistic: Array | None = None  # v or G, where `observed` is its z
        if variance_groups is None:
            block = product_block(backend, self.e)
            projection = Projection.of(part, method, flips=flips)
            e = self.e if method != "ter-braak" else self._full_model_residuals(data)
            self.source: Source = Rearranged(backend, e, projection, BATCH, block)
            self.observed = self._plain_statistic(length)
            plain = Rearranged(backend, self.e, Projection.of(part, "freedman-lane", flips=flips), BATCH, block)
            self.mapped = self._first_row(plain) if plan.needs_maps else self.observed
            if isinstance(arrangements, SignFlipGroup) and method != "draper-stoneman":
                if backend.name == "cpu" and not plan.needs_maps:
                    self.batch = _GROUP_BATCH
                self.source = GroupFlips(backend, e, projection, self.batch, block, arrangements)
        else:
            self._leave_out_without_variance(variance_groups, method)
            grouped = GroupVariances.of(backend, self.e, part, variance_groups, method)
            self.source = grouped
            self.statistic, self.df = grouped.observed()
            self.observed = self.mapped = self._first_row(self.source)
        self.where = None if self.kept.all() else backend.asarray(np.flatnonzero(self.kept))
        self.least = self._least(self.observed)
        self.method = method
        self.table = None if variance_groups is not None else _table(plan, part)
        self.counts = backend.xp.zeros(self.e.shape[1], dtype=np.int64)
        self.null = {name: np.full(arrangements.n, np.nan) for name in self._null_names()}
        self.tail_fit: dict[str, Any] = {}
        self.done = 0

    def run(
        self,
        progress: Callable[[int, int], None] | None,
        checkpoint: Callable[[PermutationState], None] | None,
        resume: PermutationState | None,
    ) -> None:
        """Go through all rearrangements, from the state that is resumed or from the identity."""
        if resume is not None:
            self._resume(resume)
        n = self.arrangements.n
        while self.done < n:
            stop = min(self.done + self.batch, n)
            self._batch(self.done, stop)
            self.done = stop
            if checkpoint is not None:
                checkpoint(self.state())
            if progress is not None:
                progress(stop, n)

    def state(self) -> PermutationState:
        """A copy of what has been counted."""
        counts = self.backend.to_numpy(self.counts).copy()
        return PermutationState(self.done, counts, {k: v.copy() for k, v in self.null.items()}, self.key)

    @property
    def n_left_out(self) -> int:
        """Elements without a statistic."""
        return int((~self.kept).sum())

    # ------------------------------------------------------------------ one batch

    def _batch(self, start: int, stop: int) -> None:
        backend, xp = self.backend, self.backend.xp
        rows = self.arrangements.rows(start, stop)
        largest: list[Array] = []  # of each block
        maps = xp.empty((len(rows), self.e.shape[1]), dtype=self.e.dtype) if self.plan.needs_maps else None

        def count(part: slice, statistics: Array) -> None:
            if maps is not None:
                maps[:, part] = statistics
            if start == 0:
                # The same but for the last digits, and for ter Braak, whose identity is the plain statistic.
                statistics[0] = self.observed[part]
            two_sided, counts = self.plan.two_sided, self.counts[part]
            largest.append(backend.exceedances(statistics, self.least[part], two_sided, counts))

        for_each_block(self.source, rows, count)
        self.null["max_stat"][start:stop] = backend.to_numpy(xp.stack(largest).max(axis=0))  # sync: reads k maxima
        if maps is not None:
            if start == 0:
                maps[0] = self.mapped
            self._neighbourhood_maxima(self._on_domain(maps), start, stop)

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

    def _neighbourhood_maxima(self, maps: Array, start: int, stop: int) -> None:
        """Largest cluster size, mass and TFCE of each map."""
        plan, backend = self.plan, self.backend
        if plan.cluster_threshold is not None:
            size, mass = backend.cluster_maxima(
                maps, plan.cluster_threshold, plan.domain.graph, plan.two_sided, True, plan.excess
            )
            self.null["max_size"][start:stop] = backend.to_numpy(size)
            self.null["max_mass"][start:stop] = backend.to_numpy(mass)
        if plan.tfce:
            step = _step(plan.tfce_step)
            _, best = backend.tfce(maps, plan.graph_for_tfce, *plan.tfce_exponents, step, plan.two_sided, False)
            self.null["max_tfce"][start:stop] = backend.to_numpy(best)

    def _on_domain(self, maps: Array) -> Array:
        """Maps over all elements of the domain, on the scale of the clusters; what was left out is 0."""
        if self.table is not None:
            maps = self.table.to_z(maps)
        if self.where is None:
            return maps
        whole = self.backend.xp.zeros((len(maps), self.kept.size), dtype=maps.dtype)
        whole[:, self.where] = maps
        return whole

    # ------------------------------------------------------------------ the result

    def result(self, tail: str | None, settings: dict[str, Any]) -> PermutationResult:
        """Turn counts and null distributions into p-values."""
        backend, plan = self.backend, self.plan
        observed = backend.to_numpy(self.observed).astype(np.float64)
        least = backend.to_numpy(self.least).astype(np.float64)
        n = self.arrangements.n
        p = self._whole(backend.to_numpy(self.counts) / n)
        p_fwe = self._whole(self._fwe(least, "max_stat", tail))
        shown = observed if self.statistic is None else backend.to_numpy(self.statistic)
        labels, table = (None, None) if plan.cluster_threshold is None else self._clusters(tail)
        enhanced, enhanced_p = (None, None) if not plan.tfce else self._tfce(tail)
        return PermutationResult(
            statistic=self._whole(shown).astype(self.observed.dtype),
            effect=self._effect(),
            df=self.df if self.statistic is None else self._whole(backend.to_numpy(self.df)),
            p=p,
            p_fwe=p_fwe,
            p_fdr=fdr(p),
            cluster_labels=labels,
            cluster_table=table,
            tfce=enhanced,
            tfce_p_fwe=enhanced_p,
            null=self.null,
            n_permutations=n,
            exhaustive=self.arrangements.exhaustive,
            tail_fit=self.tail_fit,
            n_left_out=self.n_left_out,
            settings={**settings, **plan.describe(), "n_distinct": self.arrangements.n_distinct, "tail": tail},
        )

    def sequential_result(
        self, p: NDArray[np.float64], n_run: NDArray[np.int64], settings: dict[str, Any]
    ) -> PermutationResult:
        """The result of a test that stopped elements early: no familywise p-values."""
        whole = self._whole(p)
        return PermutationResult(
            statistic=self._whole(self.backend.to_numpy(self.observed)).astype(self.observed.dtype),
            effect=self._effect(),
            df=self.df,
            p=whole,
            p_fwe=np.full(whole.shape, np.nan),
            p_fdr=fdr(whole),
            cluster_labels=None,
            cluster_table=None,
            tfce=None,
            tfce_p_fwe=None,
            null={"n_run": n_run.astype(np.float64)},
            n_permutations=self.arrangements.n,
            exhaustive=self.arrangements.exhaustive,
            tail_fit={},
            n_left_out=self.n_left_out,
            settings={**settings, **self.plan.describe(), "n_distinct": self.arrangements.n_distinct},
        )

    def _fwe(self, least: NDArray[np.float64], name: str, tail: str | None) -> NDArray[np.float64]:
        """Share of the null maxima that reach `least`, which has room for ties, or their fitted tail beyond it."""
        null = self.null[name]
        if tail is None:
            ranked = np.sort(null)
            return (len(ranked) - np.searchsorted(ranked, least, side="left")) / len(ranked)
        from gpuroi.inference.tail import gamma_p, gpd_tail

        fitted = (gpd_tail if tail == "gpd" else gamma_p)(least, null, rtol=0.0)
        self.tail_fit[name] = fitted.fit
        return np.asarray(fitted.p)

    def _clusters(self, tail: str | None) -> tuple[NDArray[np.int32], Any]:
        import pandas as pd

        plan, backend = self.plan, self.backend
        assert plan.cluster_threshold is not None  # the caller has asked
        graph = plan.domain.graph
        observed = self._on_domain(self.mapped[None])[0]
        labels, sizes, masses, signs = (
            backend.to_numpy(a) if backend.owns(a) else np.asarray(a)
            for a in backend.cluster_labels(observed, plan.cluster_threshold, graph, plan.two_sided, True, plan.excess)
        )
        values = backend.to_numpy(observed).astype(np.float64)
        inside = np.flatnonzero(labels)
        inside = inside[np.argsort(-np.abs(values[inside]), kind="stable")]
        peaks = inside[np.unique(labels[inside], return_index=True)[1]]  # the first, hence the largest, of each label
        statistic = self._whole(backend.to_numpy(self.observed).astype(np.float64))
        close = 1 - _TIE_SUM[self.e.dtype.name]
        taken = plan.cluster_threshold if plan.excess else 0.0
        least = np.maximum(np.abs(backend.to_numpy(self._least_map()).astype(np.float64)) - taken, 0)
        least_mass = np.bincount(labels, weights=least, minlength=len(sizes) + 1)[1:]
        return labels, pd.DataFrame(
            {
                "label": np.arange(1, len(sizes) + 1),
                "sign": np.asarray(signs, np.int64),
                "size": np.asarray(sizes, np.float64),
                "mass": np.asarray(masses, np.float64),
                "peak": np.asarray(peaks, np.int64),
                "peak_stat": statistic[peaks],
                "p_size_fwe": self._fwe(sizes * close, "max_size", tail),
                "p_mass_fwe": self._fwe(np.minimum(masses, least_mass) * close, "max_mass", tail),
            }
        )

    def _least_map(self) -> Array:
        """A map over the domain such that a rearrangement which ties with the observed data has no smaller one.

        Rounding moves a large t by more than it moves a small one, and its sums and powers with it.
        """
        xp = self.backend.xp
        size = xp.maximum(self.least, 0)
        signed = xp.where(self.mapped < 0, -size, size) if self.plan.two_sided else self.least
        return self._on_domain(signed[None])[0]

    def _tfce(self, tail: str | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        plan, backend = self.plan, self.backend
        maps = self._on_domain(self.mapped[None])
        maps = backend.xp.concatenate([maps, self._least_map()[None]])
        step = _step(plan.tfce_step)
        enhanced, _ = backend.tfce(maps, plan.graph_for_tfce, *plan.tfce_exponents, step, plan.two_sided, True)
        values, least = backend.to_numpy(enhanced).astype(np.float64)
        p = self._fwe(np.abs(least) * (1 - _TIE_SUM[self.e.dtype.name]), "max_tfce", tail)
        p[~self.kept], values[~self.kept] = np.nan, np.nan
        return values, p

    def _effect(self) -> NDArray[np.float64] | None:
        """Contrast of the parameter estimates, for t."""
        if self.part.kind == "F":
            return None
        return self._whole(self.backend.to_numpy(self.along[0]) * self.part.effect_factor[0, 0])

    def _whole(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Values of the kept elements among all elements, NaN elsewhere."""
        whole = np.full(self.kept.size, np.nan)
        whole[self.kept] = values
        return whole

    # ------------------------------------------------------------------ setting up

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
            backend.to_numpy(self.observed),
            self.kept,
            part.x_orth,
            part.z,
            rows,
            *graphs,
        ):
            h.update(np.ascontiguousarray(array).data)
            h.update(str((array.shape, array.dtype)).encode())
        told = (self.method, arrangements.n, arrangements.n_distinct, sorted(plan.describe().items()))
        h.update(repr(told).encode())
        return h.hexdigest()

    def _null_names(self) -> list[str]:
        clusters = ["max_size", "max_mass"] if self.plan.cluster_threshold is not None else []
        return ["max_stat", *clusters, *(["max_tfce"] if self.plan.tfce else [])]

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

    def _resume(self, state: PermutationState) -> None:
        if state.key != self.key:
            raise DataError(
                "the state to resume comes from another test: data, design, contrast or settings differ",
                "start anew, or call with the same arguments as before",
            )
        self.done = state.done
        self.counts = self.backend.asarray(state.counts.copy())
        self.null = {name: values.copy() for name, values in state.null.items()}


def _step(step: float | str) -> float | str | None:
    """The step as the backends take it: None is the exact integral."""
    return None if step == "exact" else step


def _table(plan: StatisticsPlan, part: Partition) -> ZTable | FZTable | None:
    """What turns maps into z, where that is the scale of the clusters."""
    if plan.scale == "t" or not plan.needs_maps:
        return None
    return FZTable(part.r, part.df) if part.kind == "F" else ZTable(part.df)
