"""Permutation statistics on CuPy arrays."""

from __future__ import annotations

import numpy as np

from gpuroi.backends.base import Array

__all__ = ["exceedances", "permutation_statistics"]

_NOTHING = 16  # rounding errors, as on the CPU: less left of a rearranged residual, and its statistic is 0 / 0


def permutation_statistics(effect: Array, nuisance: Array, df: float, as_f: bool) -> Array:
    """t or F from projections (`Backend.permutation_statistics`)."""
    import cupy as cp

    r = effect.shape[1]
    explained = cp.sum(effect * effect, axis=1)  # (k, w)
    left = 1 - cp.sum(nuisance * nuisance, axis=1)
    rest = cp.maximum(left - explained, 0)
    values = (df / r) * explained / rest if as_f else effect[:, 0] * cp.sqrt(df / rest)
    values[left <= _NOTHING * float(np.finfo(values.dtype).eps)] = 0
    return values


def exceedances(statistics: Array, least: Array, two_sided: bool, counts: Array) -> Array:
    """Tally the rows that reach the observed statistic (`Backend.exceedances`)."""
    import cupy as cp

    values = cp.abs(statistics) if two_sided else statistics
    counts += cp.sum(values >= least, axis=0, dtype=counts.dtype)
    return cp.max(values, axis=1)
