"""What is regressed out of signals, and which volumes are left out: files, tables, arrays, as nilearn takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError
from gpuroi.nilearn import exceptions

__all__ = ["read_confounds", "read_sample_masks", "with_cosines"]


class _MissingFileError(DataError, FileNotFoundError):
    """No such file; what nilearn raises too."""


def read_confounds(confounds: Any, n: int) -> NDArray[np.float64] | None:
    """Return confounds as one array with a row a volume.

    Parameters
    ----------
    confounds : array (n,) or (n, p), DataFrame, path of a CSV or TSV file, or list of these, or None
        Files may have a header line; columns are separated by tabs, commas, semicolons or blanks.
    n : int
        Number of volumes.

    Returns
    -------
    float64 array, shape (n, p), or None

    Raises
    ------
    TypeError
        Any other kind.
    DataError
        Another number of rows than `n`, values that are no number, a file that cannot be read.
    """
    if confounds is None:
        return None
    if not isinstance(confounds, list | tuple):
        confounds = [confounds]
    if not confounds:
        raise DataError("confounds is an empty list", "pass None where nothing is to be regressed out")
    return np.hstack([_columns(one, n) for one in confounds])


def read_sample_masks(sample_mask: Any, lengths: Sequence[int]) -> list[NDArray[np.intp]]:
    """Return the volumes to keep in each run, as ascending or given indices.

    Parameters
    ----------
    sample_mask : array of int or bool, or list of these
        One for each run.
    lengths : sequence of int
        Volumes of each run.

    Raises
    ------
    TypeError
        Neither a list, nor a tuple, nor an array.
    DataError
        Another number of masks than runs, or negative indices.
    IndexError
        Indices beyond a run, or more than it has volumes.
    """
    if not isinstance(sample_mask, list | tuple | np.ndarray):
        raise TypeError(
            f"'sample_masks' must be of type(s): 'list, tuple, ndarray'.\nGot: '{type(sample_mask).__name__}'"
        )
    masks = [sample_mask] if isinstance(sample_mask, np.ndarray) else list(sample_mask)
    if len(masks) != len(lengths):
        raise DataError(f"Number of sample_mask ({len(masks)}) not matching number of runs ({len(lengths)}).")
    names = [f"sample_mask {i + 1} of {len(masks)}" for i in range(len(masks))]
    return [_indices(mask, n, name) for mask, n, name in zip(masks, lengths, names, strict=True)]


def with_cosines(confounds: NDArray[np.float64] | None, n: int, high_pass: float, t_r: float) -> Any:
    """Return confounds with the discrete cosines below a frequency beside them.

    Parameters
    ----------
    confounds : array, shape (n, p), or None
        Left as they are, with a warning, if one of them is such a cosine.
    n : int
        Number of volumes.
    high_pass : float
        Hz.
    t_r : float
        Seconds between volumes.

    Returns
    -------
    array, shape (n, p + number of cosines), or None
    """
    if n > 1 and high_pass * t_r >= 0.5:
        exceptions.warn(
            "High-pass filter will span all accessible frequencies and saturate the design matrix. "
            f"You may want to reduce the high_pass value.The provided value is {high_pass} Hz"
        )
    order = min(n - 1, int(np.floor(2 * n * high_pass * t_r)))
    if order < 1:
        exceptions.warn(
            "Cosine filter was not created. The time series might be too short or the high pass filter is not suitable "
            "for the data."
        )
        return confounds
    k = np.arange(1, order + 1)
    cosines = np.sqrt(2.0 / n) * np.cos(np.pi / n * (np.arange(n)[:, None] + 0.5) * k)  # (n, order)
    if confounds is None:
        return cosines
    if _has_cosine(confounds, cosines):
        exceptions.warn("Cosine filter(s) exist in user supplied confounds.Use user supplied regressors only.")
        return confounds
    return np.hstack([confounds, cosines])


def _columns(given: Any, n: int) -> NDArray[np.float64]:
    name = "confounds"
    if isinstance(given, str | os.PathLike):
        name = os.fspath(given)
        values = _read_table(Path(given))
    elif isinstance(given, np.ndarray):
        if given.ndim not in (1, 2):
            raise DataError(f"confound array has an incorrect number of dimensions: {given.ndim}")
        values = given.reshape(len(given), -1)
    elif hasattr(given, "to_numpy") and hasattr(given, "columns"):
        values = given.to_numpy()
    else:
        raise TypeError(f"confound has an unhandled type: {type(given)}")
    if len(values) != n:
        raise DataError(
            f"Confound signal has an incorrect length. Signal length: {n}; confound length: {len(values)}. ({name})"
        )
    numbers = values.astype(np.float64)
    broken = np.argwhere(~np.isfinite(numbers))
    if len(broken):
        row, column = broken[0]
        label = getattr(given, "columns", range(numbers.shape[1]))[column]
        raise DataError(
            f"{name}: array must not contain infs or NaNs, but column {label!r} has one in row {row}",
            "leave the column out, or fill it: derivatives have no value in the first volume",
        )
    return numbers


def _read_table(path: Path) -> NDArray[np.float64]:
    """Read a table of numbers with or without a header."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise _MissingFileError(f"confounds: {path} does not exist", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"confounds: {path} cannot be read ({error})", "give a CSV or TSV file") from None
    rows = [line for line in lines if line.strip()]
    if not rows:
        raise DataError(f"confounds: {path} is empty")
    separator = next((mark for mark in "\t,;" if mark in rows[0]), None)
    cells = [[cell.strip() for cell in row.split(separator)] for row in rows]
    if not all(_is_number(cell) for cell in cells[0]):
        del cells[0]
    if len({len(row) for row in cells}) > 1:
        raise DataError(f"confounds: the rows of {path} have different numbers of columns")
    table = [[float(cell) if _is_number(cell) else np.nan for cell in row] for row in cells]
    return np.array(table, np.float64).reshape(len(cells), -1)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _indices(mask: Any, n: int, name: str) -> NDArray[np.intp]:
    kept = np.asarray(mask)
    if kept.dtype == bool:
        if len(kept) > n:
            raise IndexError(f"{name} is longer than its run: {len(kept)} values for {n} timepoints.")
        kept = np.flatnonzero(kept)
    if len(kept) and kept.min() < 0:
        raise DataError("sample_mask should not contain negative values.")
    if len(kept) > n:
        raise IndexError(
            f"{name} is has more timepoints than the current run ;sample_mask contains {len(kept)} index but the run "
            f"has {n} timepoints."
        )
    beyond = kept[kept >= n]
    if len(beyond):
        raise IndexError(f"{name} contains invalid index {beyond}. The signal contains {n} time points.")
    return kept.astype(np.intp)


def _has_cosine(confounds: NDArray[np.float64], cosines: NDArray[np.float64]) -> bool:
    """Whether any confound correlates above 0.9 with any cosine."""
    centred = confounds - confounds.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    norms[norms == 0] = 1
    unit = cosines / np.linalg.norm(cosines, axis=0)  # their means are 0
    return bool((unit.T @ (centred / norms) > 0.9).any())
