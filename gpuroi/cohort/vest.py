"""FSL's VEST files (`.mat`, `.con`, `.fts`, `.grp`) and designs as CSV, in and out."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from gpuroi.cohort.contrasts import Contrast
from gpuroi.errors import DataError, UsageError
from gpuroi.images.text_files import clipped, listed, read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Matrix = NDArray[np.float64]

__all__ = [
    "CsvDesign",
    "read_csv_design",
    "read_vest_contrasts",
    "read_vest_ftests",
    "read_vest_groups",
    "read_vest_matrix",
    "vest_contrasts",
    "write_vest",
]

_EXPECTED = "give a text file, as FSL's Glm writes it"


@dataclass(frozen=True, eq=False)
class CsvDesign:
    """A design read from CSV.

    Attributes
    ----------
    matrix : float64 array, shape (n, p)
    names : list of str
        From the header; ev1, ev2, ... without one.
    ids : list of str or None
        Of the rows, where a column holds them.
    """

    matrix: Matrix
    names: list[str]
    ids: list[str] | None = None


def read_vest_matrix(path: str | os.PathLike[str]) -> Matrix:
    """Read a design (`.mat`).

    Parameters
    ----------
    path : path

    Returns
    -------
    float64 array, shape (n, p)

    Raises
    ------
    DataError
        If the file is missing or no VEST file, if its rows differ in length, or are not as many as it says.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_vest(Path(folder) / "design.mat", [[1, 0.5], [1, -0.5]])
    ...     read_vest_matrix(file)
    array([[ 1. ,  0.5],
           [ 1. , -0.5]])
    """
    keys, rows, name = _read(path)
    _check_counts(keys, rows, name, "NumPoints", rows.shape[0])
    return rows


def read_vest_contrasts(path: str | os.PathLike[str]) -> tuple[list[str], Matrix]:
    """Read t contrasts (`.con`).

    Parameters
    ----------
    path : path

    Returns
    -------
    names : list of str
        As `/ContrastName` gives them; c1, c2, ... where it does not.
    weights : float64 array, shape (q, p)

    Raises
    ------
    DataError
        As `read_vest_matrix`.
    """
    keys, rows, name = _read(path)
    _check_counts(keys, rows, name, "NumContrasts", rows.shape[0])
    return [keys.get(f"ContrastName{i + 1}", "").strip('" ') or f"c{i + 1}" for i in range(len(rows))], rows


def read_vest_ftests(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Read F tests (`.fts`).

    Parameters
    ----------
    path : path

    Returns
    -------
    bool array, shape (F tests, t contrasts)
        Which contrasts each test holds.

    Raises
    ------
    DataError
        As `read_vest_matrix`; values other than 0 and 1; a test of nothing.
    """
    keys, rows, name = _read(path)
    _check_counts(keys, rows, name, "NumContrasts", rows.shape[0])
    if not np.isin(rows, (0, 1)).all() or not rows.any(axis=1).all():
        raise DataError(f"{name}: every row of an .fts holds 0 and 1, and at least one 1", "check the file")
    return rows.astype(np.bool_)


