"""Student's t and Fisher's F to normal z-scores and back, by equal tail areas, in the log domain.

A tail of 1e-5000 has a z like any other: no probability is ever formed that could underflow or round to 1.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError, UsageError

__all__ = ["f_to_z", "log_p_to_z", "t_slope", "t_to_z", "z_to_f", "z_to_log_p", "z_to_t"]

_LOG_HALF = math.log(0.5)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
_CENTRE = 0.5  # |t| below which areas are taken from the middle: a tail near 1/2 has no digits left for a small z
_FAR = 1e150  # |t| beyond which t * t could overflow


def t_to_z(t: Any, df: Any) -> Array:
    """Convert t to the z-score with the same tail area.

    Parameters
    ----------
    t : array, any shape, NumPy or CuPy
        Student's t.
    df : float or array that broadcasts to the shape of `t`
        Degrees of freedom, > 0, not necessarily whole; inf gives z = t.

    Returns
    -------
    z : float64 array, shape and device of `t`
        The sign of `t` is kept. Relative error 1e-12 for any t. NaN where t or df is NaN or df <= 0; inf where t
        is inf.

    Raises
    ------
    UsageError
        A scalar df that is not positive.

    Examples
    --------
    >>> z = t_to_z([2.0, -60.0], 20)
    >>> [round(float(v), 6) for v in z]
    [1.886218, -10.116237]
    """
    backend = backend_of(t, df if _ndim(df) else None)
    xp = backend.xp
    values, degrees, shape = _same_shape(backend, t, df)
    with np.errstate(all="ignore"):
        size = xp.abs(values)
        z = _upper_z(xp, _log_t_tail(backend, size, degrees))
        near = xp.minimum(size, _CENTRE)
        z = xp.where(size < _CENTRE, _centre_z(backend, near, xp.minimum(z, 1.0), degrees), z)
        z = xp.where(xp.isinf(degrees), size, z)
        z = xp.where(xp.isnan(size) | ~(degrees > 0), xp.nan, z)
        return _restored(xp.copysign(z, values), shape)


def z_to_t(z: Any, df: Any) -> Array:
    """Convert z to the t with the same tail area: the inverse of `t_to_z`.

    Parameters
    ----------
    z : array, any shape, NumPy or CuPy
        Normal scores.
    df : float or array that broadcasts to the shape of `z`
        Degrees of freedom, > 0.

    Returns
    -------
    t : float64 array, shape and device of `z`
        Relative error about 1e-12 times max(1, z * z / df), as far as double precision knows the tail. inf where no
        float64 is large enough (df = 1, z = 40) and where z is inf.

    Raises
    ------
    UsageError
        A scalar df that is not positive.

    Notes
    -----
    Newton's method on y = sqrt(df log(1 + t^2 / df)), in which z is nearly linear [1]_.

    References
    ----------
    .. [1] Wallace DL (1959). Bounds on normal approximations to Student's and the chi-square distributions. Annals of
       Mathematical Statistics 30, 1121-1130. doi:10.1214/aoms/1177706100

    Examples
    --------
    >>> round(float(z_to_t(3.1, 20)), 6)
    3.566004
    """
    backend = backend_of(z, df if _ndim(df) else None)
    xp = backend.xp
    values, degrees, shape = _same_shape(backend, z, df)
    with np.errstate(all="ignore"):
        size = xp.abs(values)
        y = size * ((8 * degrees + 3) / (8 * degrees + 1))
        t = _unfolded(xp, y, degrees)
        for _ in range(6):
            reached = t_to_z(t, degrees)
            dz_dy = t_slope(t, reached, degrees) * xp.where(t > 0, y / t, 1.0) * (1 + t * t / degrees)
            step = (reached - size) / dz_dy
            y = xp.where(xp.isfinite(step), xp.maximum(y - step, 0.0), y)
            t = _unfolded(xp, y, degrees)
        t = xp.where(xp.isinf(degrees) | xp.isinf(size) | (size == 0), size, t)
        t = xp.where(xp.isnan(size) | ~(degrees > 0), xp.nan, t)
        return _restored(xp.copysign(t, values), shape)


def f_to_z(F: Any, df1: float, df2: Any) -> Array:
    """Convert F to the z-score with the same upper-tail area.

    Parameters
    ----------
    F : array, any shape, NumPy or CuPy
        Fisher's F, >= 0.
    df1 : float
        Numerator degrees of freedom, > 0.
    df2 : float or array that broadcasts to the shape of `F`
        Denominator degrees of freedom, > 0.

    Returns
    -------
    z : float64 array, shape and device of `F`
        Negative below the median of F, where the lower tail is taken instead of 1 minus the upper one; -inf at 0,
        inf at inf; NaN where F is NaN or negative.

    Raises
    ------
    UsageError
        A scalar df that is not positive.

    Examples
    --------
    >>> [round(float(v), 6) for v in f_to_z([0.1, 13.0], 2, 6)]
    [-1.318393, 2.478771]
    """
    _refuse_scalar_df(df1)
    backend = backend_of(F, df2 if _ndim(df2) else None)
    xp = backend.xp
    values, degrees, shape = _same_shape(backend, F, df2)
    with np.errstate(all="ignore"):
        ratio = values * (df1 / degrees)
        x, y = 1 / (1 + ratio), 1 / (1 + 1 / ratio)  # of the upper tail and of the lower one
        log_upper = backend.log_betainc(degrees / 2, df1 / 2, x, y)
        if _ndim(df2) == 0:
            log_lower = backend.log_betainc(df1 / 2, float(df2) / 2, y, x)
        else:  # 1 minus the upper tail is kept to all digits as well, down to 1e-308
            log_lower = xp.log(-xp.expm1(log_upper))
        above = log_upper <= _LOG_HALF
        z = _upper_z(xp, xp.where(above, log_upper, log_lower))
        z = xp.where(above, z, -z)
        return _restored(xp.where(values >= 0, z, xp.nan), shape)


def z_to_f(z: float, df1: float, df2: float) -> float:
    """Return the F whose upper-tail area is that of `z`: a threshold on the z scale, on the scale of F.

    Parameters
    ----------
    z : float
        Normal score.
    df1, df2 : float
        Degrees of freedom, > 0.

    Returns
    -------
    float
        0 at -inf, inf at inf and where no float64 is large enough.

    Examples
    --------
    >>> round(z_to_f(2.3, 2, 6), 6)
    10.604027
    """
    from scipy.optimize import brentq

    if math.isnan(z) or math.isinf(z):
        return max(z, 0.0)
    lowest, highest = -690.0, 690.0  # of log F
    if f_to_z(math.exp(highest), df1, df2) <= z:
        return math.inf
    if f_to_z(math.exp(lowest), df1, df2) >= z:
        return 0.0
    return math.exp(brentq(lambda u: float(f_to_z(math.exp(u), df1, df2)) - z, lowest, highest, xtol=1e-14, rtol=1e-15))


def log_p_to_z(log_p: Any) -> Array:
    """Convert the natural log of an upper-tail probability to z.

    Parameters
    ----------
    log_p : array, any shape, NumPy or CuPy
        Natural log of P(Z >= z), <= 0. Give log(p) - log(2) for the size of z of a two-sided p.

    Returns
    -------
    z : float64 array, same shape and device
        inf at -inf, -inf at 0, NaN above 0. Relative error 1e-14 (absolute near z = 0).

    Notes
    -----
    Halley's method on the log of the normal tail, from the start of [1]_, formula 26.2.23.

    References
    ----------
    .. [1] Abramowitz M, Stegun IA (1964). Handbook of mathematical functions. National Bureau of Standards.

    Examples
    --------
    >>> [round(float(z), 6) for z in log_p_to_z([-3.0, -5000.0])]
    [1.646922, 99.944748]
    """
    backend = backend_of(log_p)
    xp = backend.xp
    values = _float64(backend, log_p)
    with np.errstate(all="ignore"):
        above = values <= _LOG_HALF
        z = _upper_z(xp, xp.where(above, values, xp.log(-xp.expm1(values))))
        return _restored(xp.where(above, z, -z), values.shape)


def z_to_log_p(z: Any) -> Array:
    """Return the natural log of the upper-tail probability P(Z >= z): exact where the probability underflows.

    Parameters
    ----------
    z : array, any shape, NumPy or CuPy
        Normal scores.

    Returns
    -------
    log_p : float64 array, same shape and device

    Examples
    --------
    >>> [round(float(v), 6) for v in z_to_log_p([0.0, 100.0])]
    [-0.693147, -5005.524209]
    """
    backend = backend_of(z)
    xp = backend.xp
    values = _float64(backend, z)
    with np.errstate(all="ignore"):
        size = xp.abs(values)
        log_tail = _log_upper(xp, size)[0]
        log_tail = xp.where(xp.isinf(size), -xp.inf, log_tail)
        return _restored(xp.where(values >= 0, log_tail, xp.log1p(-xp.exp(log_tail))), values.shape)


def t_slope(t: Array, z: Array, df: Any) -> Array:
    """Return dz/dt of `t_to_z` at `t`, given the `z` there: the ratio of the two densities."""
    backend = backend_of(t)
    xp = backend.xp
    values, degrees, shape = _same_shape(backend, t, df)
    scores = _float64(backend, z)
    with np.errstate(all="ignore"):
        log_peak = xp.log(_t_peak(backend, degrees))
        log_density = log_peak - (degrees + 1) / 2 * xp.log1p(values * values / degrees)
        slope = xp.exp(log_density + scores.reshape(-1) ** 2 / 2 + _LOG_SQRT_2PI)
        return _restored(slope, shape)


# --------------------------------------------------------------------------- tails of t


def _log_t_tail(backend: Backend, size: Array, df: Array) -> Array:
    """Log P(T >= |t|)."""
    xp = backend.xp
    inside = xp.minimum(size, _FAR)
    degrees = xp.where(xp.isinf(df), 1.0, df)  # inf is answered elsewhere
    ratio = inside * inside / degrees
    both = backend.log_betainc(degrees / 2, 0.5, 1 / (1 + ratio), 1 / (1 + 1 / ratio))
    beyond = xp.log(xp.maximum(size / xp.maximum(inside, 1.0), 1.0))
    return both + _LOG_HALF - degrees * beyond  # out there the tail is a power of t


def _centre_z(backend: Backend, size: Array, z: Array, df: Array) -> Array:
    """The z of small |t| to all digits: one step of Newton's method on the areas between 0 and z, and 0 and t."""
    xp = backend.xp
    degrees = xp.where(xp.isinf(df), 1.0, df)
    area_t = _t_peak(backend, degrees) * size * _mean_t_kernel(xp, size, degrees)
    area_z = z * _mean_over(lambda node: xp.exp(-0.5 * (z * node) ** 2)) / math.sqrt(2 * math.pi)
    return z - (area_z - area_t) * xp.exp(z * z / 2) * math.sqrt(2 * math.pi)


