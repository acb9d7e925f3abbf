"""p-values below 1 / B from few rearrangements: a generalised Pareto tail, or a gamma distribution, fitted to the null.

Both are approximations with a goodness of fit, and fall back on the empirical p where they do not apply.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array
from gpuroi.errors import DataError
from gpuroi.inference.correct import TIE_RTOL, p_from_null

__all__ = ["GammaFit", "GpdFit", "TailResult", "gamma_p", "gamma_p_elements", "gpd_tail", "gpd_tail_elements"]

_P_BELOW = 0.10  # only p below this are replaced
_QUANTILES = np.arange(751, 1000, 10) / 1000  # where the tail may begin, tried in this order
_MIN_TAIL = 20  # null values; with fewer, the test of fit would pass anything
_FIT_ALPHA = 0.05
_BLOCK = 4096  # elements fitted at a time
_BOOTSTRAPS = 99
_FITTED = ("threshold", "scale", "shape", "quantile", "n_tail", "ad", "ad_p", "ok")
_MOST_TESTED = 5000  # null values that the gamma's test of fit looks at

# Choulakian and Stephens (2001), table 2, A^2 with both parameters estimated: rows by k = -shape, columns by p.
_AD_K = np.array([-0.9, -0.5, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
_AD_P = np.array([0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.001])
_AD_TABLE = np.array(
    [
        [0.339, 0.471, 0.641, 0.771, 0.905, 1.086, 1.226, 1.559],
        [0.356, 0.499, 0.685, 0.830, 0.978, 1.180, 1.336, 1.707],
        [0.376, 0.534, 0.741, 0.903, 1.069, 1.296, 1.471, 1.893],
        [0.386, 0.550, 0.766, 0.935, 1.110, 1.348, 1.532, 1.966],
        [0.397, 0.569, 0.796, 0.974, 1.158, 1.409, 1.603, 2.064],
        [0.410, 0.591, 0.831, 1.020, 1.215, 1.481, 1.687, 2.176],
        [0.426, 0.617, 0.873, 1.074, 1.283, 1.567, 1.788, 2.314],
        [0.445, 0.649, 0.924, 1.140, 1.365, 1.672, 1.909, 2.475],
        [0.468, 0.688, 0.985, 1.221, 1.465, 1.799, 2.058, 2.674],
        [0.496, 0.735, 1.061, 1.321, 1.590, 1.958, 2.243, 2.922],
    ]
)


@dataclass(frozen=True)
class GpdFit:
    """A generalised Pareto tail; arrays of shape (v,) where there is one per element.

    Attributes
    ----------
    threshold : float or array
        Where the tail begins; NaN where no fit was accepted.
    scale, shape : float or array
        Parameters; `shape` in SciPy's sign (negative: the tail ends at threshold - scale / shape).
    quantile : float or array
        Quantile of the null at which the tail begins.
    n_tail : int or array
        Null values in the tail.
    ad, ad_p : float or array
        Anderson-Darling statistic of the accepted tail (of the last one tried, where none was accepted) and its p,
        interpolated in the table of Choulakian and Stephens and clipped to it: 0.001 to 0.5.
    ok : bool or array
        A fit was accepted.
    reason : str
        Why none was; empty where one was, and for elements.
    """

    threshold: Any
    scale: Any
    shape: Any
    quantile: Any
    n_tail: Any
    ad: Any
    ad_p: Any
    ok: Any
    reason: str = ""


@dataclass(frozen=True)
class GammaFit:
    """A gamma distribution shifted, and reflected where the skewness is negative (Pearson's type III).

    Attributes
    ----------
    mean, variance, skewness : float
        Of the null: variance with n - 1, adjusted Fisher-Pearson skewness.
    ad, ad_p : float
        Anderson-Darling statistic, and its p by a parametric bootstrap of 99 samples (fixed seed): 0.01 at least.
        Beyond 5000 null values the first 5000 are tested.
    ok : bool
        The distribution applies; it may still fit badly, which `ad_p` tells.
    reason : str
        Why it does not apply.
    """

    mean: float
    variance: float
    skewness: float
    ad: float
    ad_p: float
    ok: bool
    reason: str = ""


@dataclass(frozen=True)
class TailResult:
    """p-values and the fit that they come from.

    Attributes
    ----------
    p : float64 array, shape and device of the observed values
    fit : GpdFit or GammaFit
    """

    p: Array
    fit: GpdFit | GammaFit


def gpd_tail(observed: Any, null: Any, *, two_sided: bool = False, rtol: float = TIE_RTOL) -> TailResult:
    """Refine small p-values by a generalised Pareto distribution fitted to the tail of the null.

    Parameters
    ----------
    observed : array, any shape, NumPy or CuPy
        Observed statistics, larger is more extreme.
    null : array, shape (B,)
        Null values (maxima, for familywise p), the unpermuted data among them.
    two_sided : bool, default False
        Take |observed|; `null` then holds maxima of absolute values.
    rtol : float
        Tolerance of ties, as for `p_from_null`.

    Returns
    -------
    TailResult
        `.p`: where the empirical p is below 0.10 and the value lies in the fitted tail, (n_tail / B) times the
        survival function of the fit, never 0; elsewhere, and everywhere if no fit was accepted, the empirical p.
        `.fit`: a `GpdFit` of numbers.

    Raises
    ------
    DataError
        As `p_from_null`.

    Notes
    -----
    As [1]_: the tail begins at the first of the quantiles 0.751, 0.761, ... of the null (mean of the two values
    around it) at which the fit by moments [2]_ passes the Anderson-Darling test [3]_ at 5 %, with 20 values or more.
    Unlike PALM: the table of [3]_ is entered with the shape that was fitted; values below the threshold keep their
    empirical p; a fit that ends below the largest value, observed or null, is refused, as its p would be 0. The table
    holds for maximum likelihood: fits by moments with a heavy tail are refused more often than 5 %. Where the fit ends
    a little beyond the largest value p can come out far too small: look at `.fit`, and prefer `gamma_p` or more
    rearrangements for what hangs on it.

    References
    ----------
    .. [1] Winkler AM, Ridgway GR, Douaud G, Nichols TE, Smith SM (2016). Faster permutation inference in brain imaging.
       NeuroImage 141, 502-516. doi:10.1016/j.neuroimage.2016.05.068
    .. [2] Hosking JRM, Wallis JR (1987). Parameter and quantile estimation for the generalized Pareto distribution.
       Technometrics 29, 339-349. doi:10.1080/00401706.1987.10488243
    .. [3] Choulakian V, Stephens MA (2001). Goodness-of-fit tests for the generalized Pareto distribution.
       Technometrics 43, 478-484. doi:10.1198/00401700152672573

    Examples
    --------
    >>> import numpy as np
    >>> null = np.random.default_rng(0).gumbel(size=1000)
    >>> result = gpd_tail(np.array([0.0, 12.0]), null)
    >>> bool(result.p[1] < 1e-4), result.fit.ok
    (True, True)
    """
    backend = backend_of(observed)
    p = _host(p_from_null(observed, null, two_sided=two_sided, rtol=rtol))
    values = _sizes(observed, two_sided)
    descending = -np.sort(-_host(null))[:, None]
    finite = values[np.isfinite(values)]
    largest = np.array([finite.max() if finite.size else -np.inf])
    fit, reason = _fit_gpd(descending, descending.shape[0], largest)
    if reason == "" and not fit.ok[0]:
        reason = "no threshold passed the Anderson-Darling test"
    tail = _gpd_p(p.reshape(-1), values.reshape(-1), _spread(fit, p.size), descending.shape[0]).reshape(p.shape)
    return TailResult(backend.asarray(tail), _numbers(fit, reason))


def gpd_tail_elements(p: Any, observed: Any, largest: Any, n_permutations: int) -> TailResult:
    """Refine small uncorrected p-values, each element by the tail of its own null distribution.

    Parameters
    ----------
    p : array, shape (v,)
        Empirical p-values, the identity counted; NumPy or CuPy.
    observed : array, shape (v,)
        Observed statistics, larger is more extreme (|t| in a two-sided test).
    largest : array, shape (m, v)
        The m largest null values of each element in any order, the identity's among them where it is one. m should
        be a quarter of the rearrangements; only elements with p < 0.10 are looked at.
    n_permutations : int
        Rearrangements, the identity counted.

    Returns
    -------
    TailResult
        `.p` (v,) and a `GpdFit` of host arrays (v,); method, exceptions and references as of `gpd_tail`.

    Raises
    ------
    DataError
        Shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> null = np.random.default_rng(0).gumbel(size=(1000, 3))
    >>> null[0] = 12.0
    >>> kept = np.sort(null, axis=0)[-250:]
    >>> result = gpd_tail_elements(np.full(3, 0.001), null[0], kept, 1000)
    >>> bool((result.p < 0.001).all())
    True
    """
    backend = backend_of(p, observed, largest)
    empirical, values, kept = (np.asarray(_host(x), dtype=np.float64) for x in (p, observed, largest))
    if empirical.ndim != 1 or values.shape != empirical.shape or kept.shape[1:] != empirical.shape:
        raise DataError(
            f"p has shape {empirical.shape}, observed {values.shape}, largest {kept.shape}: expected (v,), (v,), (m, v)"
        )
    if kept.shape[0] > n_permutations:
        raise DataError(f"{kept.shape[0]} null values are kept of {n_permutations} rearrangements")
    result, fits = empirical.copy(), _no_fit(empirical.size)
    looked = np.flatnonzero((empirical < _P_BELOW) & np.isfinite(values))
    for start in range(0, looked.size, _BLOCK):
        part = looked[start : start + _BLOCK]
        fit, _ = _fit_gpd(-np.sort(-kept[:, part], axis=0), n_permutations, values[part])
        result[part] = _gpd_p(empirical[part], values[part], fit, n_permutations)
        for name in _FITTED:
            getattr(fits, name)[part] = getattr(fit, name)
    return TailResult(backend.asarray(result), fits)


def gamma_p(observed: Any, null: Any, *, two_sided: bool = False, rtol: float = TIE_RTOL) -> TailResult:
    """Take p-values from a gamma distribution with the mean, variance and skewness of the null.

    Parameters
    ----------
    observed : array, any shape, NumPy or CuPy
        Observed statistics, larger is more extreme.
    null : array, shape (B,)
        Null values, the unpermuted data among them.
    two_sided : bool, default False
        Take |observed|; `null` then holds maxima of absolute values.
    rtol : float
        Tolerance of ties, as for `p_from_null`, used where the gamma does not apply.

    Returns
    -------
    TailResult
        `.p`: gamma p-values, 1 below the support; the empirical ones if the gamma does not apply (`.fit.ok` False):
        fewer than 3 finite null values or all equal, or values beyond the upper end of a negatively skewed gamma.
        `.fit`: a `GammaFit`.

    Raises
    ------
    DataError
        As `p_from_null`.

    References
    ----------
    .. [1] Winkler AM, Ridgway GR, Douaud G, Nichols TE, Smith SM (2016). Faster permutation inference in brain imaging.
       NeuroImage 141, 502-516. doi:10.1016/j.neuroimage.2016.05.068

    Examples
    --------
    >>> import numpy as np
    >>> null = np.random.default_rng(0).gamma(9.0, size=500)
    >>> result = gamma_p(np.array([40.0]), null)
    >>> bool(1e-12 < result.p[0] < 1e-6), result.fit.ad_p > 0.05
    (True, True)
    """
    backend = backend_of(observed)
    empirical = _host(p_from_null(observed, null, two_sided=two_sided, rtol=rtol))
    values = _sizes(observed, two_sided)
    sample = np.asarray(_host(null), dtype=np.float64)
    finite = sample[np.isfinite(sample)]
    mean, variance, skewness = _moments(finite) if finite.size >= 3 else (np.nan,) * 3
    reason = ""
    if finite.size < sample.size:
        reason = f"{sample.size - finite.size} null values are infinite"
    elif finite.size < 3:
        reason = f"{finite.size} null values: three moments need 3 or more"
    elif not variance > 0:
        reason = "all null values are equal"
    if reason:
        return TailResult(backend.asarray(empirical), GammaFit(mean, variance, skewness, np.nan, np.nan, False, reason))
    p = _gamma_sf(values, mean, variance, skewness)
    ad, ad_p = _gamma_goodness(finite[:_MOST_TESTED])
    if (p == 0).any():
        reason = "values lie beyond the upper end of the fitted distribution"
        p = empirical
    return TailResult(backend.asarray(p), GammaFit(mean, variance, skewness, ad, ad_p, not reason, reason))


def gamma_p_elements(p: Any, observed: Any, mean: Any, variance: Any, skewness: Any) -> Array:
    """Take uncorrected p-values from a gamma distribution per element, by the three moments of its null.

    Parameters
    ----------
    p : array, shape (v,)
        Empirical p-values, returned where the gamma does not apply.
    observed : array, shape (v,)
        Observed statistics, larger is more extreme.
    mean, variance, skewness : array, shape (v,)
        Of the null values of each element: they can be streamed, no null distribution is kept.

    Returns
    -------
    p : float64 array, shape (v,), on the device of `p`

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(2)
    >>> gamma_p_elements(0.5 * one, np.array([3.0, 3.0]), one, np.array([1.0, 0.0]), 2 * one).round(6).tolist()
    [0.049787, 0.5]
    """
    backend = backend_of(p)
    empirical, values, *moments = (
        np.asarray(_host(x), dtype=np.float64) for x in (p, observed, mean, variance, skewness)
    )
    with np.errstate(all="ignore"):
        approximate = _gamma_sf(values, *moments)
        applies = (moments[1] > 0) & np.isfinite(moments[2]) & (approximate > 0)
    return backend.asarray(np.where(applies, approximate, empirical))


# --------------------------------------------------------------------------- generalised Pareto


def _fit_gpd(descending: NDArray[Any], n: int, observed: NDArray[Any]) -> tuple[GpdFit, str]:
    """Fit each column of (m, v), the largest of `n` null values, from the first quantile that passes."""
    m, v = descending.shape
    fit = _no_fit(v)
    n_tails = {float(q): n - int(np.floor(q * n)) for q in _QUANTILES}
    starts = [(q, size) for q, size in n_tails.items() if size >= _MIN_TAIL and size < m]
    if m == n:  # the whole distribution
        if not starts:
            return fit, f"{n} null values: a tail needs {_MIN_TAIL} among the upper quarter"
        if np.all(descending[0] == descending[-1]):
            return fit, "all null values are equal"
    waiting = np.flatnonzero(np.isfinite(descending[0]))
    for quantile, size in starts:
        if waiting.size == 0:
            break
        columns = descending[: size + 1, waiting]
        threshold = 0.5 * (columns[size] + columns[size - 1])
        with np.errstate(all="ignore"):
            tail = columns[:size] - threshold  # (size, waiting), largest first
            mean, variance = tail.mean(axis=0), tail.var(axis=0, ddof=1)
            ratio = mean * mean / variance
            scale, shape = 0.5 * mean * (ratio + 1), 0.5 * (1 - ratio)
            log_sf = _log_gpd_sf(tail, scale, shape)
            ad = _anderson_darling(log_sf)
            ad_p = _ad_p(ad, -shape)
            end = np.where(shape < 0, threshold - scale / shape, np.inf)
            ok = (ad_p > _FIT_ALPHA) & (end > np.maximum(columns[0], observed[waiting]))
        fit.ad[waiting], fit.ad_p[waiting] = ad, ad_p
        done = waiting[ok]
        for target, found in ((fit.threshold, threshold), (fit.scale, scale), (fit.shape, shape)):
            target[done] = found[ok]
        fit.quantile[done], fit.n_tail[done], fit.ok[done] = quantile, size, True
        waiting = waiting[~ok]
    return fit, ""


def _gpd_p(p: NDArray[Any], observed: NDArray[Any], fit: GpdFit, n: int) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        excess = observed - fit.threshold
        tail = fit.n_tail / n * np.exp(_log_gpd_sf(excess, fit.scale, fit.shape))
        return np.where(fit.ok & (p < _P_BELOW) & (excess >= 0) & (tail > 0), tail, p)


def _log_gpd_sf(y: NDArray[Any], scale: Any, shape: Any) -> NDArray[np.float64]:
    """Log of (1 + shape y / scale)^(-1 / shape), of exp(-y / scale) where the shape is 0."""
    u = shape * y / scale
    bend = np.where(np.abs(u) > 1e-12, np.log1p(np.maximum(u, -1.0)) / np.where(u == 0, 1.0, u), 1.0)
    result: NDArray[np.float64] = -(y / scale) * bend
    return result


def _anderson_darling(log_sf: NDArray[Any]) -> NDArray[np.float64]:
    """A^2 of each column, given the log survival function at its values, largest value first."""
    n = len(log_sf)
    log_cdf = np.log(-np.expm1(log_sf[::-1]))  # smallest value first
    weight = (2 * np.arange(1, n + 1) - 1.0)[:, None]
    ad: NDArray[np.float64] = -n - np.mean(weight * (log_cdf + log_sf), axis=0)
    return np.where(np.isnan(ad), np.inf, ad)


def _ad_p(ad: NDArray[Any], k: NDArray[Any]) -> NDArray[np.float64]:
    """Look up p of A^2, linear in k and in log p, clipped to the table; NaN parameters give its smallest p."""
    out = np.full(ad.shape, _AD_P[-1])
    for i in np.flatnonzero(np.isfinite(ad) & np.isfinite(k)):
        row = [np.interp(k[i], _AD_K, column) for column in _AD_TABLE.T]
        out[i] = np.exp(np.interp(ad[i], row, np.log(_AD_P)))
    return out


def _no_fit(v: int) -> GpdFit:
    nan = [np.full(v, np.nan) for _ in range(6)]
    return GpdFit(nan[0], nan[1], nan[2], nan[3], np.zeros(v, np.int64), nan[4], nan[5], np.zeros(v, bool))


def _spread(fit: GpdFit, v: int) -> GpdFit:
    """The fit of one null for v values."""
    wide: dict[str, Any] = {name: np.broadcast_to(getattr(fit, name), (v,)) for name in _FITTED}
    return replace(fit, **wide)


def _numbers(fit: GpdFit, reason: str) -> GpdFit:
    """The fit of one null as Python numbers."""
    return replace(fit, reason=reason, **{name: getattr(fit, name)[0].item() for name in _FITTED})


# --------------------------------------------------------------------------- gamma


def _moments(x: NDArray[Any]) -> tuple[float, float, float]:
    """Mean, variance (n - 1) and adjusted Fisher-Pearson skewness."""
    n, mean = x.size, float(x.mean())
    d = x - mean
    second = float(np.mean(d * d))
    if second <= (4 * np.finfo(float).eps * abs(mean)) ** 2:
        return mean, 0.0, float("nan")
    skewness = float(np.mean(d**3)) / second**1.5 * np.sqrt(n * (n - 1)) / (n - 2)
    return mean, second * n / (n - 1), float(skewness)


def _gamma_sf(x: NDArray[Any], mean: Any, variance: Any, skewness: Any) -> NDArray[np.float64]:
    """Survival function of Pearson's type III distribution: 1 below its support, 0 above it."""
    from scipy.special import gammainc, gammaincc, ndtr

    with np.errstate(all="ignore"):
        score = (x - mean) / np.sqrt(variance)
        size = np.maximum(np.abs(skewness), 1e-5)
        a = 4 / (size * size)
        upward = gammaincc(a, np.maximum(a + score * 2 / size, 0.0))
        downward = gammainc(a, np.maximum(a - score * 2 / size, 0.0))
        p = np.where(np.abs(skewness) < 1e-5, ndtr(-score), np.where(skewness > 0, upward, downward))
    return np.where(np.isnan(x), np.nan, p)


def _gamma_goodness(null: NDArray[Any]) -> tuple[float, float]:
    """Anderson-Darling statistic of the fit by moments, and its p among samples of the fitted distribution."""
    moments = _moments(null)
    ad = _gamma_ad(null, *moments)
    mean, variance, skewness = moments
    rng = np.random.Generator(np.random.Philox(key=0))
    exceeding = 1
    for _ in range(_BOOTSTRAPS):
        if abs(skewness) < 1e-5:
            score = rng.standard_normal(null.size)
        else:
            a = 4 / skewness**2
            score = np.sign(skewness) * (rng.standard_gamma(a, null.size) - a) / np.sqrt(a)
        sample = mean + np.sqrt(variance) * score
        exceeding += _gamma_ad(sample, *_moments(sample)) >= ad
    return ad, exceeding / (_BOOTSTRAPS + 1)


def _gamma_ad(sample: NDArray[Any], mean: float, variance: float, skewness: float) -> float:
    ascending = np.sort(sample)
    sf = _gamma_sf(ascending, mean, variance, skewness)
    cdf = _gamma_sf(-ascending, -mean, variance, -skewness)  # each tail computed by itself, to all digits
    tiny = 1e-16  # values outside the support: a large statistic, not an infinite one
    weight = 2 * np.arange(1, sample.size + 1) - 1.0
    terms = np.log(np.maximum(cdf, tiny)) + np.log(np.maximum(sf[::-1], tiny))
    return float(-sample.size - np.mean(weight * terms))


# --------------------------------------------------------------------------- arrays


def _host(array: Any) -> NDArray[Any]:
    backend = backend_of(array)
    return np.asarray(backend.to_numpy(backend.asarray(array)))  # sync: copies to the host


def _sizes(observed: Any, two_sided: bool) -> NDArray[np.float64]:
    values = np.asarray(_host(observed), dtype=np.float64)
    return np.abs(values) if two_sided else values
