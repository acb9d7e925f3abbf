"""The mass-univariate general linear model: t, F, v and G for every element, with p-values that do not underflow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import backend_of, get_backend
from gpuroi.backends.base import Backend
from gpuroi.errors import BackendError, DataError, UsageError
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.design import DesignBasis, contrast_rows, decompose
from gpuroi.inference.glm_fit import Fit
from gpuroi.ops.tails import Alternative, log_p_of_f, log_p_of_t
from gpuroi.ops.volumes import float_dtype

__all__ = ["GlmResult", "fit_results", "glm", "prepared_fit"]


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
    Arrays lie on the device of the data, those of a `ColumnSource` on the host; `effect`, `variance`, `statistic` and
    `z` have its float dtype.
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
    device: str = ...,
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
    device: str = ...,
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
    device: str = "auto",
) -> Any:
    """Fit a linear model to every element and test contrasts.

    Parameters
    ----------
    data : array or ColumnSource, shape (n, v)
        Observations in rows, elements in columns; NumPy or CuPy. A `ColumnSource`, such as a packed store, is read
        once, block by block of elements: memory holds two blocks a thread, and the results.
    design : array, shape (n, p)
        Regressors in columns, of any rank. An intercept is a column like any other.
    contrasts : array, shape (p,) for t or (k, p) for F; or mapping of name to such
        With element-wise regressors p may be the design's or that plus theirs, which come last.
    variance_groups : array, shape (n,), optional
        Labels of groups of observations with a variance of their own: v and G instead of t and F.
    missing : {"raise", "pattern"}, default "raise"
        What NaNs do: an error, or left out element by element. Elements that miss the same observations are solved
        together.
    elementwise : array or ColumnSource, shape (n, v), array (n, v, q), or list of (n, v), optional
        Regressors that differ between elements, where the data lie. They are nuisance unless the contrast weighs them.
    alternative : {"two-sided", "less", "greater"}, default "two-sided"
        Side of the p-value of t and v.
    device : {"auto", "cpu", "cuda", "cuda:N"}
        For a `ColumnSource`; arrays are fitted where they lie.

    Returns
    -------
    GlmResult, or dict of GlmResult
        A dict, in the order given, for a mapping. Of a `ColumnSource` its arrays are NumPy's.

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
    observation where the design spans a constant. The CPU takes the squares that the fit leaves from those of the data
    where it leaves a hundredth or more, so that one pass will do; else, and wherever the residuals are needed
    themselves, they are formed and then squared (two passes). Means of 1e6 cost no digits. The CPU gives the same bits
    whatever the number of threads and wherever the data lie.

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
    fit, names = prepared_fit(
        data,
        design,
        contrasts,
        variance_groups=variance_groups,
        missing=missing,
        elementwise=elementwise,
        device=device,
    )
    fit.run()
    results = fit_results(fit, names, alternative)
    return results if isinstance(contrasts, Mapping) else results[names[0]]


def prepared_fit(
    data: Any,
    design: ArrayLike,
    contrasts: Any,
    *,
    variance_groups: ArrayLike | None = None,
    missing: Literal["raise", "pattern"] = "raise",
    elementwise: Any = None,
    device: str = "auto",
) -> tuple[Fit, list[str]]:
    """Check the arguments of `glm`; return the fit, which has not run, and the names of the contrasts."""
    if missing not in ("raise", "pattern"):
        raise UsageError(f'missing is "{missing}"', 'use "raise" or "pattern"')
    backend, arrays = _place([data, *_covariate_list(elementwise)], device)
    n_covariates = len(arrays) - 1
    basis = decompose(design)
    _check_shapes(arrays, basis)
    groups = _group_codes(variance_groups, basis.n)
    if groups is not None and n_covariates:
        raise UsageError("variance_groups together with elementwise", "use one of the two")
    named = dict(contrasts) if isinstance(contrasts, Mapping) else {"contrast": contrasts}
    if not named:
        raise UsageError("no contrasts", "give at least one")
    rows = [contrast_rows(basis, c, name=name, n_extra=n_covariates) for name, c in named.items()]
    as_f = [np.ndim(c) == 2 for c in named.values()]
    if basis.df <= n_covariates:
        raise DataError(
            f"{basis.n} observations, {basis.rank} independent regressors and {n_covariates} element-wise ones: "
            "no degrees of freedom are left",
            "leave regressors out, or add observations",
        )
    with backend.activate(), np.errstate(all="ignore"):
        return Fit(backend, arrays, design, basis, rows, as_f, groups, missing=missing), list(named)


