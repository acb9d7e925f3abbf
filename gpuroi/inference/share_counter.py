"""Counts what any of the rearrangements of a test give, on one device."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import UsageError
from gpuroi.inference.permutation_result import DomainMaps
from gpuroi.inference.permutation_tally import PermutationShare
from gpuroi.inference.plan import StatisticsPlan
from gpuroi.inference.projection import Source, for_each_block, moved
from gpuroi.inference.rearrange import Rearrangements
from gpuroi.inference.sign_flip_group import SignFlipGroup

__all__ = ["ShareCounter"]


@dataclass(frozen=True)
class ShareCounter:
    """Rearranges, computes and counts.

    Attributes
    ----------
    backend : Backend
    source : Source
    arrangements : Rearrangements or SignFlipGroup
    plan : StatisticsPlan
    batch : int
        Rearrangements that are computed together.
    compared, mapped, least : array, shape (w,)
        As in `Observed`, on the device.
    on_domain : DomainMaps
    """

    backend: Backend
    source: Source
    arrangements: Rearrangements | SignFlipGroup
    plan: StatisticsPlan
    batch: int
    compared: Array
    mapped: Array
    least: Array
    on_domain: DomainMaps

    def count(self, start: int, stop: int) -> PermutationShare:
        """Return what rearrangements start..stop give: the same bits however all of them are split.

        They are computed by whole batches, of which only those asked for count: ranges that begin and end at multiples
        of `batch` waste nothing. Threads may count at the same time.
        """
        if not 0 <= start < stop <= self.arrangements.n:
            raise UsageError(f"rearrangements {start} to {stop} of {self.arrangements.n}", "stay within the test")
        with self.backend.activate():
            counts = self.backend.xp.zeros(self.least.size, dtype=np.int64)
            null = {name: np.empty(stop - start) for name in self.plan.null_names}
            for first in range(start // self.batch * self.batch, stop, self.batch):
                lo, hi = max(start, first), min(stop, first + self.batch)
                for name, values in self._batch(first, lo, hi, counts).items():
                    null[name][lo - start : hi - start] = values
            return PermutationShare(start, stop, self.backend.to_numpy(counts), null)

    def on(self, backend: Backend) -> ShareCounter:
        """Return the same on another device: all devices compare with copies of one observed statistic."""
        with backend.activate():
            compared, mapped, least = (
                moved(a, self.backend, backend) for a in (self.compared, self.mapped, self.least)
            )
            return dataclasses.replace(
                self,
                backend=backend,
                source=self.source.on(backend),
                compared=compared,
                mapped=mapped,
                least=least,
                on_domain=self.on_domain.on(backend),
            )

    def _batch(self, first: int, start: int, stop: int, counts: Array) -> dict[str, NDArray[np.float64]]:
        """Count rearrangements start..stop of the batch that begins with `first`; return their maxima."""
        backend, xp = self.backend, self.backend.xp
        rows = self.arrangements.rows(first, min(first + self.batch, self.arrangements.n))
        wanted = slice(start - first, stop - first)
        largest: list[Array] = []  # of each block
        maps = xp.empty((stop - start, self.least.size), dtype=self.least.dtype) if self.plan.needs_maps else None

        def count(part: slice, statistics: Array) -> None:
            statistics = statistics[wanted]
            if maps is not None:
                maps[:, part] = statistics
            if start == 0:
                # The same but for the last digits, and for ter Braak, whose identity is the plain statistic.
                statistics[0] = self.compared[part]
            largest.append(backend.exceedances(statistics, self.least[part], self.plan.two_sided, counts[part]))

        for_each_block(self.source, rows, count)
        null = {"max_stat": backend.to_numpy(xp.stack(largest).max(axis=0))}  # sync: reads k maxima
        if maps is None:
            return null
        if start == 0:
            maps[0] = self.mapped
        return {**null, **self._neighbourhood_maxima(self.on_domain(maps))}

    def _neighbourhood_maxima(self, maps: Array) -> dict[str, NDArray[np.float64]]:
        """Largest cluster size, mass and TFCE of each map."""
        plan, backend = self.plan, self.backend
        found = {}
        if plan.cluster_threshold is not None:
            size, mass = backend.cluster_maxima(
                maps, plan.cluster_threshold, plan.domain.graph, plan.two_sided, True, plan.excess
            )
            found = {"max_size": backend.to_numpy(size), "max_mass": backend.to_numpy(mass)}
        if plan.tfce:
            graph, exponents = plan.graph_for_tfce, plan.tfce_exponents
            _, best = backend.tfce(maps, graph, *exponents, plan.step, plan.two_sided, False)
            found["max_tfce"] = backend.to_numpy(best)
        return found
