"""How well the maps of a cohort cover the mask, and which of them look like no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpuroi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    class _HasData(Protocol):
        data: NDArray[Any]

    class _HasRows(Protocol):
        shape: tuple[int, int]

        def rows(self, start: int, stop: int) -> NDArray[Any]: ...


__all__ = ["CohortSummary", "summarise_maps"]

_BLOCK_BYTES = 64 << 20  # of one block of maps as float64; the work takes about five times that
_CHUNK_BYTES = 2 << 20
_FEWEST = 5  # maps, to tell what is usual
_FAR = 3.5  # robust standard deviations, as Iglewicz and Hoaglin advise
_LEAST_SPREAD = 0.05  # maps that hardly differ are no outliers


@dataclass(frozen=True, eq=False)
class CohortSummary:
    """What a look at all maps shows, before any statistics.

    Attributes
    ----------
    n_per_element : int64 array, shape (v,)
        Maps with a finite value there.
    constant : bool array, shape (v,)
        Elements where all finite values are equal, or there is none.
    nonfinite : int64 array, shape (n,)
        Elements of each map that are NaN or infinite.
    zeros : int64 array, shape (n,)
        Elements of each map that are 0.
    correlation : float64 array, shape (n,)
        Of each map with the mean of the others, each brought to mean 0 and variance 1 first, over the elements that
        are finite in it; NaN for a map that is constant.
    outlier : bool array, shape (n,)
        Maps that are constant, or correlate far less than is usual in this cohort.
    """

    n_per_element: NDArray[np.int64]
    constant: NDArray[np.bool_]
    nonfinite: NDArray[np.int64]
    zeros: NDArray[np.int64]
    correlation: NDArray[np.float64]
    outlier: NDArray[np.bool_]

    @property
    def n(self) -> int:
        """Number of maps."""
        return len(self.nonfinite)

    def covered(self, min_coverage: float) -> NDArray[np.bool_]:
        """Return the elements that are finite in at least this share of the maps.

        Parameters
        ----------
        min_coverage : float, 0 to 1
            1 is the intersection.

        Returns
        -------
        bool array, shape (v,)
        """
        return np.asarray(self.n_per_element >= min_coverage * self.n - 1e-9)  # 0.9 x 30 is a little more than 27


def summarise_maps(maps: _HasData | _HasRows | NDArray[Any]) -> CohortSummary:
    """Count what is missing, and compare each map with the mean of the others.

    Parameters
    ----------
    maps : array, shape (n, v), or an object with such an array in `data`, or with `shape` and `rows(start, stop)`
        Read twice, in blocks of rows.

    Returns
    -------
    CohortSummary

    Raises
    ------
    DataError
        If there is no map or no element.

    Notes
    -----
    A map is an outlier if Fisher's z of its correlation lies 3.5 robust standard deviations (1.4826 times the median
    absolute deviation, at least 0.05) below the median [1]_, told where there are at least five maps. The mean
    leaves the map out, else one with huge values would agree with itself; and without the standardisation it would
    take the mean over, so that all the others look odd.

    References
    ----------
    .. [1] Iglewicz B, Hoaglin DC (1993). How to detect and handle outliers. ASQC Quality Press, volume 16.

    Examples
    --------
    >>> pattern = np.arange(50.0)
    >>> maps = pattern + 5 * np.random.default_rng(0).normal(size=(8, 50))
    >>> maps[3] = -pattern
    >>> summarise_maps(maps).outlier.nonzero()[0].tolist()
    [3]
    """
    n, v = _shape(maps)
    if n == 0 or v == 0:
        raise DataError(f"{n} maps of {v} elements: there is nothing to look at", "give maps, and a mask with voxels")
    seen = _Sums(v)
    nonfinite, zeros = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for rows, values in _blocks(maps, n, v):
        zeros[rows] = v - np.count_nonzero(values, axis=1)
        nonfinite[rows] = seen.add(values)
    correlation = np.empty(n)
    complete = bool((seen.count == n).all())
    for rows, values in _blocks(maps, n, v):
        if complete:
            correlation[rows] = _with_the_others(values, seen.total)
        else:
            correlation[rows] = _with_the_others_there(values.astype(np.float64), seen.total, seen.count)
    return CohortSummary(seen.count, ~(seen.high > seen.low), nonfinite, zeros, correlation, _outliers(correlation))


class _Sums:
    """What is added up over the maps: how many have each element, its range, and the sum of the standardised maps."""

    def __init__(self, v: int) -> None:
        self.count = np.zeros(v, np.int64)
        self.low, self.high = np.full(v, np.inf), np.full(v, -np.inf)
        self.total = np.zeros(v)

    def add(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Add a block of maps (b, v), and return how many elements each of them lacks."""
        with np.errstate(over="ignore", invalid="ignore"):
            is_complete = bool(np.isfinite(values.sum(axis=1, dtype=np.float64)).all())
        if is_complete:  # as NaN and infinity would have shown in the sums
            self.count += len(values)
            self._widen(values, values)
            for x in _chunks(values):
                centred, scale = _centred(x)
                self.total += scale @ centred
            return np.zeros(len(values), np.int64)
        finite = np.isfinite(values)  # (b, v)
        self.count += finite.sum(axis=0)
        self._widen(np.where(finite, values, np.inf), np.where(finite, values, -np.inf))
        self.total += _standardised(values.astype(np.float64), finite).sum(axis=0)
        return np.asarray(values.shape[1] - finite.sum(axis=1))

    def _widen(self, for_low: NDArray[Any], for_high: NDArray[Any]) -> None:
        np.minimum(self.low, for_low.min(axis=0), out=self.low)
        np.maximum(self.high, for_high.max(axis=0), out=self.high)


