"""The design of a linear model, seen from one contrast: its effect, its nuisance, and whether it can be estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.errors import DataError

__all__ = ["DesignBasis", "Partition", "contrast_rows", "decompose", "partition"]

Matrix = NDArray[np.float64]

# Columns are brought to length 1 first, so that both tolerances are free of units.
_RANK_TOLERANCE = 1e-11
_ESTIMABLE_TOLERANCE = 1e-8


@dataclass(frozen=True)
class DesignBasis:
    """Singular value decomposition of a design, cut at its rank.

    Attributes
    ----------
    u : float64 (n, rank)
        Orthonormal basis of the space that the regressors span.
    to_contrast : float64 (p, rank)
        Row `c @ to_contrast` is the contrast in the coordinates of `u`: its estimate is that row times `u.T @ y`.
    rows : float64 (p, rank)
        Orthonormal basis of the contrasts that can be estimated, in units of `column_norms`.
    column_norms : float64 (p,)
        Lengths of the regressors; 1 for a regressor that is 0 everywhere.
    names : tuple of str
        Names of the regressors, for messages.
    """

    u: Matrix
    to_contrast: Matrix
    rows: Matrix
    column_norms: Matrix
    names: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of observations."""
        return len(self.u)

    @property
    def rank(self) -> int:
        """Rank of the design."""
        return int(self.u.shape[1])

    @property
    def df(self) -> int:
        """Degrees of freedom of the residuals, n - rank."""
        return self.n - self.rank

    @cached_property
    def holds_constant(self) -> bool:
        """Does the design span the constant regressor?"""
        constant = np.full(self.n, self.n**-0.5)
        return bool(np.linalg.norm(constant - self.u @ (self.u.T @ constant)) < 1e-10)


@dataclass(frozen=True)
class Partition:
    """A design split by a contrast into regressors of interest and nuisance.

    Attributes
    ----------
    kind : {"t", "F"}
        F where the contrast was given as a table of rows, even of one.
    x : float64 (n, r)
        Regressors of interest, orthogonal to the nuisance, with the contrast as their coefficients (Beckmann).
    x_orth : float64 (n, r)
        Orthonormal basis of the same space. Of data `y`, `effect_factor @ x_orth.T @ y` are the contrast's estimates.
    z : float64 (n, rank - r)
        Orthonormal basis of the nuisance: all of the design that is left where the contrast is 0.
    contrast : float64 (r, p)
        The contrast, reduced to independent rows.
    effect_factor : float64 (r, r)
        L, lower triangular with a positive diagonal; `L @ L.T` is `c (X'X)^- c'`, the variance of the estimates for
        errors of variance 1.
    rank : int
        Rank of the design.
    df : int
        Degrees of freedom of the residuals, n - rank.
    basis : DesignBasis
        The design itself, for further contrasts.
    """

    kind: Literal["t", "F"]
    x: Matrix
    x_orth: Matrix
    z: Matrix
    contrast: Matrix
    effect_factor: Matrix
    rank: int
    df: int
    basis: DesignBasis

    @property
    def r(self) -> int:
        """Number of independent rows of the contrast."""
        return len(self.contrast)

    @property
    def constant(self) -> bool:
        """Are all regressors of interest constant, so that no permutation changes them?"""
        return bool(np.all(np.ptp(self.x, axis=0) <= 1e-9 * np.abs(self.x).max(axis=0)))


