"""Uncorrected p-values by sequential sampling: elements that have shown enough exceedances are done.

An element stops with the rearrangement that brings its `h`-th exceedance, the l-th that was run, the identity counted;
its p is then h / l (Besag and Clifford 1991, doi:10.1093/biomet/78.2.301). What has not stopped has count / n. Hopeless
elements leave after a few dozen rearrangements, and the products shrink with them. There are no maxima: an element that
has left could have held them. An exhaustive list is gone through in random order: as it is written down, the first
dozens rearrange the first few observations only, and say nothing of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array
from gpuroi.errors import UsageError
from gpuroi.inference.permutation_run import PermutationRun
from gpuroi.inference.projection import BATCH, Rearranged, for_each_block

__all__ = ["run_until_settled"]


def run_until_settled(
    test: PermutationRun, exceedances: int, progress: Callable[[int, int], None] | None, seed: int = 0
) -> tuple[Array, Array]:
    """Return p and the rearrangements run, (w,) on the host, for the elements of a test that has not begun.

    Parameters
    ----------
    test : PermutationRun
        Without clusters and TFCE, by the fast statistics.
    exceedances : int
        h: an element stops when this many rearrangements, the identity counted, reach its statistic.
    progress : callable, optional
        Called with the numbers done and in all.
    seed : int, default 0
        Of the order in which an exhaustive list is gone through.
    """
    if exceedances < 2:
        raise UsageError(f"early_stop is {exceedances}", "give 2 or more exceedances; 10 to 20 are usual")
    if test.plan.needs_maps or not isinstance(test.source, Rearranged):
        raise UsageError(
            "early_stop gives uncorrected p-values only: no clusters, no TFCE, no variance groups",
            "leave out early_stop, or ask for these in a test of their own",
        )
    xp, n = test.backend.xp, test.n
    active = xp.arange(test.e.shape[1])
    source = dataclasses.replace(test.source, batch=BATCH)  # few at a time: who is done leaves the next product
    least, some_rows = test.least, _in_random_order(test, seed)
    counts = xp.zeros(len(active), dtype=np.int64)
    p, run = np.ones(len(active)), np.full(len(active), n, np.int64)
    for start in range(0, n, BATCH):
        stop = min(start + BATCH, n)
        reached = xp.empty((stop - start, len(active)), dtype=np.bool_)  # (k, w): a batch of hits, one byte each
        for_each_block(source, some_rows(start, stop), _noting(test, reached, least, first=start == 0))
        tally = counts + xp.cumsum(reached, axis=0, dtype=np.int64)  # (k, w)
        counts = tally[-1]
        settled = test.backend.to_numpy(counts >= exceedances)  # sync: reads who is done
        if settled.any():
            place = test.backend.asarray(np.flatnonzero(settled))
            at = start + 1 + test.backend.to_numpy(xp.argmax(tally[:, place] >= exceedances, axis=0))
            who = test.backend.to_numpy(active[place])
            p[who], run[who] = exceedances / at, at
            rest = test.backend.asarray(np.flatnonzero(~settled))
            active, counts, least = active[rest], counts[rest], least[rest]
            source = dataclasses.replace(source, e=xp.ascontiguousarray(source.e[:, rest]))
        if progress is not None:
            progress(stop, n)
        if len(active) == 0:
            return p, run
    p[test.backend.to_numpy(active)] = test.backend.to_numpy(counts) / n
    return p, run


def _in_random_order(test: PermutationRun, seed: int) -> Callable[[int, int], NDArray[np.int32]]:
    """Rearrangements start..stop, the identity first and then such that any part stands for the whole."""
    if not test.arrangements.exhaustive:
        return test.arrangements.rows
    rows = test.arrangements.rows()
    random = np.random.Generator(np.random.Philox(key=seed))
    order = np.concatenate([[0], 1 + random.permutation(len(rows) - 1)])
    return lambda start, stop: rows[order[start:stop]]


def _noting(test: PermutationRun, reached: Array, least: Array, *, first: bool) -> Callable[[slice, Array], None]:
    """Note which rearrangements reach the observed statistic; the identity does."""

    def note(part: slice, statistics: Array) -> None:
        size = test.backend.xp.abs(statistics) if test.plan.two_sided else statistics
        reached[:, part] = size >= least[part]
        if first:
            reached[0, part] = True

    return note
