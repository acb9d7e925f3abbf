"""Phenotypes that some subjects lack, from the residuals of all subjects: no pass over the data for each.

With `e` the residuals of an element in all subjects, of unit length, `S` the subjects who have a phenotype, `x` the
phenotype's residuals in `S` (0 elsewhere) and `q` an orthonormal basis of the covariates in `S` (0 elsewhere)::

    u = x' e,    rest = sum of e^2 over S - |q' e|^2,    partial correlation = u / sqrt(rest)

as what the covariates have taken out of `e` is orthogonal to `x`, and taken out again by `q`. All of it is products
with `e` and with `e^2`: 100 phenotypes, each with gaps of its own, 1000 x 20 000 in 0.35 s of one processor, and in
5.8 s one after the other. Where the subjects without the phenotype hold nearly all that varies, digits would cancel:
these elements, and those with a missing value in somebody, are computed from the data of `S` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuroi.inference.phenotype_residuals import project

__all__ = ["GapProducts", "Gapped"]

_ROWS = 1024  # of weights in one product
_LEAST_REST = 0.01  # two of seven digits lost


class Gapped(Protocol):
    """Phenotypes that are there in the same subjects: `_Pattern` of `phenotype_test`."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """In whom, (n,)."""

    @property
    def columns(self) -> NDArray[np.int64]:
        """Places of the phenotypes."""

    @property
    def traits(self) -> NDArray[np.float64]:
        """Their residuals, unit length, (n_g, p)."""

    @property
    def df(self) -> int:
        """Degrees of freedom of each test."""

    @property
    def z(self) -> NDArray[np.float64]:
        """Orthonormal basis of the covariates, (n_g, q)."""


@dataclass(frozen=True)
class _Batch:
    """Some patterns: weights of the phenotypes and then of the covariates (rows, n), and who is there (patterns, n)."""

    tests: list[Gapped]
    weights: NDArray[Any]
    present: NDArray[Any]


class GapProducts:
    """Partial correlations of phenotypes with gaps.

    Parameters
    ----------
    tests : list of Gapped
    dtype : dtype
        Of the residuals.
    """

    def __init__(self, tests: list[Gapped], dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._batches = [_batch(some, dtype) for some in _split(tests)]

    def observe(
        self,
        e: NDArray[Any],
        elements: NDArray[np.int64],
        values: NDArray[Any],
        start: int,
        keep: Callable[[Gapped, NDArray[np.int64], NDArray[Any]], None],
    ) -> None:
        """Call `keep(test, elements, u)` with the partial correlations u (p, w) of each pattern.

        Parameters
        ----------
        e : array, shape (n, w)
            Residuals of all subjects.
        elements : int64 array, shape (w,)
            Theirs.
        values : array, shape (n, w_all)
            The data of the block, whose first element is `start`.
        keep : callable
            May be called several times for a pattern: each element that has a statistic comes once.
        """
        squares = e * e
        lost = np.setdiff1d(np.arange(values.shape[1]), elements - start)
        lost = lost[~np.isfinite(values[:, lost]).all(axis=0)]  # the others are constant in any subjects
        for batch in self._batches:
            product, there = batch.weights @ e, batch.present @ squares
            row, last = 0, sum(test.traits.shape[1] for test in batch.tests)
            for test, sums in zip(batch.tests, there, strict=True):
                p, q = test.traits.shape[1], test.z.shape[1]
                u, taken = product[row : row + p], product[last : last + q]
                row, last = row + p, last + q
                rest = sums - np.einsum("kj,kj->j", taken, taken)
                sure = rest > _LEAST_REST
                doubtful = np.concatenate([lost, elements[~sure] - start])
                with np.errstate(invalid="ignore", divide="ignore"):
                    u *= 1 / np.sqrt(rest)
                if sure.all():
                    keep(test, elements, u)
                else:
                    keep(test, elements[sure], np.ascontiguousarray(u[:, sure]))
                if doubtful.size:
                    again, exact = self._exact(test, values, np.sort(doubtful))
                    keep(test, start + again, exact)

    def _exact(
        self, test: Gapped, values: NDArray[Any], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return which columns of a block have a statistic, and their partial correlations, from the data of S."""
        y = values[np.ix_(test.present, columns)].astype(self._dtype, copy=False)
        e = np.empty(y.shape, self._dtype)
        good = project(y, np.ascontiguousarray(test.z.T), e)
        return columns[good], np.ascontiguousarray(test.traits.T, dtype=self._dtype) @ e[:, good]


def _split(tests: list[Gapped]) -> list[list[Gapped]]:
    """Patterns of one product."""
    batches: list[list[Gapped]] = []
    room = 0
    for test in tests:
        rows = test.traits.shape[1] + test.z.shape[1]
        if rows > room:
            batches.append([])
            room = _ROWS
        batches[-1].append(test)
        room -= rows
    return batches


def _batch(tests: list[Gapped], dtype: np.dtype[Any]) -> _Batch:
    present = np.array([test.present for test in tests])
    traits = [_spread(test.traits.T, test.present, dtype) for test in tests]
    covariates = [_spread(test.z.T, test.present, dtype) for test in tests]
    return _Batch(tests, np.concatenate(traits + covariates), present.astype(dtype))


def _spread(rows: NDArray[np.float64], present: NDArray[np.bool_], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows over those who are there, 0 for the others."""
    out = np.zeros((len(rows), len(present)), dtype)
    out[:, present] = rows
    return out
