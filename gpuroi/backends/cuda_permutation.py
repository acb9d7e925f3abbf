"""Permutation statistics on CuPy arrays."""

from __future__ import annotations

from gpuroi.backends.base import Array

__all__ = ["exceedances", "permutation_statistics"]


def permutation_statistics(effect: Array, nuisance: Array, df: float, as_f: bool) -> Array:
    """t or F from projections (`Backend.permutation_statistics`)."""
    import cupy as cp

    r = effect.shape[1]
    explained = cp.sum(effect * effect, axis=1)  # (k, w)
    rest = cp.maximum(1 - explained - cp.sum(nuisance * nuisance, axis=1), 0)
    if not as_f:
        return effect[:, 0] * cp.sqrt(df / rest)
    return (df / r) * explained / rest


def exceedances(statistics: Array, least: Array, two_sided: bool, counts: Array) -> Array:
    """Tally the rows that reach the observed statistic (`Backend.exceedances`)."""
    import cupy as cp

    values = cp.abs(statistics) if two_sided else statistics
    counts += cp.sum(values >= least, axis=0, dtype=counts.dtype)
    return cp.max(values, axis=1)
