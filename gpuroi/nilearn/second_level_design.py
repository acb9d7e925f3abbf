"""Design and contrast of a group analysis, in nilearn's notation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError
from gpuroi.inference.design import decompose, partition
from gpuroi.nilearn.permutation_maps import Tested

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_confounds", "check_design_type", "contrast_vector", "design_of_confounds", "read_design", "tested"]

Matrix = NDArray[np.float64]


def check_design_type(design_matrix: Any) -> None:
    """Raise TypeError unless it is a table, a path to one, or None."""
    import pandas as pd

    if design_matrix is not None and not isinstance(design_matrix, str | Path | pd.DataFrame):
        raise TypeError(
            f"'design_matrix' must be a str, pathlib.Path or a pandas.DataFrame.\nGot {type(design_matrix).__name__}"
        )


def check_confounds(confounds: Any) -> None:
    """Raise unless it is None or a table with a column of subject labels and one more."""
    if confounds is None:
        return
    import pandas as pd

    if not isinstance(confounds, pd.DataFrame):
        raise TypeError("confounds must be a pandas DataFrame")
    if "subject_label" not in confounds.columns:
        raise DataError("confounds DataFrame must contain column 'subject_label'")
    if len(confounds.columns) < 2:
        raise DataError(
            'confounds should contain at least 2 columns one called "subject_label" and the other with a given confound'
        )
    if not all(isinstance(label, str) for label in confounds["subject_label"]):
        raise DataError("subject_label column must contain only strings")


def read_design(design_matrix: Any) -> pd.DataFrame:
    """Return the table itself, or read it from a .tsv or .csv file."""
    import pandas as pd

    if isinstance(design_matrix, pd.DataFrame):
        return design_matrix
    path = Path(os.fspath(design_matrix)).expanduser()
    if path.suffix not in (".tsv", ".csv"):
        raise DataError(f"Tables to load can only be TSV or CSV.\nGot {path}", "save the design as .tsv")
    if not path.is_file():
        raise DataError(f"{path}: no such file (looked in {Path.cwd()})", "check the path of the design matrix")
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def design_of_confounds(labels: list[str], confounds: pd.DataFrame | None) -> pd.DataFrame:
    """Return the design of a group with no other: one column a confound, and an intercept.

    Raises
    ------
    DataError
        Naming every subject without a row, or with more than one.
    """
    import pandas as pd

    if confounds is None:
        return pd.DataFrame({"intercept": np.ones(len(labels))})
    rows = confounds.set_index("subject_label")
    n_rows = [int((rows.index == label).sum()) for label in labels]
    wrong = [f"{label} ({n})" for label, n in zip(labels, n_rows, strict=True) if n != 1]
    if wrong:
        raise DataError(
            f"confounds must have one row for each subject; these have another number: {', '.join(wrong)}",
            "check the column subject_label",
        )
    return rows.loc[labels].reset_index(drop=True).assign(intercept=1.0)


def contrast_vector(contrast: Any, columns: list[str]) -> Matrix:
    """Return a contrast as one weight for each column of the design.

    Parameters
    ----------
    contrast : None, str or array, shape (p,)
        None for a design of one column; a column's name, or an expression of names such as "patients - controls".
    columns : list of str
    """
    if contrast is None:
        if len(columns) != 1:
            raise DataError("No second-level contrast is specified.", f"name a column: {_listed(columns)}")
        return np.ones(1)
    if isinstance(contrast, str):
        return _expression(contrast, columns)
    weights = np.asarray(contrast, dtype=np.float64)
    if weights.size == 0 or np.all(weights == 0):
        raise DataError(
            "Contrast is null. Second_level_contrast must be a valid contrast vector, a list/array of 0s and 1s, a "
            "string, or a string expression."
        )
    if weights.shape != (len(columns),):
        raise DataError(
            f"second_level_contrast has shape {weights.shape}, but the design matrix has {len(columns)} columns",
            f"give one weight for each of {_listed(columns)}",
        )
    return weights


def tested(design: pd.DataFrame, contrast: Matrix, *, model_intercept: bool) -> Tested:
    """Return the hypothesis, with an intercept where one is wanted and the design does not span it already."""
    names = tuple(str(c) for c in design.columns)
    x = _numbers(design)
    if model_intercept and not decompose(x, names=names).holds_constant:
        x, contrast, names = np.hstack([x, np.ones((len(x), 1))]), np.append(contrast, 0.0), (*names, "intercept")
    variate = x @ contrast
    part = partition(x, contrast, name="second_level_contrast", names=names)
    is_intercept = part.constant or (np.ptp(variate) <= 1e-12 * np.abs(variate).max() and variate[0] != 0)
    return Tested(x, contrast, bool(is_intercept), names)


def _expression(expression: str, columns: list[str]) -> Matrix:
    if expression in columns:
        weights = np.zeros(len(columns))
        weights[columns.index(expression)] = 1.0
        return weights
    import pandas as pd

    unit = pd.DataFrame(np.eye(len(columns)), columns=columns)
    try:
        weights = np.asarray(unit.eval(expression, engine="python"), dtype=np.float64)
    except Exception as error:  # pandas raises whatever the expression's parts do
        raise DataError(
            f"The expression ({expression}) is not valid: {error}",
            f"it may use the names of columns that are Python names, among {_listed(columns)}",
        ) from error
    if weights.shape != (len(columns),) or np.all(weights == 0):
        raise DataError(f"The expression ({expression}) is no contrast", f"combine {_listed(columns)}")
    return weights


def _numbers(design: pd.DataFrame) -> Matrix:
    """The design as float64 (n, p)."""
    try:
        x = design.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        texts = [str(c) for c in design.columns if design[c].dtype.kind not in "biuf"]
        raise DataError(
            f"design_matrix: {_listed(texts)} holds something else than numbers", "code groups as columns of 0 and 1"
        ) from None
    broken = np.argwhere(~np.isfinite(x))
    if len(broken):
        row, column = (int(i) for i in broken[0])
        raise DataError(
            f"design_matrix holds {x[row, column]} in row {row} of column {design.columns[column]} (from 0; "
            f"{len(broken)} such values)",
            "complete the covariate, or leave the subject out of the design and of the images alike",
        )
    return x


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(str, names[:8]))
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown
