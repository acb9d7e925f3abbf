"""Voxels that some maps do not have: counted, and then left out, filled or kept, as asked and never silently."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError
from gpuroi.inference.columns import ColumnSource

__all__ = ["Coverage", "MissingData", "MissingRule", "SelectedColumns", "apply_missing", "is_present"]

MissingRule = Literal["drop-voxel", "mean", "pattern"]
_COLUMNS_AT_ONCE = 2048


@dataclass(frozen=True)
class Coverage:
    """Which elements stay, and what became of the others.

    Attributes
    ----------
    rule : str
    min_coverage : float
    n_maps, n_elements : int
        Before anything was left out.
    n_low : int
        Elements that fewer than `min_coverage` of the maps have: left out under every rule.
    n_holes : int
        Elements that enough maps have, but not all: left out ("drop-voxel"), filled ("mean"), kept ("pattern").
    n_filled : int
        Values that were replaced by the mean of their element.
    keep : bool array, shape (n_elements,)
    counts : int64 array, shape (n_elements,)
        Maps that have each element.
    missing_per_map : int64 array, shape (n_maps,)
        Elements of the mask that each map does not have.
    """

    rule: MissingRule
    min_coverage: float
    n_maps: int
    n_elements: int
    n_low: int
    n_holes: int
    n_filled: int
    keep: NDArray[np.bool_]
    counts: NDArray[np.int64]
    missing_per_map: NDArray[np.int64]

    @property
    def n_per_element(self) -> NDArray[np.int64]:
        """Maps that have each element which stays; int64, shape (n_kept,)."""
        return self.counts[self.keep]

    @property
    def n_kept(self) -> int:
        """Elements that stay."""
        return int(np.count_nonzero(self.keep))

    @property
    def text(self) -> str:
        """What happened, in one sentence."""
        n_bad = int(np.count_nonzero(self.missing_per_map))
        if not n_bad:
            return f"all {self.n_maps} maps have all {self.n_elements:,} voxels of the mask"
        said = [f"{n_bad} of {self.n_maps} maps lack voxels of the mask"]
        if self.n_low:
            said.append(f"{self.n_low:,} voxels are left out: fewer than {self.min_coverage:.0%} of the maps have them")
        if self.n_holes:
            what = {
                "drop-voxel": "are left out: not all maps have them",
                "mean": f"have holes, {self.n_filled:,} values in all, which hold the mean of the other maps",
                "pattern": "keep their holes: each is computed with the maps that have it",
            }
            said.append(f"{self.n_holes:,} voxels {what[self.rule]}")
        return "; ".join(said) + f"; {self.n_kept:,} of {self.n_elements:,} voxels stay"


@dataclass(frozen=True)
class MissingData:
    """How missing values are handled.

    Parameters
    ----------
    rule : {"drop-voxel", "mean", "pattern"}, default "drop-voxel"
        Of elements that at least `min_coverage` of the maps have: "drop-voxel" leaves out those that any map lacks;
        "mean" puts the mean of the other maps into the holes; "pattern" keeps NaN there, for `glm(missing="pattern")`.
    min_coverage : float, default 0.9
        Share of the maps that must have an element, 0 to 1. At 1 all rules give the intersection of the maps.
    zero_is_missing : bool, default False
        Exact zeros are missing too, as in maps whose writer put 0 outside the brain.

    Raises
    ------
    UsageError
        Another rule; a share outside 0 to 1.
    """

    rule: MissingRule = "drop-voxel"
    min_coverage: float = 0.9
    zero_is_missing: bool = False

    def __post_init__(self) -> None:
        if self.rule not in get_args(MissingRule):
            raise UsageError(f'missing data: "{self.rule}"', f"use one of {', '.join(get_args(MissingRule))}")
        if not 0 <= self.min_coverage <= 1:
            raise UsageError(f"min_coverage is {self.min_coverage}", "give a share of the maps from 0 to 1")

    def can_occur(self, dtype: np.dtype[Any]) -> bool:
        """True unless every value of this type is a value: integers, where zeros count."""
        return self.zero_is_missing or dtype.kind == "f"

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Type of the values afterwards: a float where NaN or means have to go into integers."""
        if self.rule == "drop-voxel" or stored.kind == "f" or not self.zero_is_missing:
            return stored
        return np.dtype(np.float32)

    def decide(self, n_per_element: NDArray[np.int64], missing_per_map: NDArray[np.int64]) -> Coverage:
        """Return which elements stay.

        Raises
        ------
        DataError
            If none does.
        """
        n, v = missing_per_map.size, n_per_element.size
        # 0.9 x 30 is 27.000000000000004: a share that is met exactly must not fail by rounding
        covered = (n_per_element >= self.min_coverage * n - 1e-9) & (n_per_element > 0)
        whole = n_per_element == n
        keep = covered & whole if self.rule == "drop-voxel" else covered
        if not keep.any():
            raise DataError(
                f"no voxel of the mask is left: of {v:,}, {v - int(covered.sum()):,} are in fewer than "
                f"{self.min_coverage:.0%} of the {n} maps, and {int((covered & ~whole).sum()):,} more are not in all",
                "leave out maps that are mostly missing, use --missing-data pattern, or lower --min-coverage",
            )
        holes = covered & ~whole
        return Coverage(
            rule=self.rule,
            min_coverage=self.min_coverage,
            n_maps=n,
            n_elements=v,
            n_low=int(np.count_nonzero(~covered)),
            n_holes=int(np.count_nonzero(holes)),
            n_filled=int((n - n_per_element[holes]).sum()) if self.rule == "mean" else 0,
            keep=keep,
            counts=n_per_element,
            missing_per_map=missing_per_map,
        )