def _t_peak(backend: Backend, df: Array) -> Array:
    """Density of t at 0: the area up to |t| = 0.5 is known, and the integral of the kernel is too."""
    xp = backend.xp
    edge = xp.full(df.shape, _CENTRE, dtype=np.float64)
    ratio = edge * edge / df
    both = backend.log_betainc(df / 2, 0.5, 1 / (1 + ratio), 1 / (1 + 1 / ratio))
    return -0.5 * xp.expm1(both) / (edge * _mean_t_kernel(xp, edge, df))


def _mean_t_kernel(xp: Any, size: Array, df: Array) -> Array:
    """Mean of (1 + s^2 / df)^(-(df + 1) / 2) over 0 <= s <= size."""
    return _mean_over(lambda node: xp.exp(-0.5 * (df + 1) * xp.log1p((size * node) ** 2 / df)))


def _mean_over(integrand: Any) -> Array:
    """Mean of a smooth function over [0, 1], Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    total = 0.0
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        total = total + 0.5 * weight * integrand(0.5 * (node + 1))
    return total


def _unfolded(xp: Any, y: Array, df: Array) -> Array:
    """The t of Wallace's y, y^2 = df log(1 + t^2 / df)."""
    return xp.sqrt(df * xp.expm1(y * y / df))


# --------------------------------------------------------------------------- the normal tail


