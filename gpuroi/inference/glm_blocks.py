"""The linear model of a block of elements: ordinary, with element-wise regressors, with a variance for each group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError
from gpuroi.inference.design import DesignBasis

__all__ = ["Estimates", "Model", "Sums", "solve_block", "sums_by_kernel"]

Matrix = NDArray[np.float64]

# Of a sum of squares, what rounding leaves of a residual that is 0.
_NOTHING_LEFT = 1e-28
# Of its length, what must be left of an element-wise regressor beside the others.
_COLLINEAR = 1e-8


class Estimates(NamedTuple):
    """What one contrast gives in a block of `w` elements, float64; NaN where it does not exist."""

    effect: Array  # (r, w)
    variance: Array  # (r, w)
    statistic: Array  # (w,)
    df: Any  # denominator: float or (w,)


@dataclass(frozen=True)
class Model:
    """A design with its contrasts on the backend.

    Attributes
    ----------
    backend : Backend
    basis : DesignBasis
    u : float64 (n, rank)
        `basis.u` on the backend.
    in_basis : list of float64 (r, rank)
        Contrasts in the coordinates of `u`, on the host.
    extra : list of float64 (r, q)
        Their weights on element-wise regressors, on the host.
    as_f : list of bool
        F and G instead of t and v.
    groups : int array (n,) or None
        Variance group of each observation, from 0, on the host.
    """

    backend: Backend
    basis: DesignBasis
    u: Array
    in_basis: list[Matrix]
    extra: list[Matrix]
    as_f: list[bool]
    groups: NDArray[np.int64] | None

    @classmethod
    def of(
        cls,
        backend: Backend,
        basis: DesignBasis,
        rows: list[Matrix],
        as_f: list[bool],
        groups: NDArray[np.int64] | None = None,
    ) -> Model:
        """Bring contrast rows, (r, p + q) each, into the coordinates of the design's basis."""
        p = len(basis.column_norms)
        if groups is not None:
            _refuse_empty_groups(basis, groups)
        return cls(
            backend=backend,
            basis=basis,
            u=backend.asarray(basis.u),
            in_basis=[r[:, :p] @ basis.to_contrast for r in rows],
            extra=[r[:, p:] for r in rows],
            as_f=as_f,
            groups=groups,
        )

    @property
    def needs_sums_alone(self) -> bool:
        """Can the CPU do without the residuals themselves, unless there are element-wise regressors?"""
        return self.backend.name == "cpu" and self.groups is None

    @cached_property
    def on_constant(self) -> list[Matrix]:
        """Estimates of each contrast for data that are 1 everywhere, (r, 1): 0 exactly where rounding alone is left."""
        ones = self.basis.u.T @ np.ones(self.basis.n)
        found = [c @ ones for c in self.in_basis]
        floor = [1e-10 * np.linalg.norm(c, axis=1) * self.basis.n**0.5 for c in self.in_basis]
        return [np.where(np.abs(v) < least, 0.0, v)[:, None] for v, least in zip(found, floor, strict=True)]


