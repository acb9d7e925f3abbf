"""p-values from null distributions, and their correction for many elements: family-wise error, false discovery rate."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array
from gpuroi.errors import DataError, UsageError

__all__ = ["TIE_RTOL", "coarse_p_warning", "fdr", "fwe_threshold", "p_from_counts", "p_from_null", "smallest_p"]

TIE_RTOL = 1e-6
"""Null values that are smaller than the observed one by no more than this part of it count as equal to it.

Rearrangements that leave the data unchanged (a swap within a pair of equal rows, all signs flipped in a two-sided test)
give the observed statistic again, but summed in another order: float32 data and products leave 1e-7 to 5e-7 between
the two. Counting such a tie as smaller would make p too small by up to a factor of two in an exhaustive test. Distinct
arrangements that come as near as 1e-6 are rare, and counting one of them errs on the safe side, by 1 / B.
"""


def fdr(p: Any, *, method: Literal["bh", "by"] = "bh", mask: Any = None) -> Array:
    """Adjust p-values so that those below q control the false discovery rate at q.

    Parameters
    ----------
    p : array, any shape, NumPy or CuPy
        p-values of one family, in [0, 1]; NaN (elements that were not tested) is left out.
    method : {"bh", "by"}, default "bh"
        Benjamini-Hochberg, for independent or positively dependent tests, or Benjamini-Yekutieli, for any dependence.
    mask : bool array, shape of `p`, optional
        Elements of the family; the others are left out.

    Returns
    -------
    q : float64 array, shape and device of `p`
        Adjusted p-values; NaN for what was left out. CuPy arrays are sorted on the host (one copy each way).

    Raises
    ------
    UsageError
        Another method.
    DataError
        p outside [0, 1]; a mask of another shape.

    References
    ----------
    .. [1] Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate. Journal of the Royal Statistical
       Society B 57, 289-300. doi:10.1111/j.2517-6161.1995.tb02031.x
    .. [2] Benjamini Y, Yekutieli D (2001). The control of the false discovery rate in multiple testing under
       dependency. Annals of Statistics 29, 1165-1188. doi:10.1214/aos/1013699998

    Examples
    --------
    >>> fdr([0.01, 0.02, float("nan"), 0.5]).tolist()
    [0.03, 0.03, nan, 0.5]
    """
    if method not in ("bh", "by"):
        raise UsageError(f'fdr method is "{method}"', 'use "bh" or "by"')
    backend = backend_of(p, mask)
    values = np.asarray(backend.to_numpy(backend.asarray(p, dtype=np.float64)))  # sync: copies to the host
    tested = ~np.isnan(values)
    if mask is not None:
        inside = np.asarray(backend.to_numpy(backend.asarray(mask)), dtype=bool)  # sync: copies to the host
        if inside.shape != values.shape:
            raise DataError(f"mask has shape {inside.shape}, p has {values.shape}", "give one bool for each p")
        tested &= inside
    family = values[tested]
    if family.size and not (family.min() >= 0 and family.max() <= 1):
        raise DataError(f"p runs from {family.min():g} to {family.max():g}, expected values in [0, 1]")
    q = np.full(values.shape, np.nan)
    q[tested] = _step_up(family, method)
    return backend.asarray(q)


def p_from_null(observed: Any, null: Any, *, two_sided: bool = False, rtol: float = TIE_RTOL) -> Array:
    """Return the p-value of each observed value under a null distribution, such as that of the maximum.

    p = (number of null values >= observed) / (number of null values), the identity among them.

    Parameters
    ----------
    observed : array, any shape, NumPy or CuPy
        Observed statistics, larger is more extreme.
    null : array, shape (B,)
        Null values, one per rearrangement, the unpermuted data (the identity) counted as one of them. -inf is fine
        (no cluster), NaN is not.
    two_sided : bool, default False
        Take |observed|; `null` then holds maxima of absolute values.
    rtol : float, default `TIE_RTOL`
        Null values above `observed - rtol * |observed|` count as ties, hence as exceedances.

    Returns
    -------
    p : float64 array, shape and device of `observed`
        Never below 1 / B, as the identity counts. NaN where `observed` is NaN.

    Raises
    ------
    DataError
        An empty null, one of more than one dimension, or NaN in it.

    References
    ----------
    .. [1] Phipson B, Smyth GK (2010). Permutation p-values should never be zero. Statistical Applications in Genetics
       and Molecular Biology 9, 39. doi:10.2202/1544-6115.1585

    Examples
    --------
    >>> p_from_null([3.0, 5.0, -1.0], [5.0, 3.0, 2.0, 4.0]).tolist()
    [0.75, 0.25, 1.0]
    """
    backend = backend_of(observed)
    xp = backend.xp
    ascending = np.sort(_null(null))
    values = backend.asarray(observed, dtype=np.float64)
    values = xp.abs(values) if two_sided else values
    with np.errstate(invalid="ignore"):
        least = xp.where(xp.isfinite(values), values - rtol * xp.abs(values), values)
    smaller = xp.searchsorted(backend.asarray(ascending), least.reshape(-1), side="left")
    count = xp.maximum(ascending.size - smaller, 1).reshape(values.shape)
    p = xp.where(xp.isnan(values), xp.nan, count / ascending.size)
    return p[()] if isinstance(p, np.ndarray) else p


def p_from_counts(counts: Any, n: int) -> Array:
    """Return p-values from counts of exceedances.

    Parameters
    ----------
    counts : integer array, any shape, NumPy or CuPy
        Rearrangements whose statistic was as large as observed, the identity counted. 0: the element was not tested.
    n : int
        Rearrangements run, the identity counted.

    Returns
    -------
    p : float64 array, shape and device of `counts`
        counts / n; NaN where the count is 0.

    Raises
    ------
    UsageError
        n below 1.

    Examples
    --------
    >>> p_from_counts([1, 250, 0], 500).tolist()
    [0.002, 0.5, nan]
    """
    smallest_p(n)  # refuses n < 1
    backend = backend_of(counts)
    values = backend.asarray(counts, dtype=np.float64)
    p = backend.xp.where(values > 0, values / n, backend.xp.nan)
    return p[()] if isinstance(p, np.ndarray) else p


def fwe_threshold(null: Any, alpha: float = 0.05, *, rtol: float = TIE_RTOL) -> float:
    """Return the critical value of a null distribution of maxima: what lies above it has p <= alpha.

    Parameters
    ----------
    null : array, shape (B,)
        Null maxima, the identity among them.
    alpha : float, default 0.05
        Family-wise error rate, 0 < alpha <= 1.
    rtol : float, default `TIE_RTOL`
        As for `p_from_null`.

    Returns
    -------
    float
        `observed > fwe_threshold(null, alpha)` and `p_from_null(observed, null) <= alpha` say the same. inf where
        there are too few rearrangements for any p to be as small as alpha, -inf where alpha is 1.

    Raises
    ------
    UsageError
        alpha outside (0, 1].
    DataError
        As for `p_from_null`.

    Examples
    --------
    >>> round(fwe_threshold(range(1, 101), 0.05), 3)
    95.0
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"alpha is {alpha:g}, expected 0 < alpha <= 1", "the usual choice is 0.05")
    descending = np.sort(_null(null))[::-1]
    allowed = math.floor(alpha * descending.size * (1 + 1e-12))  # 0.05 * 500 must not come out as 24.999
    if allowed == 0:
        return math.inf
    if allowed >= descending.size:
        return -math.inf
    last = float(descending[allowed])
    if not math.isfinite(last):
        return last
    return last / (1 - rtol) if last > 0 else last / (1 + rtol)


