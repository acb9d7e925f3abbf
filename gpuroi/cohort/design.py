"""The design of a cohort: its matrix with names, its blocks, and what is to be said about it before it is used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.cohort.bad_inputs import BadInput, BadInputsError, unknown_name
from gpuroi.cohort.contrasts import Contrast, parse_contrast, parse_contrasts, refuse_same_label
from gpuroi.cohort.participants import Participants, values_of
from gpuroi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from gpuroi.inference.design import DesignBasis

__all__ = [
    "CohortDesign",
    "Contrast",
    "blocks_of",
    "describe",
    "design_from_matrix",
    "parse_contrast",
    "parse_contrasts",
]

_DEPENDENT = 1e-8  # of columns of length 1
_MOST_INFLATION, _MOST_CONDITION = 10.0, 1e4


@dataclass(frozen=True, eq=False)
class CohortDesign:
    """A design whose rows are people and whose columns have names.

    Made by `design_of` (a formula) or `design_from_matrix`.

    Attributes
    ----------
    matrix : float64 array, shape (n, p)
    names : list of str
        Of the columns.
    ids : list of str
        Of the rows.
    contrasts : list of Contrast
    blocks : int64 array, shape (n,) or (n, levels), or None
        Exchangeability blocks, as `gpuroi.inference.permutation_test` takes them.
    terms : dict of str to list of int
        The columns of every term of the formula but the intercept.
    formula : str
        "" where there was none.
    participants : Participants or None
        Those of the rows, with who was excluded.
    """

    matrix: NDArray[np.float64]
    names: list[str]
    ids: list[str]
    contrasts: list[Contrast] = field(default_factory=list)
    blocks: NDArray[np.int64] | None = None
    terms: dict[str, list[int]] = field(default_factory=dict)
    formula: str = ""
    participants: Participants | None = field(default=None, repr=False)

    @cached_property
    def basis(self) -> DesignBasis:
        """Decomposition of the matrix; `DataError` where no degrees of freedom are left."""
        from gpuroi.inference.design import decompose

        return decompose(self.matrix, names=self.names)

    def with_contrasts(self, contrasts: Iterable[str | Contrast]) -> CohortDesign:
        """Return the design with these contrasts, texts or made ones, in place of its own."""
        given = list(contrasts)
        texts = [text for text in given if isinstance(text, str)]
        parsed = iter(parse_contrasts(texts, self))
        made = [next(parsed) if isinstance(one, str) else one for one in given]
        refuse_same_label(made)
        return replace(self, contrasts=made)


def design_from_matrix(
    participants: Participants,
    matrix: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    source: str = "the design",
) -> CohortDesign:
    """Make a design of a matrix that was made elsewhere, such as an FSL `.mat`.

    Parameters
    ----------
    participants : Participants
    matrix : array, shape (n, p)
        Without `ids` row k is the k-th person of the table: FSL's files hold none.
    names : sequence of str, optional
        Of the columns; default ev1, ev2, ...
    ids : sequence of str, optional
        Of the rows, which are then brought into the order of the table.
    source : str
        What messages call it.

    Returns
    -------
    CohortDesign

    Raises
    ------
    DataError
        Another number of rows than people, values that are no finite numbers, names that do not fit.
    BadInputsError
        Ids that the table does not have, that occur twice, or that are missing.
    """
    table = np.array(matrix, dtype=np.float64, ndmin=2)
    if ids is not None:
        table = table[_rows_by_id(participants, list(ids), source)]
    if len(table) != len(participants):
        raise DataError(
            f"{source} has {len(table)} rows, {participants.path.name} {len(participants)}: "
            "both must have one row for each person, in the same order",
            "give the design of exactly these people, or a formula, which goes by id",
        )
    if not np.isfinite(table).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise DataError(
            f"{source}: row {row + 1} ({participants.ids[row]}), column {column + 1} is {table[row, column]}",
            "complete it, or leave this person out of table and design",
        )
    labels = list(names) if names is not None else [f"ev{i + 1}" for i in range(table.shape[1])]
    if len(labels) != table.shape[1] or len(set(labels)) < len(labels):
        raise DataError(
            f"{source}: {len(set(labels))} different names for {table.shape[1]} columns", "give each column its own"
        )
    return CohortDesign(table, labels, participants.ids, participants=participants)


def blocks_of(participants: Participants, columns: Sequence[str]) -> NDArray[np.int64]:
    """Return exchangeability blocks from columns of the table.

    Parameters
    ----------
    participants : Participants
    columns : sequence of str
        From the outermost to the innermost. Whole numbers stay as they are (their sign counts in nested blocks);
        other labels are numbered from 1 in sorted order.

    Returns
    -------
    int64 array, shape (n,) for one column, (n, levels) for several

    Raises
    ------
    DataError
        A column that does not exist.
    BadInputsError
        People without a block.
    """
    for name in columns:
        if name not in participants.cells:
            raise unknown_name(name, list(participants.cells.columns), "exchangeability blocks", "columns")
    coded, bad = [], []
    for name in columns:
        values = values_of(participants.cells[name])
        bad += [
            BadInput(who, str(participants.path), f"no value of {name}", "an exchangeability block")
            for who, gap in zip(participants.ids, values.isna(), strict=True)
            if gap
        ]
        if values.dtype == np.int64:
            coded.append(values.to_numpy())
        elif not bad:
            coded.append(np.unique(values.astype(str).to_numpy(str), return_inverse=True)[1] + 1)
    if bad:
        raise BadInputsError(bad, "complete the column")
    return np.array(coded[0] if len(coded) == 1 else np.column_stack(coded), dtype=np.int64)


def describe(design: CohortDesign) -> dict[str, Any]:
    """Say what a design can and cannot do.

    Parameters
    ----------
    design : CohortDesign

    Returns
    -------
    dict
        `n`, `p`, `rank` and `df` (n - rank); `condition` of the columns brought to length 1, infinite where they
        depend on each other; `collinear`, for each column that depends on earlier ones its weights on these;
        `inflation`, the variance inflation factor of each column that varies, where the design spans the
        intercept and has full rank; `warnings`, list of str.

    Raises
    ------
    DataError
        If no degrees of freedom are left.

    Examples
    --------
    >>> age = np.array([20.0, 30.0, 40.0, 60.0, 65.0])
    >>> matrix = np.column_stack([np.ones(5), age, 12 * age])
    >>> found = describe(CohortDesign(matrix, ["Intercept", "years", "months"], list("abcde")))
    >>> found["rank"], found["df"], found["warnings"]
    (2, 3, ['months = 12*years: these columns say the same'])
    """
    basis = design.basis
    p = len(design.names)
    scaled = design.matrix / basis.column_norms
    singular = np.linalg.svd(scaled, compute_uv=False)
    collinear = _collinear(design, basis.column_norms)
    full = basis.rank == p
    condition = float(singular[0] / singular[-1]) if full else float("inf")
    inflation = _inflation(design) if full and basis.holds_constant else {}
    warnings = [_said(name, weights) for name, weights in collinear.items()]
    inflated = [f"{name} ({factor:.3g})" for name, factor in inflation.items() if factor > _MOST_INFLATION]
    if inflated:
        warnings.append(f"nearly collinear, by their variance inflation factor: {', '.join(inflated)}")
    if full and condition > _MOST_CONDITION:
        warnings.append(f"the condition number is {condition:.3g}: centre or scale the covariates")
    if basis.df < p:
        warnings.append(f"{basis.df} degrees of freedom for {p} columns")
    return {
        "n": basis.n,
        "p": p,
        "rank": basis.rank,
        "df": basis.df,
        "condition": condition,
        "collinear": collinear,
        "inflation": inflation,
        "warnings": warnings,
    }


def _rows_by_id(participants: Participants, ids: list[str], source: str) -> list[int]:
    """Return the row of every participant."""
    place = {name: i for i, name in enumerate(ids)}
    here = set(participants.ids)
    bad = [BadInput(name, source, "no row", "one row a person") for name in participants.ids if name not in place]
    bad += [
        BadInput(name, source, "a row", f"the people of {participants.path.name}") for name in place if name not in here
    ]
    bad += [BadInput(name, source, f"{n} rows", "one row a person") for name, n in Counter(ids).items() if n > 1]
    if bad:
        raise BadInputsError(bad, "ids are compared as text: sub-01, 01 and 1 are three people")
    return [place[name] for name in participants.ids]


def _collinear(design: CohortDesign, lengths: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Go from left to right; of each column that adds nothing, return its weights on those that did."""
    scaled = design.matrix / lengths
    kept: list[int] = []
    found: dict[str, dict[str, float]] = {}
    for j, name in enumerate(design.names):
        column = scaled[:, j]
        weights = np.linalg.lstsq(scaled[:, kept], column, rcond=None)[0] if kept else np.empty(0)
        if np.linalg.norm(column - scaled[:, kept] @ weights) > _DEPENDENT:
            kept.append(j)
            continue
        found[name] = {
            design.names[k]: float(w * lengths[j] / lengths[k])
            for k, w in zip(kept, weights, strict=True)
            if abs(w) > _DEPENDENT
        }
    return found


def _inflation(design: CohortDesign) -> dict[str, float]:
    """Return the diagonal of the inverse correlation matrix: 1 / (1 - R2) of each column on the others."""
    varying = [j for j in range(len(design.names)) if np.ptp(design.matrix[:, j]) > 0]
    if len(varying) < 2:
        return {}
    centred = design.matrix[:, varying] - design.matrix[:, varying].mean(axis=0)
    triangle = np.linalg.qr(centred / np.linalg.norm(centred, axis=0), mode="r")
    inverse = np.linalg.pinv(triangle)  # R^-1: its rows' squares add up to the diagonal of (R'R)^-1
    factors = (inverse * inverse).sum(axis=1)
    return {design.names[j]: float(factor) for j, factor in zip(varying, factors, strict=True)}


def _said(name: str, weights: dict[str, float]) -> str:
    if not weights:
        return f"{name} is 0 for everybody"
    parts = []
    for other, weight in weights.items():
        size = "" if abs(abs(weight) - 1) < 1e-9 else f"{abs(weight):.6g}*"
        parts.append(f"{'-' if weight < 0 else '+'} {size}{other}")
    text = " ".join(parts).removeprefix("+ ")
    return f"{name} = {text}: these columns say the same"