def solve_block(
    model: Model, y: Array, covariates: list[Array], *, sums: Sums | None = None
) -> tuple[list[Estimates], Array, Array]:
    """Fit a block of elements and test every contrast.

    Parameters
    ----------
    model : Model
    y : float32 or float64 array, shape (n, w)
        Data without NaN.
    covariates : list of float arrays, shape (n, w)
        Element-wise regressors.
    sums : Sums, optional
        `sums_by_kernel(model, y)`, if they are known.

    Returns
    -------
    estimates : list of Estimates
        One for each contrast.
    constant : bool array, shape (w,)
        Elements whose residual variance is 0, to rounding: their statistics are NaN.
    collinear : bool array, shape (w,)
        Elements of which an element-wise regressor depends on the other regressors: all is NaN.
    """
    backend, xp = model.backend, model.backend.xp
    collinear = xp.zeros(y.shape[1], dtype=bool)
    fit: Any = None
    e: Any = None
    if model.needs_sums_alone and not covariates:
        sums = sums or sums_by_kernel(model, y)
    else:
        e = y.astype(np.float64, order="C", copy=True)
        sums = _sums_and_residuals(model, e)
    if covariates:
        fit = _orthogonal_covariates(model, [c.astype(np.float64, order="C", copy=True) for c in covariates])
        collinear = fit.collinear
        d = _coordinates(xp, e, fit.columns)
        sums = sums._replace(left=xp.sum(e * e, axis=0))
    constant = sums.constant | (sums.left <= _NOTHING_LEFT * sums.size * model.basis.n)
    ss = xp.where(constant | collinear, xp.nan, sums.left)
    estimates = []
    for c, extra, on_one, as_f in zip(model.in_basis, model.extra, model.on_constant, model.as_f, strict=True):
        effect = backend.asarray(c) @ sums.coordinates + backend.asarray(on_one) * sums.shift  # (r, w)
        if fit is not None:
            h = _covariate_weights(model, fit, c, extra, on_one)
            effect = effect + sum(h[:, j] * d[j] for j in range(len(d)))
            effect = xp.where(collinear, xp.nan, effect)
            estimates.append(_with_covariates(model, c, h, effect, ss, as_f))
        elif model.groups is not None:
            estimates.append(_heteroscedastic(model, c, effect, e, constant, as_f))
        else:
            estimates.append(_ordinary(model, c, effect, ss, as_f))
    if model.groups is not None and not covariates:
        constant |= xp.isnan(estimates[0].statistic)
    return estimates, constant & ~collinear, collinear


class Sums(NamedTuple):
    """What the ordinary fit of a block needs of its data, float64."""

    shift: Array  # (w,): taken off before all else
    coordinates: Array  # (rank, w), on the design's basis
    size: Array  # (w,): sum of squares
    left: Array  # (w,): sum of squares of the residuals
    constant: Array  # (w,): bool


def _sums_and_residuals(model: Model, y: Array) -> Sums:
    """The readable version; `y` becomes the residuals."""
    xp = model.backend.xp
    constant = xp.all(y == y[:1], axis=0)
    shift = _take_shift(model, y)
    size = xp.sum(y * y, axis=0)
    a = model.u.T @ y  # (rank, w)
    y -= model.u @ a  # two passes: the residuals themselves are squared
    return Sums(shift, a, size, xp.sum(y * y, axis=0), constant)


def sums_by_kernel(model: Model, y: NDArray[Any]) -> Sums:
    """The same in one pass over the data, on the CPU. NaN and infinity reach `size`."""
    from gpuroi.backends.kernels.least_squares import fit_columns

    w = y.shape[1]
    shift = y[0].astype(np.float64) if model.basis.holds_constant else np.zeros(w)
    a, size, left = np.empty((model.basis.rank, w)), np.empty(w), np.empty(w)
    fit_columns(y, model.u, shift, a, size, left)
    constant = size == 0 if model.basis.holds_constant else np.all(y == y[:1], axis=0)
    return Sums(shift, a, size, left, constant)


def _take_shift(model: Model, values: Array) -> Array:
    """Take the first observation off where the design can give it back: large means then cost no digits."""
    if not model.basis.holds_constant:
        return model.backend.xp.zeros(values.shape[1])
    shift = values[0].copy()
    values -= shift
    return shift


# --------------------------------------------------------------------------- one variance


def _ordinary(model: Model, c: Matrix, effect: Array, ss: Array, as_f: bool) -> Estimates:
    backend, xp = model.backend, model.backend.xp
    df = float(model.basis.df)
    factor = np.linalg.cholesky(c @ c.T)  # (r, r)
    s2 = ss / df
    variance = backend.asarray(np.sum(c * c, axis=1))[:, None] * s2  # (r, w)
    # The residual alone decides what is constant; an exact 0 / 0 stays quiet.
    if not as_f:
        return Estimates(effect, variance, effect[0] / xp.sqrt(variance[0]), df)
    u = backend.asarray(np.linalg.inv(factor)) @ effect
    return Estimates(effect, variance, xp.sum(u * u, axis=0) / len(c) / s2, df)


# --------------------------------------------------------------------------- element-wise regressors


