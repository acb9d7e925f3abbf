"""Natural log of the regularised incomplete beta function: the tails of t and F without underflow.

    I_x(a, b) = x^a y^b / B(a, b) / (beta1 + alpha2 / (beta2 + alpha3 / (beta3 + ...))),  y = 1 - x

for x below the mean; above it log1p(-I_y(b, a)). The fraction is that of Didonato and Morris 1992
(doi 10.1145/131766.131776); that of DLMF 8.17.22 cancels near the mean when `a` is large. `log_betainc.cu` is its twin.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

__all__ = ["log_betainc"]

_TERMS = 64  # turns whose coefficients are tabulated; most elements need a dozen


@nb.njit(cache=True, nogil=True, error_model="numpy")
def log_betainc(a, a_step, b, x, y, out, start, stop):  # type: ignore[no-untyped-def]
    """Write log I_x(a, b) for elements start..stop; `a_step` is 0 where `a` holds one value for all."""
    log_beta = 0.0
    previous = np.nan
    # Coefficients of both fractions, where one `a` serves all elements: no division is then left but in the test for
    # convergence.
    n_terms = _TERMS if a_step == 0 else 0
    below = _coefficients(a[0], b, n_terms)
    above = _coefficients(b, a[0], n_terms)
    for i in range(start, stop):
        ai = a[i * a_step]
        if ai != previous:
            log_beta = _log_beta(ai, b)
            previous = ai
        out[i] = _log_i(ai, b, x[i], y[i], log_beta, below, above)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _log_i(a, b, x, y, log_beta, below, above):  # type: ignore[no-untyped-def]
    if not (x >= 0.0 and y >= 0.0 and a > 0.0 and b > 0.0):
        return np.nan
    if x == 0.0:
        return -np.inf
    if y == 0.0:
        return 0.0
    log_x = math.log(x) if x < y else math.log1p(-y)
    log_y = math.log(y) if y < x else math.log1p(-x)
    front = a * log_x + b * log_y - log_beta
    if a >= 10.0 and b >= 10.0:
        front = _log_front(a, b, x, y, log_x, log_y)
    if x < (a + 1.0) / (a + b + 2.0):
        return front - math.log(_fraction(a, b, x, y, below))
    return math.log1p(-min(math.exp(front) / _fraction(b, a, y, x, above), 1.0))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _coefficients(a, b, n):  # type: ignore[no-untyped-def]
    """What alpha and beta of turns 1..n hold of a and b alone, (3, n)."""
    table = np.empty((3, n))
    for k in range(n):
        turn = k + 1.0
        odd = a + 2.0 * turn - 1.0
        table[0, k] = turn * (b - turn) / odd
        table[1, k] = (a + turn) / (odd + 2.0)
        table[2, k] = (a + turn - 1.0) / odd * ((a + b + turn - 1.0) / odd) * (turn * (b - turn))
    return table


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _fraction(a, b, x, y, table):  # type: ignore[no-untyped-def]
    """The continued fraction by its convergents p / q.

    Lentz's method divides by the last denominator in every turn, one division waiting for the other; here only the
    coefficients are divided, ahead of time: half the time for an element.
    """
    distance = _below_mean(a, b, x, y)
    p0, q0 = 1.0, 0.0
    p1, q1 = a / (a + 1.0) * (distance + 1.0), 1.0
    last = p1
    n_terms = table.shape[1]
    for k in range(20000):
        turn = k + 1.0
        if k < n_terms:
            beta = turn + table[0, k] * x + table[1, k] * (distance + 1.0 + turn * (1.0 + y))
            alpha = table[2, k] * x * x
        else:
            odd = a + 2.0 * turn - 1.0
            w = turn * (b - turn) * x
            alpha = (a + turn - 1.0) / odd * ((a + b + turn - 1.0) / odd) * w * x
            beta = turn + w / odd + (a + turn) / (odd + 2.0) * (distance + 1.0 + turn * (1.0 + y))
        p0, p1 = p1, beta * p1 + alpha * p0
        q0, q1 = q1, beta * q1 + alpha * q0
        if k & 1 == 1:
            value = p1 / q1
            if abs(value - last) <= 1e-15 * abs(value):
                return value
            last = value
            size = abs(q1)
            if size > 1e100 or size < 1e-100:
                p0, p1, q0, q1 = p0 / size, p1 / size, q0 / size, q1 / size
    return last


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _below_mean(a, b, x, y):  # type: ignore[no-untyped-def]
    """a - (a + b) x, without cancellation near x = 1."""
    return (a + b) * y - b if a > b else a - (a + b) * x


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _log_front(a, b, x, y, log_x, log_y):  # type: ignore[no-untyped-def]
    """log(x^a y^b / B(a, b)) for large a and b: powers and B nearly cancel, so they are taken around the mean."""
    off = _below_mean(a, b, x, y)
    bulk = a * _excess(-off / a, log_x + math.log1p(b / a)) + b * _excess(off / b, log_y + math.log1p(a / b))
    correction = _stirling(a) + _stirling(b) - _stirling(a + b)
    return 0.5 * math.log(a / (a + b) * b / (2.0 * math.pi)) - bulk - correction


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _excess(u, log_1pu):  # type: ignore[no-untyped-def]
    """u - log(1 + u), without cancellation near 0; `log_1pu` is what log(1 + u) is where u is not small."""
    if abs(u) > 0.4:
        return u - log_1pu
    r = u / (u + 2.0)  # log(1 + u) = 2 (r + r^3 / 3 + r^5 / 5 + ...)
    t = r * r
    total = 0.0
    for k in range(31, 2, -2):
        total = total * t + 1.0 / k
    return r * (u - 2.0 * t * total)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _log_beta(a, b):  # type: ignore[no-untyped-def]
    """log B(a, b), without the digits that lgamma(a + b) - lgamma(a) loses where one argument is large."""
    big, small = max(a, b), min(a, b)
    total = big + small
    if big < 10.0:
        return math.lgamma(big) + math.lgamma(small) - math.lgamma(total)
    ratio = (big - 0.5) * math.log1p(small / big) + small * math.log(total) - small
    return math.lgamma(small) - (ratio + (_stirling(total) - _stirling(big)))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _stirling(z):  # type: ignore[no-untyped-def]
    """The correction of Stirling's formula, log gamma(z) - ((z - 1/2) log z - z + log(2 pi) / 2), for z >= 10."""
    w = 1.0 / (z * z)
    series = 1 / 12 - w * (1 / 360 - w * (1 / 1260 - w * (1 / 1680 - w * (1 / 1188 - w * (691 / 360360 - w / 156)))))
    return series / z
