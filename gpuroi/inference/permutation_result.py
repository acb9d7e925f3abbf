"""From the observed statistics and the counts of rearrangements to p-values, clusters and TFCE."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.inference.correct import fdr
from gpuroi.inference.design import Partition
from gpuroi.inference.plan import StatisticsPlan
from gpuroi.inference.rearrange import Rearrangements
from gpuroi.inference.result import PermutationResult
from gpuroi.inference.sign_flip_group import SignFlipGroup
from gpuroi.inference.ztable import FZTable, ZTable

__all__ = ["DomainMaps", "Observed", "ResultOf"]

_TIE_SUM = {"float32": 1e-5, "float64": 1e-10}  # relative difference at which sums over a cluster of ties are equal


@dataclass(frozen=True)
class Observed:
    """What a test finds in the data as they are: NumPy arrays that travel between processes.

    Attributes
    ----------
    kept : bool array, shape (v,)
        Elements that have a statistic: w of them.
    compared : float array, shape (w,)
        t or F; z where groups have variances of their own.
    mapped : float array, shape (w,)
        The same by the product that the rearrangements go through.
    least : float array, shape (w,)
        What a rearranged statistic has to reach to count.
    effect : float64 array, shape (w,), or None
        Contrast of the parameter estimates, for t.
    statistic : float64 array, shape (w,), or None
        v or G, where `compared` is its z.
    df : float, or float64 array, shape (w,)
    """

    kept: NDArray[np.bool_]
    compared: NDArray[Any]
    mapped: NDArray[Any]
    least: NDArray[Any]
    effect: NDArray[np.float64] | None
    statistic: NDArray[np.float64] | None
    df: Any

    def whole(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Values of the kept elements among all elements, NaN elsewhere."""
        whole = np.full(self.kept.size, np.nan)
        whole[self.kept] = values
        return whole

    @property
    def n_left_out(self) -> int:
        """Elements without a statistic."""
        return int((~self.kept).sum())


class DomainMaps:
    """Puts maps of the kept elements where the domain has them, on the scale of the clusters.

    Parameters
    ----------
    backend : Backend
    kept : bool array, shape (v,)
        On the host.
    plan : StatisticsPlan
    part : Partition
    as_z : bool
        The statistics are z already.
    """

    def __init__(
        self, backend: Backend, kept: NDArray[np.bool_], plan: StatisticsPlan, part: Partition, *, as_z: bool
    ) -> None:
        self._backend, self._kept = backend, kept
        self._where = None if kept.all() else backend.asarray(np.flatnonzero(kept))
        self._table: ZTable | FZTable | None = None
        if plan.scale == "z" and plan.needs_maps and not as_z:
            self._table = FZTable(part.r, part.df) if part.kind == "F" else ZTable(part.df)

    def __call__(self, maps: Array) -> Array:
        """Maps (k, w) as (k, v); what was left out is 0."""
        if self._table is not None:
            maps = self._table.to_z(maps)
        if self._where is None:
            return maps
        whole = self._backend.xp.zeros((len(maps), self._kept.size), dtype=maps.dtype)
        whole[:, self._where] = maps
        return whole

    def on(self, backend: Backend) -> DomainMaps:
        """The same for maps on another device."""
        other = copy.copy(self)
        other._backend = backend
        other._where = None if self._where is None else backend.asarray(np.flatnonzero(self._kept))
        return other