def partition(
    design: ArrayLike | DesignBasis, contrast: ArrayLike, *, name: str = "contrast", names: Sequence[str] | None = None
) -> Partition:
    """Split a design into the effect that a contrast tests and the nuisance.

    Parameters
    ----------
    design : array, shape (n, p), or DesignBasis
        Regressors in columns, of any rank.
    contrast : array, shape (p,) or (k, p)
        One row for t, a table of rows for F. Rows that depend on the others are left out.
    name : str, default "contrast"
        What messages call the contrast.
    names : sequence of str, optional
        Names of the regressors, for messages; without them they are numbered from 1.

    Returns
    -------
    Partition
        `x` and `z` are orthogonal. With `e` the data less their projection on `z`, `u = x_orth.T @ e` and
        `s = |e|^2 - |u|^2`: t = u sqrt(df / s), with the sign of the estimate, and F = (|u|^2 / r) / (s / df).

    Raises
    ------
    DataError
        Lengths that do not fit, values that are no finite numbers, a contrast of zeros or one that the design cannot
        estimate, a rank that leaves no degrees of freedom.

    Notes
    -----
    The regressors of interest are `X D c' (c D c')^-1` with `D = (X'X)^-`, as in [1]_ and [2]_: the model in them and
    the nuisance spans what the design spans, and its contrast is `[I 0]`. All is taken from one singular value
    decomposition of the design with its columns brought to length 1.

    References
    ----------
    .. [1] Beckmann CF, Jenkinson M, Smith SM (2001). General multi-level linear modelling for group analysis in FMRI.
       FMRIB technical report TR01CB1.
    .. [2] Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE (2014). Permutation inference for the general
       linear model. NeuroImage 92, 381-397. doi:10.1016/j.neuroimage.2014.01.060

    Examples
    --------
    >>> import numpy as np
    >>> design = np.column_stack([[1, 1, 0, 0], [0, 0, 1, 1]])
    >>> part = partition(design, [1, -1])
    >>> part.rank, part.df, part.x.ravel()
    (2, 2, array([ 0.5,  0.5, -0.5, -0.5]))
    >>> round(float((part.effect_factor @ part.x_orth.T @ [3.0, 5.0, 1.0, 2.0])[0]), 12)
    2.5
    """
    basis = design if isinstance(design, DesignBasis) else decompose(design, names=names)
    independent = contrast_rows(basis, contrast, name=name)
    in_basis = (independent @ basis.to_contrast).T  # (rank, r)
    q, triangle = np.linalg.qr(in_basis, mode="complete")  # (rank, rank), (rank, r)
    r = len(independent)
    sign = np.where(np.diag(triangle[:r]) < 0, -1.0, 1.0)
    factor = (triangle[:r] * sign[:, None]).T  # (r, r): lower triangular
    x_orth = basis.u @ (q[:, :r] * sign)
    return Partition(
        kind="t" if np.ndim(contrast) == 1 else "F",
        x=np.linalg.solve(factor, x_orth.T).T,
        x_orth=np.ascontiguousarray(x_orth),
        z=np.ascontiguousarray(basis.u @ q[:, r:]),
        contrast=independent,
        effect_factor=factor,
        rank=basis.rank,
        df=basis.df,
        basis=basis,
    )


def contrast_rows(basis: DesignBasis, contrast: ArrayLike, *, name: str = "contrast", n_extra: int = 0) -> Matrix:
    """Return a contrast as independent rows, after checking that the design can estimate it.

    Parameters
    ----------
    basis : DesignBasis
    contrast : array, shape (p,) or (k, p); or p + n_extra weights a row
    name : str, default "contrast"
        What messages call it.
    n_extra : int, default 0
        Regressors beside those of the design, taken as independent of it. Weights may be given for all of them or
        for none.

    Returns
    -------
    float64 array, shape (r, p + n_extra)
        The rows as they are given where they are independent, else a basis of what they span.

    Raises
    ------
    DataError
        As `partition`.

    Examples
    --------
    >>> import numpy as np
    >>> contrast_rows(decompose(np.eye(2)[[0, 1, 0, 1]]), [1, -1])
    array([[ 1., -1.]])
    """
    p = len(basis.column_norms)
    rows = _finite_rows(contrast, p, n_extra, name)
    _refuse_not_estimable(basis, rows[:, :p], name)
    lengths = np.append(basis.column_norms, np.ones(n_extra))
    return _independent_rows(rows / lengths) * lengths


def decompose(design: ArrayLike, *, names: Sequence[str] | None = None) -> DesignBasis:
    """Return the singular value decomposition of a design, cut at its rank.

    Parameters
    ----------
    design : array, shape (n, p)
        Regressors in columns, of any rank and any units.
    names : sequence of str, optional
        Names of the regressors, for messages.

    Returns
    -------
    DesignBasis

    Raises
    ------
    DataError
        No table of real, finite numbers; a design of zeros; as many independent regressors as observations.

    Examples
    --------
    >>> import numpy as np
    >>> decompose(np.column_stack([np.ones(5), np.arange(5), 2 * np.arange(5)])).rank
    2
    """
    table = _design_table(design)
    n, p = table.shape
    labels = tuple(names) if names is not None else tuple(f"regressor {i + 1}" for i in range(p))
    if len(labels) != p:
        raise DataError(f"{len(labels)} names for the {p} regressors of the design", "give one name for each column")
    largest = np.abs(table).max(axis=0)
    largest = np.where(largest > 0, largest, 1.0)
    # In two steps: the square of a large number may be no float.
    lengths = np.linalg.norm(table / largest, axis=0)
    column_norms = np.where(lengths > 0, largest * lengths, 1.0)
    u, s, vt = np.linalg.svd(table / column_norms, full_matrices=False)
    rank = int(np.sum(s > _RANK_TOLERANCE * s[0])) if s[0] > 0 else 0
    if rank == 0:
        raise DataError("the design is 0 everywhere", "give at least one regressor that is not")
    if n <= rank:
        raise DataError(
            f"the design has {n} observations and {rank} independent regressors: no degrees of freedom are left",
            "leave regressors out, or add observations",
        )
    rows = np.ascontiguousarray(vt[:rank].T)
    return DesignBasis(
        u=np.ascontiguousarray(u[:, :rank]),
        to_contrast=rows / s[:rank] / column_norms[:, None],
        rows=rows,
        column_norms=column_norms,
        names=labels,
    )