def _upper_z(xp: Any, log_tail: Array) -> Array:
    """The z >= 0 whose upper tail has this log, for log_tail <= log(1/2); NaN passes."""
    log_tail = xp.minimum(log_tail, _LOG_HALF)
    finite = xp.maximum(log_tail, -1e300)
    s = xp.sqrt(-2 * finite)
    z = s - (2.515517 + s * (0.802853 + s * 0.010328)) / (1 + s * (1.432788 + s * (0.189269 + s * 0.001308)))
    z = xp.maximum(z, 0.0)
    for _ in range(3):
        log_q, hazard = _log_upper(xp, z)
        newton = (log_q - finite) / hazard
        z = xp.maximum(z + newton / (1 + 0.5 * newton * (hazard - z)), 0.0)
    return xp.where(xp.isinf(log_tail), xp.inf, z)


def _log_upper(xp: Any, z: Array) -> tuple[Array, Array]:
    """Log Q(z) and the hazard phi(z) / Q(z) for z >= 0."""
    scaled = _erfcx(xp, z * math.sqrt(0.5))
    return xp.log(0.5 * scaled) - 0.5 * z * z, math.sqrt(2 / math.pi) / scaled


def _erfcx(xp: Any, x: Array) -> Array:
    """exp(x^2) erfc(x) for x >= 0: one Chebyshev series in (x - 3.75) / (x + 3.75) for the whole half line.

    After Shepherd and Laframboise (1981), Mathematics of Computation 36, 249-253,
    doi:10.1090/S0025-5718-1981-0595058-X. Written against `xp`: no array library has a log-domain inverse.
    """
    *higher, first = _erfcx_series()
    x = xp.minimum(x, 1e200)
    y = (x - 3.75) / (x + 3.75)
    b1 = b2 = xp.zeros_like(y)
    for c in higher:
        b1, b2 = 2 * y * b1 - b2 + c, b1
    return (y * b1 - b2 + first) / (1 + 2 * x)


