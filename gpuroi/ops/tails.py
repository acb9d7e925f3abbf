"""Tail probabilities of Student's t and Fisher's F as logarithms, which do not underflow."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import UsageError

__all__ = ["Alternative", "log_p_of_f", "log_p_of_t"]

Alternative = Literal["two-sided", "less", "greater"]


def log_p_of_t(backend: Backend, t: Array, df: Any, alternative: Alternative = "two-sided") -> Array:
    """Return the natural log of the p-value of t.

    Parameters
    ----------
    backend : Backend
    t : float64 array, shape (v,)
    df : float or float64 array, shape (v,)
        Degrees of freedom, > 0.
    alternative : {"two-sided", "less", "greater"}

    Returns
    -------
    float64 array, shape (v,)
        NaN where t is NaN.

    Raises
    ------
    UsageError
        Unknown `alternative`.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuroi.backends import get_backend
    >>> log_p_of_t(get_backend("cpu"), np.array([0.0, 60.0]), 1000.0).round(1)
    array([ 0. , -766.6])
    """
    if alternative not in ("two-sided", "less", "greater"):
        raise UsageError(f'alternative is "{alternative}"', 'use "two-sided", "less" or "greater"')
    xp = backend.xp
    with np.errstate(all="ignore"):
        ratio = t * t / df
        log_both = backend.log_betainc(df / 2, 0.5, 1 / (1 + ratio), 1 / (1 + 1 / ratio))  # log P(|T| >= |t|)
        log_both = xp.where(xp.isnan(t), xp.nan, log_both)
        if alternative == "two-sided":
            return log_both
        near = t >= 0 if alternative == "greater" else t <= 0
        return xp.where(near, log_both - math.log(2), xp.log1p(-0.5 * xp.exp(log_both)))


def log_p_of_f(backend: Backend, f: Array, df1: float, df2: Any) -> Array:
    """Return the natural log of the p-value of F, the upper tail.

    Parameters
    ----------
    backend : Backend
    f : float64 array, shape (v,)
    df1 : float
        Numerator degrees of freedom, > 0.
    df2 : float or float64 array, shape (v,)
        Denominator degrees of freedom, > 0.

    Returns
    -------
    float64 array, shape (v,)
        NaN where F is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuroi.backends import get_backend
    >>> np.exp(log_p_of_f(get_backend("cpu"), np.array([13.0]), 2.0, 6.0)).round(5)
    array([0.00659])
    """
    xp = backend.xp
    with np.errstate(all="ignore"):
        log_p = backend.log_betainc(df2 / 2, df1 / 2, 1 / (1 + f * (df1 / df2)), 1 / (1 + (df2 / df1) / f))
        return xp.where(xp.isnan(f), xp.nan, log_p)
