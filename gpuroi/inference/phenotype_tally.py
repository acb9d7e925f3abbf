"""What is kept of the statistics of many phenotypes: the largest, histograms, maps, null maxima."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.inference.zscore import t_to_z
from gpuroi.ops.tails import log_p_of_t

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HISTOGRAM_STEP", "PhenotypeResult", "PhenotypeTally"]

HISTOGRAM_STEP = 0.1  # width of a bin of t
_BINS = 800  # from -40 to 40; the outermost hold all that lies beyond
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


_Candidates = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # phenotype, element, t


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
        self.least = np.full(n_phenotypes, -np.inf)  # what a statistic has to reach to be among the largest
        nobody: NDArray[np.int64] = np.empty(0, np.int64)
        self._candidates: list[_Candidates] = [(nobody, nobody, np.empty(0))]  # the largest so far come first
        self._n_new, self._most_new = 0, max(1 << 16, 2 * top * n_phenotypes)
        self._lock = threading.Lock()

    def keep(self, backend: Backend, columns: NDArray[np.int64], elements: NDArray[np.int64], t: Array) -> None:
        """Take what matters of t (p, w) of some phenotypes at some elements."""
        xp = backend.xp
        size = xp.abs(t) if self.two_sided else t
        counts = _histogram(backend, t)
        least = backend.asarray(self.least[columns])
        if t.shape[1] > self.top and not np.isfinite(self.least[columns]).all():
            least = xp.maximum(least, xp.sort(size, axis=1)[:, -self.top])
        row, place = xp.nonzero(size >= least[:, None])
        values = backend.to_numpy(t[row, place]).astype(np.float64)
        row, place = backend.to_numpy(row), backend.to_numpy(place)
        with self._lock:
            self.histogram[columns] += counts
            self._candidates.append((columns[row], elements[place], values))
            self._n_new += len(row)
            if self._n_new > self._most_new:
                self._keep_largest()
            for j, column in enumerate(columns):
                if int(column) in self.maps:
                    self.maps[int(column)][elements] = backend.to_numpy(t[j])

    def _keep_largest(self) -> None:
        """Leave the largest of each phenotype among the candidates: sorted by phenotype, largest first."""
        column, element, value = (np.concatenate(parts) for parts in zip(*self._candidates, strict=True))
        size = np.abs(value) if self.two_sided else value
        order = np.lexsort((element, -size, column))
        rank = np.arange(len(order)) - np.searchsorted(column[order], column[order])
        last = order[rank == self.top - 1]
        self.least[column[last]] = size[last]
        order = order[rank < self.top]
        self._candidates, self._n_new = [(column[order], element[order], value[order])], 0

    def result(self, labels: list[str], n_permutations: int, settings: dict[str, Any]) -> PhenotypeResult:
        """Put the tables together; `n` and `df` have been filled by now."""
        import pandas as pd

        n, df = self.n, self.df
        null_t = _t_of(self.null, df)
        overall = (
            t_to_z(null_t, np.broadcast_to(df.astype(float), null_t.shape)).max(axis=1) if n_permutations else None
        )
        tables = []
        self._keep_largest()
        column, element, value = self._candidates[0]
        edges = np.searchsorted(column, np.arange(len(labels) + 1))
        for j in range(len(labels)):
            elements, values = element[edges[j] : edges[j + 1]], value[edges[j] : edges[j + 1]]
            table = pd.DataFrame(
                {"phenotype": labels[j], "n": n[j], "df": df[j], "rank": np.arange(1, len(values) + 1)}
            )
            table["element"], table["t"] = elements, values
            table["p"] = _parametric(values, float(df[j]), self.two_sided)
            table["p_fwe"], table["p_fwe_all"] = np.nan, np.nan
            if overall is not None:
                least = self._least_of(values, float(df[j]))
                table["p_fwe"] = _share(null_t[:, j], least)
                table["p_fwe_all"] = _share(overall, t_to_z(least, float(df[j])))
            tables.append(table)
        top = pd.concat(tables, ignore_index=True)
        return PhenotypeResult(
            table=top[top["rank"] == 1].drop(columns="rank").reset_index(drop=True),
            top=top,
            histogram=self.histogram,
            histogram_edges=(np.arange(_BINS + 1, dtype=np.float64) - _BINS // 2) * HISTOGRAM_STEP,
            null=null_t,
            maps={self.names[j]: values for j, values in self.maps.items()},
            n_left_out=self.n_left_out,
            n_permutations=n_permutations,
            settings={**settings, "two_sided": self.two_sided, "top": self.top},
        )

    def _least_of(self, t: NDArray[np.float64], df: float) -> NDArray[np.float64]:
        """What a rearranged t has to reach to count: a few rounding errors of a correlation below the observed one."""
        size = np.abs(t) if self.two_sided else t
        slack = _TIE * float(np.finfo(self.dtype).eps)
        return _t_of(np.maximum(size / np.sqrt(df + size * size) - slack, -1.0), df)


def _t_of(u: Any, df: Any) -> NDArray[np.float64]:
    """Partial correlations as t."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(u * np.sqrt(df / np.maximum((1 - u) * (1 + u), 0)))


def _histogram(backend: Backend, t: Array) -> NDArray[np.int64]:
    """Count t (p, w) in bins, (p, _BINS)."""
    xp = backend.xp
    place = xp.clip(xp.floor(t * (1 / HISTOGRAM_STEP)) + _BINS // 2, 0, _BINS - 1).astype(np.int32)
    place += xp.arange(len(t), dtype=np.int32)[:, None] * _BINS
    counts = xp.bincount(place.reshape(-1), minlength=len(t) * _BINS)
    return np.asarray(backend.to_numpy(counts)).reshape(len(t), _BINS)


def _parametric(t: NDArray[np.float64], df: float, two_sided: bool) -> NDArray[np.float64]:
    from gpuroi.backends import get_backend

    return np.asarray(np.exp(log_p_of_t(get_backend("cpu"), t, df, "two-sided" if two_sided else "greater")))


def _share(null: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
    ranked = np.sort(null)
    return np.asarray((len(ranked) - np.searchsorted(ranked, least, side="left")) / len(ranked))