def is_present(values: NDArray[Any], *, zero_is_missing: bool = False) -> NDArray[np.bool_]:
    """Return where values are finite, and not zero where zeros are missing.

    Examples
    --------
    >>> is_present(np.array([1.0, 0.0, np.nan])).tolist()
    [True, True, False]
    """
    present: NDArray[np.bool_] = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    return present & (values != 0) if zero_is_missing else present


def apply_missing(
    data: NDArray[Any] | ColumnSource,
    how: MissingData,
    *,
    counts: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
) -> tuple[NDArray[Any] | ColumnSource, Coverage]:
    """Leave out, fill or keep what is missing.

    Parameters
    ----------
    data : array or ColumnSource, shape (n, v)
        An array is changed in place, and its memory is that of the result.
    how : MissingData
    counts : (int64 array (v,), int64 array (n,)), optional
        Maps that have each element, and elements that each map lacks, where they are known.

    Returns
    -------
    data : array or ColumnSource, shape (n, n_kept)
        A source stays on disk: columns are taken and filled as they are read.
    coverage : Coverage

    Raises
    ------
    DataError
        If no element is left.

    Examples
    --------
    >>> maps = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    >>> left, coverage = apply_missing(maps, MissingData("mean", min_coverage=0.5))
    >>> left.tolist(), coverage.n_per_element.tolist(), coverage.n_low
    ([[1.0, 2.0], [3.0, 2.0]], [2, 1], 1)
    """
    per_element, per_map = counts or _count(data, how)
    coverage = how.decide(per_element, per_map)
    if isinstance(data, np.ndarray):
        return _in_memory(data, how, coverage), coverage
    if coverage.keep.all() and not (how.can_occur(data.dtype) and coverage.n_holes):
        return data, coverage
    return SelectedColumns(data, coverage, how), coverage


class SelectedColumns:
    """The elements of a source that stay, with their holes filled or marked: a `ColumnSource`.

    Parameters
    ----------
    source : ColumnSource, shape (n, v)
    coverage : Coverage
    how : MissingData

    Notes
    -----
    Threads may read at the same time. A read takes the result and up to 2048 columns of the source.
    """

    def __init__(self, source: ColumnSource, coverage: Coverage, how: MissingData) -> None:
        self._source, self._how = source, how
        self._elements = np.flatnonzero(coverage.keep)
        self._has_holes = coverage.n_holes > 0
        self.shape = (source.shape[0], coverage.n_kept)
        self.dtype = how.dtype(source.dtype)

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        """Return elements start..stop of those that stay, (n, stop - start)."""
        wanted = self._elements[start:stop]
        out = np.empty((self.shape[0], len(wanted)), self.dtype)
        at = 0
        while at < len(wanted):
            first = int(wanted[at])
            end = int(np.searchsorted(wanted, first + _COLUMNS_AT_ONCE))
            values = self._source.columns(first, int(wanted[end - 1]) + 1)
            out[:, at:end] = values if values.shape[1] == end - at else values[:, wanted[at:end] - first]
            at = end
        if self._has_holes:
            _mend(out, self._how)
        return out


def _count(data: NDArray[Any] | ColumnSource, how: MissingData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n, v = data.shape
    per_element, per_map = np.full(v, n, np.int64), np.zeros(n, np.int64)
    if how.can_occur(data.dtype):
        for columns in _column_blocks(v):
            present = is_present(_read(data, columns), zero_is_missing=how.zero_is_missing)
            per_element[columns] = present.sum(axis=0)
            per_map += present.shape[1] - present.sum(axis=1)
    return per_element, per_map


def _in_memory(data: NDArray[Any], how: MissingData, coverage: Coverage) -> NDArray[Any]:
    if not coverage.keep.all():
        data = _compacted(data, coverage.keep)
    if not (coverage.n_holes and how.rule != "drop-voxel"):
        return data
    data = data.astype(how.dtype(data.dtype), copy=False)
    for columns in _column_blocks(data.shape[1]):
        _mend(data[:, columns], how)
    return data


def _compacted(data: NDArray[Any], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """Move what stays to the front of the same memory, row by row: a second matrix would not always fit."""
    if not (data.flags.c_contiguous and data.flags.writeable):
        return np.ascontiguousarray(data[:, keep])
    flat, width = data.reshape(-1), int(np.count_nonzero(keep))
    for i, row in enumerate(data):
        flat[i * width : (i + 1) * width] = row[keep]
    return flat[: len(data) * width].reshape(len(data), width)


def _mend(values: NDArray[Any], how: MissingData) -> None:
    """Put NaN, or the mean of the others, where a value is missing."""
    if values.dtype.kind != "f" or how.rule == "drop-voxel":
        return
    present = is_present(values, zero_is_missing=how.zero_is_missing)
    if present.all():
        return
    if how.rule == "pattern":
        values[~present] = np.nan
        return
    sums = np.where(present, values, 0).sum(axis=0, dtype=np.float64)
    means = sums / np.maximum(1, present.sum(axis=0))
    rows, columns = np.nonzero(~present)
    values[rows, columns] = means[columns].astype(values.dtype)


def _column_blocks(v: int) -> Iterator[slice]:
    for start in range(0, v, _COLUMNS_AT_ONCE):
        yield slice(start, min(v, start + _COLUMNS_AT_ONCE))


def _read(data: NDArray[Any] | ColumnSource, columns: slice) -> NDArray[Any]:
    return data[:, columns] if isinstance(data, np.ndarray) else data.columns(columns.start, columns.stop)