def _design_table(design: ArrayLike) -> Matrix:
    given = np.asarray(design)
    if given.dtype.kind not in "fiub":
        raise DataError(f"the design has dtype {given.dtype}: expected real numbers", "code categories as numbers")
    table = given.astype(np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise DataError(
            f"the design has shape {table.shape}: expected (observations, regressors)",
            "one row for each observation; a single regressor is design[:, None]",
        )
    bad = ~np.isfinite(table)
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"the design holds {int(bad.sum())} values that are NaN or infinite, the first in row {row + 1}, "
            f"column {column + 1}",
            "complete the covariate, or leave these observations out of data and design",
        )
    return table


def _finite_rows(contrast: ArrayLike, p: int, n_extra: int, name: str) -> Matrix:
    given = np.asarray(contrast)
    if given.dtype.kind not in "fiub" or given.ndim not in (1, 2):
        raise DataError(f"{name} is no row or table of numbers: {contrast!r}", f"give {p} weights, one per regressor")
    if given.shape[-1] not in (p, p + n_extra) or given.size == 0:
        extra = f" and {n_extra} element-wise ones" if n_extra else ""
        raise DataError(
            f"{name} has {given.shape[-1] if given.size else 0} weights and the design has {p} regressors{extra}",
            "give one weight for each column of the design; 0 for those that are not tested",
        )
    rows = np.atleast_2d(given.astype(np.float64))
    if not np.isfinite(rows).all():
        raise DataError(f"{name} holds NaN or infinity: {_written(rows)}", "weights are finite numbers")
    if np.any(np.all(rows == 0, axis=1)):
        raise DataError(f"{name} is 0 everywhere in a row: {_written(rows)}", "give at least one weight other than 0")
    return np.pad(rows, ((0, 0), (0, p + n_extra - rows.shape[1])))


def _refuse_not_estimable(basis: DesignBasis, rows: Matrix, name: str) -> None:
    """Refuse a contrast that differs between solutions of the normal equations, and say which regressors are why."""
    scaled = rows / basis.column_norms  # (k, p)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    scaled = scaled / np.where(lengths > 0, lengths, 1.0)
    outside = scaled - (scaled @ basis.rows) @ basis.rows.T
    lost = np.linalg.norm(outside, axis=1)
    if np.all(lost <= _ESTIMABLE_TOLERANCE):
        return
    worst = int(np.argmax(lost))
    which = [basis.names[i] for i in np.flatnonzero(np.abs(outside[worst]) > _ESTIMABLE_TOLERANCE)]
    listed = ", ".join(which[:8]) + (f" and {len(which) - 8} more" if len(which) > 8 else "")
    why = f"{listed} depend on each other" if len(which) > 1 else f"{listed} is 0 in every observation"
    raise DataError(
        f"{name} {_written(rows[worst : worst + 1])} is not estimable: {why} (the design has {rows.shape[1]} "
        f"regressors and rank {basis.rank})",
        "leave out a redundant regressor, or test a difference that the design determines",
    )


def _independent_rows(rows: Matrix) -> Matrix:
    """The rows themselves where they are independent, else an orthonormal basis of what they span."""
    _, s, vt = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), full_matrices=False)
    rank = int(np.sum(s > 1e-10 * s[0]))
    return rows if rank == len(rows) else vt[:rank]


def _written(rows: Matrix) -> str:
    values: Any = rows[0] if len(rows) == 1 else rows
    return np.array2string(values, separator=", ", threshold=20, max_line_width=200).replace("\n", "")