def read_vest_groups(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Read groups, be it exchangeability blocks or variance groups (`.grp`).

    Parameters
    ----------
    path : path

    Returns
    -------
    int64 array, shape (n,), or (n, levels) where there are several columns

    Raises
    ------
    DataError
        As `read_vest_matrix`; values that are not whole.
    """
    keys, rows, name = _read(path)
    _check_counts(keys, rows, name, "NumPoints", rows.shape[0])
    if not ((np.rint(rows) == rows) & (np.abs(rows) < 2**53)).all():  # beyond, doubles are no longer all whole numbers
        raise DataError(f"{name}: groups are whole numbers, below 2^53", "check the file")
    groups = rows.astype(np.int64)
    return groups[:, 0] if groups.shape[1] == 1 else groups


def vest_contrasts(
    con: str | os.PathLike[str], fts: str | os.PathLike[str] | None = None, *, names: Sequence[str]
) -> list[Contrast]:
    """Return the contrasts of a `.con`, and the F tests of an `.fts` after them.

    Parameters
    ----------
    con : path
    fts : path, optional
    names : sequence of str
        Of the columns of the design.

    Returns
    -------
    list of Contrast
        F tests are called f1, f2, ...

    Raises
    ------
    DataError
        If a file cannot be used, or does not fit the design or the other file.
    """
    labels, weights = read_vest_contrasts(con)
    if weights.shape[1] != len(names):
        raise DataError(
            f"{con}: {weights.shape[1]} weights in a row, the design has {len(names)} columns", "check both files"
        )
    found = [Contrast(label, row, "t", _written(row, names)) for label, row in zip(labels, weights, strict=True)]
    if fts is None:
        return found
    tests = read_vest_ftests(fts)
    if tests.shape[1] != len(labels):
        raise DataError(f"{fts}: {tests.shape[1]} columns, {con} has {len(labels)} contrasts", "check both files")
    for i, test in enumerate(tests, 1):
        text = "; ".join(_written(row, names) for row in weights[test])
        found.append(Contrast(f"f{i}", weights[test], "F", text))
    return found


def write_vest(
    path: str | os.PathLike[str],
    rows: ArrayLike,
    *,
    kind: Literal["mat", "con", "fts", "grp"] | None = None,
    names: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a VEST file.

    Parameters
    ----------
    path : path
    rows : array, shape (n, p), or (n,) for one column
    kind : {"mat", "con", "fts", "grp"}, optional
        Default: the file's extension.
    names : sequence of str, optional
        Of the contrasts, for `.con`.
    overwrite : bool, default False

    Returns
    -------
    Path

    Raises
    ------
    UsageError
        Another kind, or numbers that are no table of finite ones.
    OutputError
        If the file exists already or cannot be written.

    Notes
    -----
    Numbers are written with as many digits as it takes to read the same ones again.
    """
    from gpuroi.images.write import staged_file

    target = Path(path)
    what = kind or target.suffix.lstrip(".").lower()
    table = np.asarray(rows, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if what not in ("mat", "con", "fts", "grp"):
        raise UsageError(f"{target.name}: VEST files are .mat, .con, .fts or .grp", "choose one of these extensions")
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise UsageError(f"{target.name}: a table of finite numbers is expected, shape {table.shape}")
    text = "\n".join([*_header(what, table, names), "", "/Matrix", *_lines(table, whole=what in ("fts", "grp")), ""])
    with staged_file(target, overwrite=overwrite) as staged:
        staged.write_text(text, encoding="utf-8", newline="\n")
    return target


def read_csv_design(path: str | os.PathLike[str], *, id_column: str = "participant_id") -> CsvDesign:
    """Read a design from CSV or TSV.

    Parameters
    ----------
    path : path
        Numbers separated by commas, tabs or blanks, with a header or without one.
    id_column : str, default "participant_id"
        A column of this name holds the ids of the rows.

    Returns
    -------
    CsvDesign

    Raises
    ------
    DataError
        If the file is missing, or holds anything but finite numbers below its header.
    """
    name = str(path)
    lines = [
        line for line in read_text(Path(path).expanduser(), name=name, expected=_EXPECTED).splitlines() if line.strip()
    ]
    if not lines:
        raise DataError(f"{name}: the file is empty", "give one row for each person")
    rows = [_cells(line) for line in lines]
    has_header = any(_number(cell) is None for cell in rows[0])
    header = rows[0] if has_header else [f"ev{i + 1}" for i in range(len(rows[0]))]
    if len(set(header)) < len(header) or "" in header:
        raise DataError(f"{name}: the columns need different names; found {listed(header)}", "correct the header")
    body = rows[1:] if has_header else rows
    at = header.index(id_column) if id_column in header else None
    ids = None if at is None else [row[at] if at < len(row) else "" for row in body]
    table = _numbers([[c for k, c in enumerate(row) if k != at] for row in body], name, 1 + has_header)
    names = [label for k, label in enumerate(header) if k != at]
    if table.shape[1] != len(names):
        raise DataError(
            f"{name}: {table.shape[1]} numbers in a row, {len(names)} names in the header", "check the file"
        )
    return CsvDesign(table, names, ids)


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], Matrix, str]:
    """Return what stands before `/Matrix`, by key, and the rows after it."""
    name = str(path)
    head, found, body = read_text(Path(path).expanduser(), name=name, expected=_EXPECTED).partition("/Matrix")
    if not found:
        raise DataError(f'{name}: no line "/Matrix": not a VEST file', "make it with FSL's Glm or Text2Vest")
    keys = {}
    for line in head.splitlines():
        key, _, value = line.strip().lstrip("/").partition("\t" if "\t" in line else " ")
        keys[key.strip()] = value.strip()
    offset = len(head.splitlines()) + 1
    lines = [(i, line.split()) for i, line in enumerate(body.splitlines(), offset) if line.strip()]
    rows = _numbers([cells for _, cells in lines], name, lines[0][0] if lines else offset)
    _check_counts(keys, rows, name, "NumWaves", rows.shape[1])
    return keys, rows, name


