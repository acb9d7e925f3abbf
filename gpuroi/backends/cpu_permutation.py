"""Permutation statistics on the CPU: each thread takes a range of elements of all rearrangements of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import n_threads, run_blocks

__all__ = ["exceedances", "permutation_statistics", "products"]


def permutation_statistics(effect: NDArray[Any], nuisance: NDArray[Any], df: float, as_f: bool) -> NDArray[Any]:
    """t or F from projections (`Backend.permutation_statistics`)."""
    from gpuroi.backends.kernels.permutation import f_from_projections, t_from_projections

    k, _, w = effect.shape
    if not as_f:
        t = effect[:, 0]
        run_blocks(lambda lo, hi: t_from_projections(t, nuisance, df, lo, hi), w, least=1024)
        return t
    out = np.empty((k, w), effect.dtype)
    run_blocks(lambda lo, hi: f_from_projections(effect, nuisance, df, out, lo, hi), w, least=1024)
    return out


def exceedances(
    statistics: NDArray[Any], least: NDArray[Any], two_sided: bool, counts: NDArray[np.int64]
) -> NDArray[Any]:
    """Tally the rows that reach the observed statistic (`Backend.exceedances`)."""
    from gpuroi.backends.kernels.permutation import count_exceedances

    k, w = statistics.shape
    parts = min(n_threads(), 1 + w // 1024)
    edges = [w * i // parts for i in range(parts + 1)]
    maxima = np.empty((parts, k), statistics.dtype)

    def tally(start: int, stop: int) -> None:
        for part in range(start, stop):
            count_exceedances(statistics, least, two_sided, counts, maxima[part], edges[part], edges[part + 1])

    run_blocks(tally, parts)
    return np.asarray(maxima.max(axis=0))


def products(e: NDArray[Any]) -> Callable[[NDArray[np.floating]], NDArray[Any]]:
    """Function that multiplies by `e` (`Backend.products`)."""
    return lambda weights: np.asarray(weights.astype(e.dtype, copy=False) @ e)