@dataclass(frozen=True)
class ResultOf:
    """Turns counts and null distributions into a result.

    Attributes
    ----------
    backend : Backend
        Where the clusters and the TFCE of the observed map are found.
    part : Partition
    arrangements : Rearrangements or SignFlipGroup
    plan : StatisticsPlan
    observed : Observed
    settings : dict
        For the record.
    """

    backend: Backend
    part: Partition
    arrangements: Rearrangements | SignFlipGroup
    plan: StatisticsPlan
    observed: Observed
    settings: dict[str, Any]

    def all(
        self, counts: NDArray[np.int64], null: dict[str, NDArray[np.float64]], tail: str | None
    ) -> PermutationResult:
        """The result of all rearrangements; `tail` fits null distributions beyond their largest values."""
        found, whole = self.observed, self.observed.whole
        tails = _NullTails(null, tail)
        p = whole(counts / self.arrangements.n)
        with self.backend.activate():
            labels, table = (None, None) if self.plan.cluster_threshold is None else self._clusters(tails)
            enhanced, enhanced_p = (None, None) if not self.plan.tfce else self._tfce(tails)
        return PermutationResult(
            statistic=whole(found.compared if found.statistic is None else found.statistic).astype(
                found.compared.dtype
            ),
            effect=None if found.effect is None else whole(found.effect),
            df=found.df if found.statistic is None else whole(found.df),
            p=p,
            p_fwe=whole(tails.p(found.least.astype(np.float64), "max_stat")),
            p_fdr=fdr(p),
            cluster_labels=labels,
            cluster_table=table,
            tfce=enhanced,
            tfce_p_fwe=enhanced_p,
            null=null,
            n_permutations=self.arrangements.n,
            exhaustive=self.arrangements.exhaustive,
            tail_fit=tails.fits,
            n_left_out=found.n_left_out,
            settings={**self._described, "tail": tail},
        )

    def stopped_early(self, p: NDArray[np.float64], n_run: NDArray[np.int64]) -> PermutationResult:
        """The result of a test that stopped elements early: no familywise p-values."""
        found, whole = self.observed, self.observed.whole(p)
        return PermutationResult(
            statistic=found.whole(found.compared).astype(found.compared.dtype),
            effect=None if found.effect is None else found.whole(found.effect),
            df=found.df,
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
            n_left_out=found.n_left_out,
            settings=self._described,
        )

    @property
    def _described(self) -> dict[str, Any]:
        return {**self.settings, **self.plan.describe(), "n_distinct": self.arrangements.describe()["n_distinct"]}

    @cached_property
    def _on_domain(self) -> DomainMaps:
        as_z = self.observed.statistic is not None
        return DomainMaps(self.backend, self.observed.kept, self.plan, self.part, as_z=as_z)

    @property
    def _close(self) -> float:
        return 1 - _TIE_SUM[self.observed.compared.dtype.name]

    def _clusters(self, tails: _NullTails) -> tuple[NDArray[np.int32], Any]:
        import pandas as pd

        plan, backend = self.plan, self.backend
        assert plan.cluster_threshold is not None  # the caller has asked
        observed = self._on_domain(backend.asarray(self.observed.mapped)[None])[0]
        labels, sizes, masses, signs = (
            backend.to_numpy(a) if backend.owns(a) else np.asarray(a)
            for a in backend.cluster_labels(
                observed, plan.cluster_threshold, plan.domain.graph, plan.two_sided, True, plan.excess
            )
        )
        values = backend.to_numpy(observed).astype(np.float64)
        inside = np.flatnonzero(labels)
        inside = inside[np.argsort(-np.abs(values[inside]), kind="stable")]
        peaks = inside[np.unique(labels[inside], return_index=True)[1]]  # the first, hence the largest, of each label
        statistic = self.observed.whole(self.observed.compared)
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
                "p_size_fwe": tails.p(sizes * self._close, "max_size"),
                "p_mass_fwe": tails.p(np.minimum(masses, least_mass) * self._close, "max_mass"),
            }
        )

    def _tfce(self, tails: _NullTails) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        plan, backend, kept = self.plan, self.backend, self.observed.kept
        maps = self._on_domain(backend.asarray(self.observed.mapped)[None])
        maps = backend.xp.concatenate([maps, self._least_map()[None]])
        graph, exponents = plan.graph_for_tfce, plan.tfce_exponents
        enhanced, _ = backend.tfce(maps, graph, *exponents, plan.step, plan.two_sided, True)
        values, least = backend.to_numpy(enhanced).astype(np.float64)
        p = tails.p(np.abs(least) * self._close, "max_tfce")
        p[~kept], values[~kept] = np.nan, np.nan
        return values, p

    def _least_map(self) -> Array:
        """A map over the domain such that a rearrangement which ties with the observed data has no smaller one.

        Rounding moves a large t by more than it moves a small one, and its sums and powers with it.
        """
        size = np.maximum(self.observed.least, 0)
        signed = np.where(self.observed.mapped < 0, -size, size) if self.plan.two_sided else self.observed.least
        return self._on_domain(self.backend.asarray(signed)[None])[0]


class _NullTails:
    """Familywise p-values, and the fits that they come from."""

    def __init__(self, null: dict[str, NDArray[np.float64]], tail: str | None) -> None:
        self._null, self._tail = null, tail
        self.fits: dict[str, Any] = {}

    def p(self, least: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        """Share of the null maxima that reach `least`, which has room for ties, or their fitted tail beyond it."""
        null = self._null[name]
        if self._tail is None:
            ranked = np.sort(null)
            return (len(ranked) - np.searchsorted(ranked, least, side="left")) / len(ranked)
        from gpuroi.inference.tail import gamma_p, gpd_tail

        fitted = (gpd_tail if self._tail == "gpd" else gamma_p)(least, null, rtol=0.0)
        self.fits[name] = fitted.fit
        return np.asarray(fitted.p)