def _check_counts(keys: dict[str, str], rows: Matrix, name: str, key: str, found: int) -> None:
    said = keys.get(key)
    if said is not None and said != str(found):
        what = "columns" if key == "NumWaves" else "rows"
        raise DataError(f"{name}: /{key} is {clipped(said)}, but there are {found} {what}", "make the file again")


def _cells(line: str) -> list[str]:
    for separator in (",", "\t"):
        if separator in line:
            return [cell.strip() for cell in next(csv.reader(io.StringIO(line), delimiter=separator))]
    return line.split()


def _numbers(rows: list[list[str]], name: str, first_line: int) -> Matrix:
    if not rows or not rows[0]:
        raise DataError(f"{name}: no numbers", "give one row for each person or contrast")
    values = []
    for line, cells in enumerate(rows, first_line):
        numbers = [_number(cell) for cell in cells]
        odd = [cell for cell, x in zip(cells, numbers, strict=True) if x is None or not np.isfinite(x)]
        if odd:
            raise DataError(
                f'{name}: line {line}: "{clipped(odd[0])}" is no finite number', "complete or correct the file"
            )
        if len(cells) != len(rows[0]):
            raise DataError(
                f"{name}: line {line} has {len(cells)} numbers, the first has {len(rows[0])}", "check the file"
            )
        values.append(numbers)
    return np.array(values, dtype=np.float64)


def _number(cell: str) -> float | None:
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _header(kind: str, table: Matrix, names: Sequence[str]) -> list[str]:
    n, p = table.shape
    heights = "\t".join(_digits(x) for x in np.ptp(table, axis=0))
    if kind == "mat":
        return [f"/NumWaves\t{p}", f"/NumPoints\t{n}", f"/PPheights\t{heights}"]
    if kind == "grp":
        return [f"/NumWaves\t{p}", f"/NumPoints\t{n}"]
    if kind == "fts":
        return [f"/NumWaves\t{p}", f"/NumContrasts\t{n}"]
    named = [f"/ContrastName{i}\t{' '.join(name.split())}" for i, name in enumerate(names, 1)]
    return [*named, f"/NumWaves\t{p}", f"/NumContrasts\t{n}"]


def _lines(table: Matrix, *, whole: bool) -> list[str]:
    return ["\t".join(str(int(x)) if whole else _digits(x) for x in row) for row in table.tolist()]


def _digits(x: float) -> str:
    return repr(float(x)).removesuffix(".0")


def _written(row: Matrix, names: Sequence[str]) -> str:
    """Return weights as the contrast that `parse_contrast` would read."""
    parts = [
        f"{'-' if w < 0 else '+'} {'' if abs(w) == 1 else _digits(abs(w)) + '*'}`{name}`"
        for w, name in zip(row.tolist(), names, strict=True)
        if w
    ]
    return " ".join(parts).removeprefix("+ ") or "0"