def _with_the_others(values: NDArray[Any], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate each complete map z, standardised, with the sum of all others: `total - z`, which is never made."""
    length = total @ total
    found = []
    for x in _chunks(values):
        centred, scale = _centred(x)
        own, shared = np.where(scale > 0, x.shape[1], 0), (centred @ total) * scale  # z @ z and z @ total
        others = np.maximum(length - 2 * shared + own, 0)
        found.append(_ratio(shared - own, np.sqrt(own * others)))
    return np.concatenate(found)


def _chunks(values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield a few rows at a time as float64, so that they stay in the cache."""
    step = max(1, _CHUNK_BYTES // (8 * values.shape[1]))
    for start in range(0, len(values), step):
        yield values[start : start + step].astype(np.float64)


def _centred(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return rows less their means, and 1 / their standard deviations; 0 for a row that is constant."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = x.sum(axis=1) / x.shape[1]
        x -= mean[:, None]
        deviation = np.sqrt(np.einsum("ij,ij->i", x, x) / x.shape[1])
    return x, _one_over(deviation, mean)


def _one_over(deviation: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    varies = np.isfinite(deviation) & (deviation > 1e-12 * np.abs(mean))  # less is rounding
    return np.asarray(np.where(varies, 1 / np.where(varies, deviation, 1), 0))


def _with_the_others_there(
    values: NDArray[np.float64], total: NDArray[np.float64], count: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlate each row with the mean of all other rows, over the elements that it and any other row has."""
    finite = np.isfinite(values)
    use = finite & (count > 1)  # (b, v)
    x = np.where(use, _standardised(values, finite), 0)
    mean = np.where(use, (total - x) / np.maximum(count - 1, 1), 0)
    n_used = np.maximum(use.sum(axis=1, keepdims=True), 1)
    x = np.where(use, x - x.sum(axis=1, keepdims=True) / n_used, 0)
    mean = np.where(use, mean - mean.sum(axis=1, keepdims=True) / n_used, 0)
    return _ratio((x * mean).sum(axis=1), np.linalg.norm(x, axis=1) * np.linalg.norm(mean, axis=1))


def _ratio(covariance: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; NaN where there is no variance."""
    varies = lengths > 0
    return np.asarray(np.where(varies, covariance / np.where(varies, lengths, 1), np.nan))


def _standardised(values: NDArray[np.float64], finite: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Bring each row to mean 0 and variance 1; 0 where it is not finite, or has no variance."""
    n_used = np.maximum(finite.sum(axis=1), 1)
    x = np.where(finite, values, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = x.sum(axis=1) / n_used
        x = np.where(finite, x - mean[:, None], 0)
        scale = _one_over(np.sqrt(np.einsum("ij,ij->i", x, x) / n_used), mean)
    return np.asarray(np.where(scale[:, None] > 0, x * scale[:, None], 0))


def _outliers(correlation: NDArray[np.float64]) -> NDArray[np.bool_]:
    constant = np.isnan(correlation)
    known = correlation[~constant]
    if len(known) < _FEWEST:
        return constant
    z = np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))
    middle = np.median(z[~constant])
    spread = max(1.4826 * float(np.median(np.abs(z[~constant] - middle))), _LEAST_SPREAD)
    return np.asarray(constant | (np.nan_to_num(z, nan=middle) < middle - _FAR * spread))


def _shape(maps: Any) -> tuple[int, int]:
    n, v = maps.data.shape if _holds_data(maps) else maps.shape
    return int(n), int(v)


def _blocks(maps: Any, n: int, v: int) -> Iterator[tuple[slice, NDArray[Any]]]:
    step = max(1, _BLOCK_BYTES // (8 * v))
    for start in range(0, n, step):
        stop = min(n, start + step)
        if _holds_data(maps):
            found = maps.data[start:stop]
        else:
            found = maps.rows(start, stop) if hasattr(maps, "rows") else maps[start:stop]
        yield slice(start, stop), np.asarray(found)


def _holds_data(maps: Any) -> bool:
    """True for an object with a matrix; the `data` of an array itself are its bytes."""
    return not isinstance(maps, np.ndarray) and hasattr(maps, "data") and not hasattr(maps, "rows")