class _Covariates(NamedTuple):
    """Element-wise regressors, orthonormal to the design and to each other."""

    columns: list[Array]  # q of (n, w)
    on_basis: list[Array]  # q of (rank, w): coordinates on the design's basis, shift left out
    shifts: list[Array]  # q of (w,)
    triangle: list[list[Array]]  # [i][j], i <= j: (w,)
    collinear: Array  # (w,)


def _orthogonal_covariates(model: Model, covariates: list[Array]) -> _Covariates:
    xp = model.backend.xp
    shifts: list[Array] = []
    on_basis: list[Array] = []
    columns: list[Array] = []
    triangle: list[list[Array]] = [[] for _ in covariates]
    collinear = xp.zeros(covariates[0].shape[1], dtype=bool)
    for j, w in enumerate(covariates):
        shifts.append(_take_shift(model, w))
        size = xp.sqrt(xp.sum(w * w, axis=0))
        g = model.u.T @ w
        w -= model.u @ g
        again = model.u.T @ w  # a second time: what is left may be small beside what was taken off
        w -= model.u @ again
        on_basis.append(g + again)
        for i, q in enumerate(columns):
            along = xp.sum(q * w, axis=0)
            w -= q * along
            rest = xp.sum(q * w, axis=0)
            w -= q * rest
            triangle[i].append(along + rest)
        length = xp.sqrt(xp.sum(w * w, axis=0))
        bad = ~(length > _COLLINEAR * size)
        collinear |= bad
        length = xp.where(bad, 1.0, length)
        triangle[j].append(length)
        columns.append(w / length)
    return _Covariates(columns, on_basis, shifts, triangle, collinear)


def _coordinates(xp: Any, y: Array, columns: list[Array]) -> list[Array]:
    """Coordinates of the residuals on the columns, which are taken off."""
    found = []
    for q in columns:
        d = xp.sum(q * y, axis=0)
        y -= q * d
        found.append(d)
    return found


def _covariate_weights(model: Model, fit: _Covariates, c: Matrix, extra: Matrix, on_one: Matrix) -> Array:
    """Weights of a contrast on the orthonormal element-wise regressors, (r, q, w).

    The coefficients b of the regressors solve R b = d, and the design's own estimates change by minus their overlap
    with them: the contrast is c a + (extra - c G) R^-1 d.
    """
    backend, xp = model.backend, model.backend.xp
    on_design = backend.asarray(c)
    weights: list[Array] = []
    for j, (g, shift) in enumerate(zip(fit.on_basis, fit.shifts, strict=True)):
        m = backend.asarray(extra[:, j : j + 1]) - on_design @ g - backend.asarray(on_one) * shift  # (r, w)
        for i in range(j):
            m = m - weights[i] * fit.triangle[i][j - i]
        weights.append(m / fit.triangle[j][0])
    return xp.stack(weights, axis=1)


def _with_covariates(model: Model, c: Matrix, h: Array, effect: Array, ss: Array, as_f: bool) -> Estimates:
    backend, xp = model.backend, model.backend.xp
    df = float(model.basis.df - h.shape[1])
    s2 = ss / df
    variance = (backend.asarray(np.sum(c * c, axis=1))[:, None] + xp.sum(h * h, axis=1)) * s2
    if not as_f:
        return Estimates(effect, variance, effect[0] / xp.sqrt(variance[0]), df)
    v = xp.moveaxis(h, 2, 0)  # (w, r, q)
    v = backend.asarray(c @ c.T) + v @ xp.swapaxes(v, 1, 2)  # (w, r, r)
    return Estimates(effect, variance, _quadratic(xp, v, effect) / len(c) / s2, df)


def _quadratic(xp: Any, v: Array, effect: Array) -> Array:
    """The quadratic form effect' v^-1 effect of every element; `v` (w, r, r), `effect` (r, w)."""
    columns = xp.ascontiguousarray(effect.T)[:, :, None]  # (w, r, 1)
    bad = ~xp.isfinite(columns).all(axis=(1, 2)) | ~xp.isfinite(v).all(axis=(1, 2))
    safe = xp.where(bad[:, None, None], xp.eye(v.shape[1]), v)
    solved = xp.linalg.solve(safe, xp.where(bad[:, None, None], 0.0, columns))
    return xp.where(bad, xp.nan, xp.sum(columns * solved, axis=(1, 2)))