@functools.cache
def _erfcx_series() -> tuple[float, ...]:
    """Chebyshev coefficients of (1 + 2 x) erfcx(x), the highest first."""
    from scipy.special import erfcx

    def values(y: Any) -> Any:
        x = 3.75 * (1 + y) / (1 - y)
        return (1 + 2 * x) * erfcx(x)

    series = np.polynomial.chebyshev.chebinterpolate(values, 60)  # its nodes leave out y = 1
    return tuple(series[23::-1].tolist())  # what follows is below 1e-17 and drowned by the rounding of erfcx


# --------------------------------------------------------------------------- shapes


def _same_shape(backend: Backend, values: Any, df: Any) -> tuple[Array, Array, tuple[int, ...]]:
    """Values and df as flat float64 arrays of one size, and the shape to come back to."""
    _refuse_scalar_df(df)
    xp = backend.xp
    array, degrees = _float64(backend, values), _float64(backend, df)
    if degrees.ndim > array.ndim or any(
        d not in (1, n) for d, n in zip(degrees.shape[::-1], array.shape[::-1], strict=False)
    ):
        raise DataError(
            f"df has shape {tuple(degrees.shape)} and the statistic {tuple(array.shape)}",
            "give one df, or one per element",
        )
    degrees = xp.broadcast_to(degrees, array.shape)
    return array.reshape(-1), degrees.reshape(-1), tuple(array.shape)


def _refuse_scalar_df(df: Any) -> None:
    if _ndim(df) == 0 and not hasattr(df, "get") and not float(df) > 0:
        raise UsageError(f"df is {df}, expected a number > 0", "df: observations less the rank of the design")


def _ndim(value: Any) -> int:
    return int(value.ndim) if hasattr(value, "ndim") else np.ndim(value)  # no function of NumPy takes a device array


def _float64(backend: Backend, values: Any) -> Array:
    return backend.asarray(values, dtype=np.float64)


def _restored(flat: Array, shape: tuple[int, ...]) -> Array:
    return flat.reshape(shape)[()] if isinstance(flat, np.ndarray) else flat.reshape(shape)
