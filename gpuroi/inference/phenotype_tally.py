"""What is kept of the statistics of many phenotypes: the largest, histograms, maps, null maxima."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.inference.zscore import t_to_z
from gpuroi.ops.tails import log_p_of_t

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HISTOGRAM_STEP", "Counts", "PhenotypeResult", "PhenotypeTally"]

HISTOGRAM_STEP = 0.1  # width of a bin of t
_BINS = 800  # from -40 to 40; the outermost hold all that lies beyond
_NOBODY = np.iinfo(np.int64).max  # an empty place among the largest
_TIE = 32  # rounding errors that two correlations may differ by and still count as equal


@dataclass(frozen=True)
class PhenotypeResult:
    """What is kept of many phenotypes.

    Attributes
    ----------
    table : DataFrame
        A row for each phenotype, in the order given: `phenotype`, `n` (subjects that have it), `df`, `element` and
        `t` of its largest statistic, `p` (uncorrected, parametric), `p_fwe` (over the elements), `p_fwe_all` (over
        elements and phenotypes). The corrected ones are NaN without permutations.
    top : DataFrame
        The largest statistics of each phenotype, largest first: the same columns, and `rank` from 1.
    histogram : int64 array, shape (n_phenotypes, 800)
        Elements by t, in steps of 0.1 from -40; the outermost bins hold what lies beyond.
    histogram_edges : float64 array, shape (801,)
    null : float64 array, shape (n_permutations, n_phenotypes)
        The largest t of each rearrangement (the largest abs(t) if two-sided), the identity first.
    maps : dict of str to array, shape (v,)
        t of the phenotypes whose maps were asked for; NaN where there is no statistic.
    n_left_out : int64 array, shape (n_phenotypes,)
        Elements without a statistic, constant or not finite in the subjects that have the phenotype.
    n_permutations : int
        0, or rearrangements run.
    settings : dict
    """

    table: pd.DataFrame
    top: pd.DataFrame
    histogram: NDArray[np.int64]
    histogram_edges: NDArray[np.float64]
    null: NDArray[np.float64]
    maps: dict[str, NDArray[Any]]
    n_left_out: NDArray[np.int64]
    n_permutations: int
    settings: dict[str, Any]


_Candidates = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # phenotype, element, correlation


class Counts:
    """What one thread counts in: a histogram and the largest of each phenotype."""

    def __init__(self, n_phenotypes: int, top: int, dtype: np.dtype[Any]) -> None:
        self.histogram = np.zeros((n_phenotypes, _BINS), np.int64)
        self.n_found = np.zeros(n_phenotypes, np.int64)
        self.sizes = np.full((n_phenotypes, top), -np.inf, dtype)
        self.largest = np.zeros((n_phenotypes, top), dtype)
        self.places = np.full((n_phenotypes, top), _NOBODY)

    def keep(
        self,
        u: NDArray[Any],
        df: float,
        elements: NDArray[np.int64],
        columns: NDArray[np.int64],
        two_sided: bool,
    ) -> None:
        """Count partial correlations u (p, w) of some phenotypes at some elements."""
        from gpuroi.backends.kernels.partial_correlation import tally

        kept = (self.sizes, self.largest, self.places)
        tally(u, df, HISTOGRAM_STEP, elements, columns, two_sided, self.histogram, *kept)


class PhenotypeTally:
    """Largest statistics, histograms, maps and null maxima, filled block by block from several threads."""

    def __init__(
        self, n_phenotypes: int, v: int, top: int, two_sided: bool, maps: dict[int, str], dtype: np.dtype[Any]
    ) -> None:
        self.two_sided, self.top, self.dtype = two_sided, top, dtype
        self.histogram = np.zeros((n_phenotypes, _BINS), np.int64)
        self.maps = {j: np.full(v, np.nan, dtype) for j in maps}
        self.names = maps
        self.null = np.empty((0, n_phenotypes))
        self.n, self.df = np.zeros(n_phenotypes, np.int64), np.zeros(n_phenotypes, np.int64)
        self.n_left_out = np.zeros(n_phenotypes, np.int64)
        nobody: NDArray[np.int64] = np.empty(0, np.int64)
        self._candidates: list[_Candidates] = [(nobody, nobody, np.empty(0))]  # the largest so far come first
        self._free: list[Counts] = []
        self._lock = threading.Lock()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Lend one thread what it counts in; it is used again by whoever comes next."""
        with self._lock:
            counts = self._free.pop() if self._free else None
        if counts is None:
            counts = Counts(len(self.n), self.top, self.dtype)
        yield counts
        with self._lock:
            self._free.append(counts)

    def keep(
        self,
        backend: Backend,
        counts: Counts,
        columns: NDArray[np.int64],
        elements: NDArray[np.int64],
        u: Array,
        df: float,
    ) -> None:
        """Take what matters of the partial correlations u (p, w) of some phenotypes at some elements."""
        if backend.name == "cpu":
            counts.keep(u, df, elements, columns, self.two_sided)
        else:
            self._keep_on_device(backend, columns, elements, u, df)
        for j, column in enumerate(columns):
            if int(column) in self.maps:
                self.maps[int(column)][elements] = _t_of(backend.to_numpy(u[j]).astype(np.float64), df)

    def _keep_on_device(
        self, backend: Backend, columns: NDArray[np.int64], elements: NDArray[np.int64], u: Array, df: float
    ) -> None:
        xp = backend.xp
        size = xp.abs(u) if self.two_sided else u
        self.histogram[columns] += _histogram(backend, u, df)
        least = xp.sort(size, axis=1)[:, -self.top] if u.shape[1] > self.top else xp.min(size, axis=1)
        row, place = xp.nonzero(size >= least[:, None])
        values = backend.to_numpy(u[row, place]).astype(np.float64)
        row, place = backend.to_numpy(row), backend.to_numpy(place)
        self._candidates.append((columns[row], elements[place], values))
        self._keep_largest()

    def n_found(self) -> NDArray[np.int64]:
        """Elements with a statistic, as the threads have counted them, one number a phenotype."""
        return np.asarray(np.sum([counts.n_found for counts in self._free], axis=0), np.int64)

    def _gather(self) -> None:
        """Add up what the threads have counted."""
        for counts in self._free:
            self.histogram += counts.histogram
            column, place = np.nonzero(counts.places != _NOBODY)
            found = counts.largest[column, place].astype(np.float64)
            self._candidates.append((column, counts.places[column, place], found))
        self._free.clear()
        self._keep_largest()

    def _keep_largest(self) -> None:
        """Leave the largest of each phenotype among the candidates: sorted by phenotype, largest first."""
        column, element, value = (np.concatenate(parts) for parts in zip(*self._candidates, strict=True))
        size = np.abs(value) if self.two_sided else value
        order = np.lexsort((element, -size, column))
        rank = np.arange(len(order)) - np.searchsorted(column[order], column[order])
        order = order[rank < self.top]
        self._candidates = [(column[order], element[order], value[order])]

    def result(self, labels: list[str], n_permutations: int, settings: dict[str, Any]) -> PhenotypeResult:
        """Put the tables together; `n` and `df` have been filled by now."""
        self._gather()
        null = _t_of(self.null, self.df)
        top = self._table(labels, null)
        return PhenotypeResult(
            table=top[top["rank"] == 1].drop(columns="rank").reset_index(drop=True),
            top=top,
            histogram=self.histogram,
            histogram_edges=(np.arange(_BINS + 1, dtype=np.float64) - _BINS // 2) * HISTOGRAM_STEP,
            null=null,
            maps={self.names[j]: values for j, values in self.maps.items()},
            n_left_out=self.n_left_out,
            n_permutations=n_permutations,
            settings={**settings, "two_sided": self.two_sided, "top": self.top},
        )

    def _table(self, labels: list[str], null: NDArray[np.float64]) -> pd.DataFrame:
        """The largest of all phenotypes, with their p."""
        import pandas as pd

        column, element, u = self._candidates[0]  # sorted by phenotype, largest first
        df = self.df[column].astype(np.float64)
        t = _t_of(u, df)
        p_fwe, p_fwe_all = np.full(len(t), np.nan), np.full(len(t), np.nan)
        if len(null):
            least = self._least_of(t, df)
            edges = np.searchsorted(column, np.arange(len(labels) + 1))
            for j in range(len(labels)):
                own = slice(edges[j], edges[j + 1])
                p_fwe[own] = _share(null[:, j], least[own])
            overall = t_to_z(null, np.broadcast_to(self.df.astype(np.float64), null.shape)).max(axis=1)
            p_fwe_all[:] = _share(overall, t_to_z(least, df))
        columns = {
            "phenotype": np.array(labels, dtype=object)[column],
            "n": self.n[column],
            "df": self.df[column],
            "rank": np.arange(len(column)) - np.searchsorted(column, column) + 1,
            "element": element,
            "t": t,
            "p": _parametric(t, df, self.two_sided),
            "p_fwe": p_fwe,
            "p_fwe_all": p_fwe_all,
        }
        return pd.DataFrame(columns)

    def _least_of(self, t: NDArray[np.float64], df: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a rearranged t has to reach to count: a few rounding errors of a correlation below the observed one."""
        size = np.abs(t) if self.two_sided else t
        slack = _TIE * float(np.finfo(self.dtype).eps)
        return _t_of(np.maximum(size / np.sqrt(df + size * size) - slack, -1.0), df)


def _t_of(u: Any, df: Any) -> NDArray[np.float64]:
    """Partial correlations as t."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(u * np.sqrt(df / np.maximum((1 - u) * (1 + u), 0)))


def _histogram(backend: Backend, u: Array, df: float) -> NDArray[np.int64]:
    """Count the t of partial correlations u (p, w) in bins, (p, _BINS)."""
    xp = backend.xp
    t = u * float(np.sqrt(df)) / xp.sqrt(xp.maximum((1 - u) * (1 + u), 1e-30))
    place = xp.clip(xp.floor(t * (1 / HISTOGRAM_STEP)) + _BINS // 2, 0, _BINS - 1).astype(np.int32)
    place += xp.arange(len(u), dtype=np.int32)[:, None] * _BINS
    counts = xp.bincount(place.reshape(-1), minlength=len(u) * _BINS)
    return np.asarray(backend.to_numpy(counts)).reshape(len(u), _BINS)


def _parametric(t: NDArray[np.float64], df: NDArray[np.float64], two_sided: bool) -> NDArray[np.float64]:
    from gpuroi.backends import get_backend

    return np.asarray(np.exp(log_p_of_t(get_backend("cpu"), t, df, "two-sided" if two_sided else "greater")))


def _share(null: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
    ranked = np.sort(null)
    return np.asarray((len(ranked) - np.searchsorted(ranked, least, side="left")) / len(ranked))
