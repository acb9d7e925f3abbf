"""Look-up tables of atlases: names by label, for the labels that an image holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError
from gpuroi.nilearn import exceptions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["atlas_table", "labels_of", "rows_of"]


def labels_of(values: NDArray[Any]) -> NDArray[Any]:
    """Return the finite values of a label image, ascending, in their type and native byte order.

    Examples
    --------
    >>> labels_of(np.array([3.0, 0.0, np.nan, 3.0])).tolist()
    [0.0, 3.0]
    """
    flat = values.ravel(order="K")
    if flat.dtype.kind in "iu" and flat.size and flat.min() >= 0 and flat.max() < 1 << 20:
        found: NDArray[Any] = np.flatnonzero(np.bincount(flat))  # a tenth of the time of a sort
    else:
        found = np.unique(flat)
        found = found[np.isfinite(found)]
    return found.astype(values.dtype.newbyteorder("="))


def atlas_table(
    present: NDArray[Any], background: float, *, names: list[str] | None = None, lut: Any = None
) -> pd.DataFrame:
    """Return the table of an atlas: one row for each label of the image, ascending, names by label.

    Parameters
    ----------
    present : array
        Labels of the image, ascending, without NaN.
    background : number
        Label of the background; it is called "Background".
    names : list of str, optional
        Names in the order of the labels, with or without "Background".
    lut : DataFrame or path of a CSV or TSV file, optional
        Columns "index" and "name", in any order of rows; others are kept.

    Returns
    -------
    DataFrame
        Columns "index" and "name"; labels that `lut` does not have are "unknown", rows whose label the image does not
        have are left out. Without names each label is its own.

    Raises
    ------
    DataError
        If `lut` cannot be read, or lacks a column.

    Examples
    --------
    >>> atlas_table(np.array([0, 4, 9]), 0, names=["left", "right"])["name"].tolist()
    ['Background', 'left', 'right']
    """
    import pandas as pd

    if lut is not None:
        table = _read(lut)
    else:
        has_background = bool(np.isin(background, present))
        if len(present) == 1 and not has_background:
            exceptions.warn("The image either contains no label or a single label covering the whole image.")
        named = _names(present, background if has_background else None, names)
        table = pd.DataFrame({"index": present.tolist(), "name": named})
    is_background = table["index"] == background
    if is_background.any():
        table = pd.concat([table[is_background], table[~is_background]], ignore_index=True)
        table.loc[0, "name"] = "Background"
    elif np.isin(background, present):
        first = pd.DataFrame({"index": [background], "name": ["Background"]})
        table = pd.concat([first, table], ignore_index=True)[table.columns]
    return rows_of(table, present).sort_values("index").reset_index(drop=True)


def rows_of(table: pd.DataFrame, labels: NDArray[Any]) -> pd.DataFrame:
    """Return the rows of some labels; those that the table does not have are added as "unknown"."""
    import pandas as pd

    found = table[table["index"].isin(labels)].drop_duplicates("index")
    missing = labels[~np.isin(labels, found["index"].to_numpy())].tolist()
    if not missing:
        return found
    return pd.concat([found, pd.DataFrame({"index": missing, "name": "unknown"})], ignore_index=True)[found.columns]


def _read(lut: Any) -> pd.DataFrame:
    import pandas as pd

    name = "lut"
    if isinstance(lut, str | os.PathLike):
        name = os.fspath(lut)
        try:
            lut = pd.read_table(lut, sep=None, engine="python")
        except (OSError, ValueError) as error:
            raise DataError(f"look-up table {name} cannot be read: {error}", "give a CSV or TSV file") from None
    missing = {"index", "name"} - set(getattr(lut, "columns", ()))
    if missing:
        raise DataError(
            f"{name} has no column {min(missing)!r}: columns 'index' (labels) and 'name' are needed",
            "a BIDS _dseg.tsv has both",
        )
    table: pd.DataFrame = lut.copy()
    return table


def _names(present: NDArray[Any], background: float | None, names: list[str] | None) -> list[str]:
    """Return a name for each label."""
    if names is None:
        return ["Background" if label == background else str(label) for label in present.tolist()]
    names = list(names)
    if background is not None and "Background" not in names:
        names.insert(int(np.searchsorted(present, background)), "Background")
    if len(names) < len(present):
        exceptions.warn("Too many indices for the names. Padding 'names' with 'unknown'.")
    elif len(names) > len(present):
        exceptions.warn("Too many names for the indices. Dropping excess names values.")
    return [*names, *["unknown"] * (len(present) - len(names))][: len(present)]