# --------------------------------------------------------------------------- a variance for each group


def _refuse_empty_groups(basis: DesignBasis, groups: NDArray[np.int64]) -> None:
    shares = np.bincount(groups, weights=1 - np.sum(basis.u**2, axis=1))
    present = np.bincount(groups) > 0
    short = np.flatnonzero(present & (shares < 1e-8))
    if short.size:
        raise DataError(
            f"variance group {int(short[0]) + 1} has {int(np.sum(groups == short[0]))} observations, which the design "
            "fits exactly: no variance can be told",
            "join variance groups, or leave regressors out",
        )


def _heteroscedastic(model: Model, c: Matrix, effect: Array, e: Array, constant: Array, as_f: bool) -> Estimates:
    """Aspin-Welch v, or G: the estimates against a variance in which each group weighs by its own residuals."""
    backend, xp = model.backend, model.backend.xp
    assert model.groups is not None
    u = model.basis.u
    shares, inner, weights = [], [], []  # of each group
    bad = constant
    total = xp.sum(e * e, axis=0)
    for g in np.unique(model.groups):
        here = model.groups == g
        shares.append(float(np.sum(1 - np.sum(u[here] ** 2, axis=1))))  # its degrees of freedom
        inner.append(u[here].T @ u[here])  # (rank, rank)
        rows = e[backend.asarray(np.flatnonzero(here))]
        ss = xp.sum(rows * rows, axis=0)
        bad = bad | ~(ss > _NOTHING_LEFT * len(e) * total)
        weights.append(shares[-1] / ss)
    weights = [xp.where(bad, 1.0, w) for w in weights]
    # (w, rank, rank), in units of the largest weight: no element is too small for the solver
    largest = weights[0]
    for w in weights[1:]:
        largest = xp.maximum(largest, w)
    m = sum((w / largest)[:, None, None] * backend.asarray(s) for w, s in zip(weights, inner, strict=True))
    columns = xp.broadcast_to(backend.asarray(np.ascontiguousarray(c.T)), (len(m), *c.T.shape))
    x = xp.linalg.solve(m, columns)  # (w, rank, r)
    v = (backend.asarray(c) @ x) / largest[:, None, None]  # (w, r, r)
    variance = xp.where(bad, xp.nan, xp.stack([v[:, i, i] for i in range(len(c))]))
    if not as_f:
        df = _satterthwaite(backend, x[:, :, 0] / largest[:, None], weights, inner, shares)
        return Estimates(effect, variance, effect[0] / xp.sqrt(variance[0]), xp.where(bad, xp.nan, df))
    r = len(c)
    spread = _welch_spread(weights, shares, np.bincount(model.groups)[np.unique(model.groups)])
    correction = 1 + 2 * (r - 1) / (r * (r + 2)) * spread
    statistic = _quadratic(xp, v, effect) / r / correction
    df = r * (r + 2) / (3 * spread)
    return Estimates(effect, variance, xp.where(bad, xp.nan, statistic), xp.where(bad, xp.nan, df))


def _satterthwaite(backend: Backend, x: Array, weights: list[Array], inner: list[Matrix], shares: list[float]) -> Array:
    """Degrees of freedom of a variance that is a sum over groups: V^2 / sum(V_g^2 / df_g)."""
    xp = backend.xp
    total, spread = 0.0, 0.0
    for w, s, share in zip(weights, inner, shares, strict=True):
        part = w * xp.sum(x * (x @ backend.asarray(s)), axis=1)  # (w,)
        total = total + part
        spread = spread + part * part / share
    return total * total / spread


def _welch_spread(weights: list[Array], shares: list[float], counts: NDArray[np.int64]) -> Array:
    """Sum over groups of (1 - share of the weight)^2 / df, Welch's measure of how unequal the groups are."""
    trace = sum(w * int(n) for w, n in zip(weights, counts, strict=True))
    return sum((1 - w * int(n) / trace) ** 2 / share for w, n, share in zip(weights, counts, shares, strict=True))