def fit_results(fit: Fit, names: list[str], alternative: Alternative) -> dict[str, GlmResult]:
    """Return what a fit that has run found for each contrast; on the host where data came from there."""
    with fit.backend.activate(), np.errstate(all="ignore"):
        results = [_result(fit, i, alternative) for i in range(len(names))]
    if fit.backend.name != "cpu" and any(isinstance(array, ColumnSource) for array in fit.arrays):
        results = [_on_host(fit.backend, result) for result in results]
    return dict(zip(names, results, strict=True))


def _result(fit: Fit, i: int, alternative: Alternative) -> GlmResult:
    """Tails and z-scores of one contrast."""
    from gpuroi.inference.zscore import f_to_z, t_to_z

    backend, xp = fit.backend, fit.backend.xp
    statistic, as_f, r = fit.statistics[i], fit.as_f[i], float(len(fit.rows[i]))
    df: Any = fit.dfs[i] if fit.varying else float(fit.basis.df - fit.n_covariates)
    if as_f:
        log_p, z = log_p_of_f(backend, statistic, r, df), f_to_z(statistic, r, df)
    else:
        log_p, z = log_p_of_t(backend, statistic, df, alternative), t_to_z(statistic, df)
    return GlmResult(
        kind=("G" if as_f else "v") if fit.groups is not None else ("F" if as_f else "t"),
        effect=fit.effects[i] if as_f else fit.effects[i][0],
        variance=fit.variances[i] if as_f else fit.variances[i][0],
        statistic=statistic.astype(fit.dtype),
        df=(r, df) if as_f else df,
        z=z.astype(fit.dtype),
        p=xp.exp(log_p),
        log10p=log_p / math.log(10),
        n_constant=int(fit.constant.sum()),  # sync: reads one int
        n_not_estimable=int(fit.collinear.sum()),  # sync: reads one int
    )


def _on_host(backend: Backend, result: GlmResult) -> GlmResult:
    """The same with all arrays on the host."""

    def host(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(host(part) for part in value)
        return backend.to_numpy(value) if backend.owns(value) else value

    return GlmResult(**{field.name: host(getattr(result, field.name)) for field in dataclasses.fields(result)})


# --------------------------------------------------------------------------- input


def _covariate_list(elementwise: Any) -> list[Any]:
    if elementwise is None:
        return []
    if isinstance(elementwise, list | tuple):
        return list(elementwise)
    if getattr(elementwise, "ndim", 0) == 3:
        return [elementwise[:, :, j] for j in range(elementwise.shape[2])]
    return [elementwise]


def _place(given: list[Any], device: str) -> tuple[Backend, list[Any]]:
    """The backend that fits, and the data with the element-wise regressors as arrays or sources of real numbers."""
    in_memory = [a for a in given if not isinstance(a, ColumnSource)]
    backend = backend_of(*in_memory)
    on_host = backend
    if len(in_memory) < len(given):
        if backend.name != "cpu":
            raise BackendError(
                "a matrix on disk and CuPy arrays are mixed in one call", "give NumPy arrays: they go to the device too"
            )
        backend = get_backend(device)
    arrays = [a if isinstance(a, ColumnSource) or on_host.owns(a) else on_host.asarray(a) for a in given]
    for i, array in enumerate(arrays):
        float_dtype(np.dtype(array.dtype), "data" if i == 0 else f"element-wise regressor {i}")
    return backend, arrays


def _check_shapes(arrays: list[Any], basis: DesignBasis) -> None:
    shape = tuple(arrays[0].shape)
    if len(shape) != 2:
        raise DataError(
            f"data have shape {shape}: expected (observations, elements)", "mask the maps first: data[:, mask]"
        )
    if shape[0] != basis.n:
        raise DataError(
            f"design has {basis.n} rows but data have {shape[0]}: both must have one row per observation",
            "bring them into the same order and length",
        )
    for i, array in enumerate(arrays[1:], start=1):
        if tuple(array.shape) != shape:
            raise DataError(
                f"element-wise regressor {i} has shape {tuple(array.shape)}, but the data have {shape}",
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
