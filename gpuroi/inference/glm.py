"""The mass-univariate general linear model: t, F, v and G for every element, with p-values that do not underflow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import backend_of
from gpuroi.backends.base import Array, Backend
from gpuroi.backends.memory import map_chunks
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.design import DesignBasis, contrast_rows, decompose
from gpuroi.inference.glm_blocks import Model, solve_block
from gpuroi.ops.tails import Alternative, log_p_of_f, log_p_of_t
from gpuroi.ops.volumes import as_float

__all__ = ["GlmResult", "glm"]

_AT_ONCE = 1 << 28  # bytes of working memory: larger blocks are not faster


@dataclass(frozen=True)
class GlmResult:
    """What one contrast gives for every element.

    Attributes
    ----------
    kind : {"t", "F", "v", "G"}
        v and G: with variance groups.
    effect : array, shape (v,), for F and G (r, v)
        Estimates of the (independent) rows of the contrast.
    variance : array, shape of `effect`
        Their variances: the squares of their standard errors.
    statistic : array, shape (v,)
    df : float or float64 array (v,), for F and G a pair
        Degrees of freedom; an array where they differ between elements.
    z : array, shape (v,)
        Normal score of the same tail area as the statistic: for t and v with its sign, for F and G of the upper tail.
    p, log10p : float64 array, shape (v,)
        p-value and its log10, exact where `p` is 0. For F and G of the upper tail.
    n_constant : int
        Elements without residual variance (constant, or fitted exactly to rounding; for v and G in any group): no
        statistic there, but NaN.
    n_not_estimable : int
        Elements whose missing observations or own regressors leave the model without an answer: NaN.

    Notes
    -----
    Arrays lie on the device of the data; `effect`, `variance`, `statistic` and `z` have its float dtype.
    """

    kind: Literal["t", "F", "v", "G"]
    effect: Any
    variance: Any
    statistic: Any
    df: Any
    z: Any
    p: Any
    log10p: Any
    n_constant: int
    n_not_estimable: int


@overload
def glm(
    data: Any,
    design: ArrayLike,
    contrasts: Mapping[str, ArrayLike],
    *,
    variance_groups: ArrayLike | None = ...,
    missing: Literal["raise", "pattern"] = ...,
    elementwise: Any = ...,
    alternative: Alternative = ...,
) -> dict[str, GlmResult]: ...
@overload
def glm(
    data: Any,
    design: ArrayLike,
    contrasts: ArrayLike,
    *,
    variance_groups: ArrayLike | None = ...,
    missing: Literal["raise", "pattern"] = ...,
    elementwise: Any = ...,
    alternative: Alternative = ...,
) -> GlmResult: ...
def glm(
    data: Any,
    design: ArrayLike,
    contrasts: Any,
    *,
    variance_groups: ArrayLike | None = None,
    missing: Literal["raise", "pattern"] = "raise",
    elementwise: Any = None,
    alternative: Alternative = "two-sided",
) -> Any:
    """Fit a linear model to every element and test contrasts.

    Parameters
    ----------
    data : array, shape (n, v)
        Observations in rows, elements in columns; NumPy or CuPy.
    design : array, shape (n, p)
        Regressors in columns, of any rank. An intercept is a column like any other.
    contrasts : array, shape (p,) for t or (k, p) for F; or mapping of name to such
        With element-wise regressors p may be the design's or that plus theirs, which come last.
    variance_groups : array, shape (n,), optional
        Labels of groups of observations with a variance of their own: v and G instead of t and F.
    missing : {"raise", "pattern"}, default "raise"
        What NaNs do: an error, or left out element by element. Elements that miss the same observations are solved
        together.
    elementwise : array, shape (n, v) or (n, v, q), or list of (n, v), optional
        Regressors that differ between elements, where the data lie. They are nuisance unless the contrast weighs them.
    alternative : {"two-sided", "less", "greater"}, default "two-sided"
        Side of the p-value of t and v.

    Returns
    -------
    GlmResult, or dict of GlmResult
        A dict, in the order given, for a mapping.

    Raises
    ------
    UsageError
        Unknown `missing` or `alternative`; variance groups together with element-wise regressors.
    DataError
        Shapes that do not fit, infinite values, NaN under `missing="raise"`, a contrast that the design cannot
        estimate, a variance group that the design fits exactly.

    Notes
    -----
    Ordinary least squares on an orthonormal basis of the design, in float64 whatever the data, relative to the first
    observation where the design spans a constant; residuals are formed and then squared (two passes). Means of 1e6
    cost no digits.

    v is Aspin's and Welch's statistic for any design: the ordinary estimate against `c (X'WX)^- c'`, in which W
    holds for each group its degrees of freedom over its sum of squared residuals; G generalises it to several
    rows [1]_. The degrees of freedom of v are Satterthwaite's [2]_ for that variance, those of G are Welch's: for two
    groups both are what `scipy.stats.ttest_ind(equal_var=False)` takes. (PALM divides those of v by three.)

    References
    ----------
    .. [1] Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE (2014). Permutation inference for the general
       linear model. NeuroImage 92, 381-397. doi:10.1016/j.neuroimage.2014.01.060
    .. [2] Satterthwaite FE (1946). An approximate distribution of estimates of variance components. Biometrics
       Bulletin 2, 110-114. doi:10.2307/3002019

    Examples
    --------
    >>> import numpy as np
    >>> data = np.array([[3.0], [4.0], [5.0], [1.0], [2.0], [3.0]])
    >>> design = np.repeat(np.eye(2), 3, axis=0)
    >>> result = glm(data, design, [1, -1])
    >>> result.effect.round(3), result.statistic.round(3), result.df, result.p.round(2)
    (array([2.]), array([2.449]), 4.0, array([0.07]))
    """
    if missing not in ("raise", "pattern"):
        raise UsageError(f'missing is "{missing}"', 'use "raise" or "pattern"')
    covariates = _covariate_list(elementwise)
    backend = backend_of(data, *covariates)
    values = as_float(backend, data, "data")
    covariates = [as_float(backend, c, f"element-wise regressor {i + 1}") for i, c in enumerate(covariates)]
    basis = decompose(design)
    _check_shapes(values, covariates, basis)
    groups = _group_codes(variance_groups, basis.n)
    if groups is not None and covariates:
        raise UsageError("variance_groups together with elementwise", "use one of the two")
    named = dict(contrasts) if isinstance(contrasts, Mapping) else {"contrast": contrasts}
    if not named:
        raise UsageError("no contrasts", "give at least one")
    rows = [contrast_rows(basis, c, name=name, n_extra=len(covariates)) for name, c in named.items()]
    as_f = [np.ndim(c) == 2 for c in named.values()]
    if basis.df <= len(covariates):
        raise DataError(
            f"{basis.n} observations, {basis.rank} independent regressors and {len(covariates)} element-wise ones: "
            "no degrees of freedom are left",
            "leave regressors out, or add observations",
        )
    Model.of(backend, basis, rows, as_f, groups)  # the whole design has to have an answer
    fit = _Fit(backend, values, covariates, design, basis, rows, as_f, groups)
    with np.errstate(all="ignore"):
        if missing == "raise":
            _refuse_not_finite(backend, [values, *covariates])
            fit.solve(None, None)
        else:
            for present, columns in _patterns(backend, [values, *covariates]):
                fit.solve(present, columns)
        results = [fit.result(i, alternative) for i in range(len(named))]
    return dict(zip(named, results, strict=True)) if isinstance(contrasts, Mapping) else results[0]


class _Fit:
    """The outputs of all contrasts, filled pattern by pattern and block by block."""

    def __init__(
        self,
        backend: Backend,
        values: Array,
        covariates: list[Array],
        design: ArrayLike,
        basis: DesignBasis,
        rows: list[NDArray[np.float64]],
        as_f: list[bool],
        groups: NDArray[np.int64] | None,
    ) -> None:
        xp = backend.xp
        v = values.shape[1]
        self.backend, self.values, self.covariates = backend, values, covariates
        self.design, self.basis, self.rows, self.as_f, self.groups = np.asarray(design), basis, rows, as_f, groups
        self.effects = [xp.full((len(r), v), xp.nan, dtype=values.dtype) for r in rows]
        self.variances = [xp.full((len(r), v), xp.nan, dtype=values.dtype) for r in rows]
        self.statistics = [xp.full(v, xp.nan) for _ in rows]  # float64: the tails are taken of these
        self.dfs = [xp.full(v, xp.nan) for _ in rows]
        self.constant = xp.zeros(v, dtype=bool)
        self.collinear = xp.zeros(v, dtype=bool)
        self.varying = groups is not None

    def solve(self, present: NDArray[np.bool_] | None, columns: NDArray[np.int64] | None) -> None:
        """Fit the elements of `columns` on the observations `present`; None: all."""
        model = self._model(present)
        every = self.values.shape[1] if columns is None else len(columns)
        if columns is not None:
            self.varying |= present is not None and not present.all()
        if model is None:
            self.collinear[self.backend.asarray(columns)] = True
            return
        rank = model.basis.rank
        each = 8 * (model.basis.n * (4 + 2 * len(self.covariates)) + 4 * rank * (1 + len(self.covariates)))
        each += 8 * 3 * rank * (rank + 2) if self.groups is not None else 0

        def block(part: slice) -> None:
            self._block(model, present, part if columns is None else columns[part])

        map_chunks(block, every, each, backend=self.backend, limit=_AT_ONCE)

    def _model(self, present: NDArray[np.bool_] | None) -> Model | None:
        """The model of the observations present; None where they cannot answer every contrast."""
        if present is None or present.all():
            return Model.of(self.backend, self.basis, self.rows, self.as_f, self.groups)
        groups = None if self.groups is None else self.groups[present]
        try:
            basis = decompose(self.design[present])
            if basis.df <= len(self.covariates):
                return None
            rows = [contrast_rows(basis, r, n_extra=len(self.covariates)) for r in self.rows]
            return Model.of(self.backend, basis, rows, self.as_f, groups)
        except DataError:
            return None

    def _block(self, model: Model, present: NDArray[np.bool_] | None, where: Any) -> None:
        backend = self.backend
        place = where if isinstance(where, slice) else backend.asarray(where)
        kept = None if present is None or present.all() else backend.asarray(np.flatnonzero(present))
        y, *covariates = (
            (a[:, place] if kept is None else a[:, place][kept]).astype(np.float64, copy=True)
            for a in (self.values, *self.covariates)
        )
        estimates, constant, collinear = solve_block(model, y, covariates)
        self.constant[place], self.collinear[place] = constant, collinear
        for i, found in enumerate(estimates):
            self.effects[i][:, place] = found.effect
            self.variances[i][:, place] = found.variance
            self.statistics[i][place] = found.statistic
            self.dfs[i][place] = found.df

    def result(self, i: int, alternative: Alternative) -> GlmResult:
        """Tails and z-scores of one contrast."""
        from gpuroi.inference.zscore import f_to_z, t_to_z

        backend, xp = self.backend, self.backend.xp
        statistic, as_f, r = self.statistics[i], self.as_f[i], float(len(self.rows[i]))
        df: Any = self.dfs[i] if self.varying else float(self.basis.df - len(self.covariates))
        if as_f:
            log_p, z = log_p_of_f(backend, statistic, r, df), f_to_z(statistic, r, df)
        else:
            log_p, z = log_p_of_t(backend, statistic, df, alternative), t_to_z(statistic, df)
        dtype = self.values.dtype
        return GlmResult(
            kind=("G" if as_f else "v") if self.groups is not None else ("F" if as_f else "t"),
            effect=self.effects[i] if as_f else self.effects[i][0],
            variance=self.variances[i] if as_f else self.variances[i][0],
            statistic=statistic.astype(dtype),
            df=(r, df) if as_f else df,
            z=z.astype(dtype),
            p=xp.exp(log_p),
            log10p=log_p / math.log(10),
            n_constant=int(self.constant.sum()),  # sync: reads one int
            n_not_estimable=int(self.collinear.sum()),  # sync: reads one int
        )


# --------------------------------------------------------------------------- input


def _covariate_list(elementwise: Any) -> list[Any]:
    if elementwise is None:
        return []
    if isinstance(elementwise, list | tuple):
        return list(elementwise)
    if getattr(elementwise, "ndim", 0) == 3:
        return [elementwise[:, :, j] for j in range(elementwise.shape[2])]
    return [elementwise]


def _check_shapes(values: Array, covariates: list[Array], basis: DesignBasis) -> None:
    if values.ndim != 2:
        raise DataError(
            f"data have shape {tuple(values.shape)}: expected (observations, elements)",
            "mask the maps first: data[:, mask]",
        )
    if len(values) != basis.n:
        raise DataError(
            f"design has {basis.n} rows but data have {len(values)}: both must have one row per observation",
            "bring them into the same order and length",
        )
    for i, c in enumerate(covariates):
        if tuple(c.shape) != tuple(values.shape):
            raise DataError(
                f"element-wise regressor {i + 1} has shape {tuple(c.shape)}, but the data have {tuple(values.shape)}",
                "give one value for each observation and element",
            )


def _group_codes(variance_groups: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    if variance_groups is None:
        return None
    given = np.asarray(variance_groups)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.shape != (n,):
        raise DataError(
            f"variance_groups have shape {given.shape}, but there are {n} observations", "give one label for each"
        )
    if given.dtype.kind == "f" and np.isnan(given).any():
        raise DataError("variance_groups hold NaN", "give a group to every observation")
    return np.unique(given, return_inverse=True)[1].reshape(n).astype(np.int64)


def _refuse_not_finite(backend: Backend, arrays: list[Array]) -> None:
    for i, array in enumerate(arrays):
        bad = ~backend.xp.isfinite(array)
        count = int(bad.sum())  # sync: reads one int
        if count:
            touched = int(bad.any(axis=0).sum())  # sync: reads one int
            name = "data hold" if i == 0 else f"element-wise regressor {i} holds"
            raise DataError(
                f"{name} {count} values that are NaN or infinite, in {touched} of {array.shape[1]} elements",
                'mask these elements, or use missing="pattern" to leave NaNs out element by element',
            )


def _patterns(backend: Backend, arrays: list[Array]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Which observations are present, and the elements where just these are; infinite values are refused."""
    xp = backend.xp
    for i, array in enumerate(arrays):
        if bool(xp.isinf(array).any()):  # sync: reads one bool
            raise DataError(
                f"{'data' if i == 0 else f'element-wise regressor {i}'} hold infinite values",
                "NaN is what marks a missing value",
            )
    absent = xp.isnan(arrays[0])
    for array in arrays[1:]:
        absent |= xp.isnan(array)
    host = backend.to_numpy(absent)  # sync: reads which values are missing
    n = len(host)
    packed = np.ascontiguousarray(np.packbits(host, axis=0).T)  # (v, bytes)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    distinct, which = np.unique(keys, return_inverse=True)
    order = np.argsort(which, kind="stable")
    counts = np.bincount(which.reshape(-1), minlength=len(distinct))
    bits = distinct.view(np.uint8).reshape(len(distinct), -1)
    patterns = np.unpackbits(bits, axis=1, count=n).astype(bool)
    for pattern, columns in zip(patterns, np.split(order, np.cumsum(counts)[:-1]), strict=True):
        yield ~pattern, columns