def smallest_p(n: int) -> float:
    """Return the smallest p-value that `n` rearrangements can give, 1 / n.

    Examples
    --------
    >>> smallest_p(5000)
    0.0002
    """
    if n < 1:
        raise UsageError(f"{n} rearrangements: expected 1 or more", "the identity counts as one")
    return 1 / n


def coarse_p_warning(n: int, alpha: float = 0.05, *, exhaustive: bool = False) -> str | None:
    """Say what is wrong if `n` rearrangements are too few to resolve `alpha`; None if they are enough.

    Parameters
    ----------
    n : int
        Rearrangements, the identity counted.
    alpha : float, default 0.05
        Level that p-values will be held against.
    exhaustive : bool, default False
        All distinct rearrangements were run; more cannot be asked for.

    Returns
    -------
    str or None
        A sentence, if alpha is below ten times the smallest p-value.

    Examples
    --------
    >>> coarse_p_warning(1000) is None
    True
    >>> coarse_p_warning(100)
    'the smallest p-value of 100 rearrangements is 0.01, too coarse for alpha = 0.05: run 200 or more'
    """
    least = smallest_p(n)
    needed = math.ceil(10 / alpha * (1 - 1e-12))
    if n >= needed:
        return None
    remedy = "there are no more distinct ones" if exhaustive else f"run {needed} or more"
    return f"the smallest p-value of {n} rearrangements is {least:.3g}, too coarse for alpha = {alpha:g}: {remedy}"


def _step_up(p: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """Adjusted p-values of a one-dimensional family without NaN."""
    m = p.size
    order = np.argsort(p, kind="stable")
    rank = np.arange(1, m + 1)
    factor = m * float(np.sum(1 / rank)) if method == "by" else float(m)
    scaled = p[order] * factor / rank
    q = np.empty(m)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def _null(null: Any) -> NDArray[np.float64]:
    """A null distribution on the host, checked."""
    backend = backend_of(null)
    host: ArrayLike = backend.to_numpy(backend.asarray(null))  # sync: a few thousand numbers
    values = np.asarray(host, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(
            f"the null distribution has shape {values.shape}, expected (B,)", "give one value per rearrangement"
        )
    if np.isnan(values).any():
        raise DataError(
            f"the null distribution holds NaN ({int(np.isnan(values).sum())} of {values.size})",
            "leave elements without a statistic out of the maximum",
        )
    return values
