"""A linear model fitted to all elements, block by block: from arrays in memory or from a matrix on disk."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.backends.memory import map_chunks
from gpuroi.errors import DataError
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.design import DesignBasis, contrast_rows, decompose
from gpuroi.inference.glm_blocks import Model, Sums, solve_block, sums_by_kernel
from gpuroi.inference.projection import block_of, cached_width, for_each_columns, parts_of
from gpuroi.ops.volumes import as_float, float_dtype

__all__ = ["Fit", "FitPart"]

_AT_ONCE = 1 << 28  # bytes of working memory on a device: larger blocks are not faster
_MODEL_BYTES = 1 << 26  # of models for observations that are missing, kept for elements to come


class Fit:
    """Estimates and statistics of all contrasts, float64 or of the type of the data, NaN until `run`.

    Parameters
    ----------
    backend : Backend
    arrays : list of array or ColumnSource, shape (n, v)
        The data, then the element-wise regressors. Arrays on the host go to a device block by block.
    design : array, shape (n, p)
    basis : DesignBasis
        Of the design.
    rows : list of float64 arrays, shape (r, p + q)
        Contrasts.
    as_f : list of bool
    groups : int64 array, shape (n,), or None
        Variance groups.
    missing : {"raise", "pattern"}
        What NaNs do.

    Notes
    -----
    Blocks of elements are a function of the number of observations alone, in memory and on disk, whatever the number
    of threads: a product may round differently when its shape does. Only on a device that runs out of memory are they
    halved. Elements that miss the same observations are solved together within a block.
    """

    def __init__(
        self,
        backend: Backend,
        arrays: list[Array | ColumnSource],
        design: ArrayLike,
        basis: DesignBasis,
        rows: list[NDArray[np.float64]],
        as_f: list[bool],
        groups: NDArray[np.int64] | None,
        *,
        missing: str,
    ) -> None:
        xp = backend.xp
        self.backend, self.arrays, self.missing = backend, arrays, missing
        self.design, self.basis, self.rows, self.as_f, self.groups = np.asarray(design), basis, rows, as_f, groups
        self.n_covariates = len(arrays) - 1
        self.n_elements = int(arrays[0].shape[1])
        self.dtype = float_dtype(np.dtype(arrays[0].dtype), "data")
        self.whole = Model.of(backend, basis, rows, as_f, groups)  # the whole design has to have an answer
        v = self.n_elements
        self.effects = [xp.full((len(r), v), xp.nan, dtype=self.dtype) for r in rows]
        self.variances = [xp.full((len(r), v), xp.nan, dtype=self.dtype) for r in rows]
        self.statistics = [xp.full(v, xp.nan) for _ in rows]  # float64: the tails are taken of these
        self.dfs = [xp.full(v, xp.nan) for _ in rows]
        self.constant = xp.zeros(v, dtype=bool)
        self.collinear = xp.zeros(v, dtype=bool)
        self.varying = groups is not None
        self._models: dict[bytes, Model | None] = {}
        self._refused = _Refused(len(arrays))
        self._lock = threading.Lock()

    def run(self) -> None:
        """Fit every element.

        Raises
        ------
        DataError
            For infinite values, and for NaN unless `missing` is "pattern".
        """
        with self.backend.activate(), np.errstate(all="ignore"):
            self._run()

    def part(self) -> FitPart:
        """Return what was found, on the host."""
        host = self.backend.to_numpy
        return FitPart(
            [host(a) for a in self.effects],
            [host(a) for a in self.variances],
            [host(a) for a in self.statistics],
            [host(a) for a in self.dfs],
            host(self.constant),
            host(self.collinear),
            self.varying,
        )

    def take(self, part: FitPart, start: int) -> None:
        """Put in what another fit found for elements start, start + 1, ..."""
        where = slice(start, start + len(part.constant))
        for mine, others in zip(
            (self.effects, self.variances, self.statistics, self.dfs),
            (part.effects, part.variances, part.statistics, part.dfs),
            strict=True,
        ):
            for array, other in zip(mine, others, strict=True):
                array[..., where] = self.backend.asarray(other)
        self.constant[where], self.collinear[where] = (
            self.backend.asarray(part.constant),
            self.backend.asarray(part.collinear),
        )
        self.varying |= part.varying

    def _run(self) -> None:
        missing = self.missing
        n = self.basis.n
        each = 8 * n * (4 + 2 * self.n_covariates) + 8 * self._small_matrices()
        block = block_of(n) if self.backend.name == "cpu" else 1 << max(6, (_AT_ONCE // each).bit_length() - 1)

        def work(part: slice, columns: list[Array]) -> None:
            values = [as_float(self.backend, c, self._name(i)) for i, c in enumerate(columns)]
            if self._solve_at_once(values, part):
                return
            if self._refused.any(self.backend, values, nan=missing == "raise"):
                return

            def solve(some: slice) -> None:
                self._solve([a[:, some] for a in values], part.start + some.start)

            if self.backend.name == "cpu":
                for some in parts_of(part.stop - part.start, cached_width(n)):
                    solve(some)
            else:
                map_chunks(solve, part.stop - part.start, each, backend=self.backend, limit=_AT_ONCE)

        for_each_columns(self.arrays, parts_of(self.n_elements, block), self.backend, work)
        self._refused.complain(self.n_elements, nan=missing == "raise")

    def _small_matrices(self) -> int:
        """Values of the products of an element's estimates, and of its covariance with variance groups."""
        rank = self.basis.rank
        return 4 * rank * (1 + self.n_covariates) + (3 * rank * (rank + 2) if self.groups is not None else 0)

    def _solve_at_once(self, arrays: list[Array], part: slice) -> bool:
        """Fit a block in which nothing is missing by the sums of one pass; False if that is not so."""
        if self.n_covariates or not self.whole.needs_sums_alone or self._refused:
            return False
        sums = sums_by_kernel(self.whole, arrays[0])
        if not np.isfinite(sums.size).all():
            return False
        self._fit(self.whole, arrays, part, sums)
        return True

    def _solve(self, arrays: list[Array], start: int) -> None:
        """Fit neighbouring elements: those that miss nothing, then pattern by pattern."""
        backend, xp = self.backend, self.backend.xp
        absent = xp.isnan(arrays[0])
        for array in arrays[1:]:
            absent |= xp.isnan(array)
        width = arrays[0].shape[1]
        if not bool(absent.any()):  # sync: reads one bool
            self._fit(self.whole, arrays, slice(start, start + width))
            return
        for present, columns in _patterns(backend.to_numpy(absent)):  # sync: reads which values are missing
            where, kept = backend.asarray(columns), backend.asarray(np.flatnonzero(present))
            self.varying |= not present.all()
            model = self._model(present)
            if model is None:
                self.collinear[where + start] = True
            else:
                self._fit(model, [a[:, where][kept] for a in arrays], where + start)

    def _fit(self, model: Model, arrays: list[Array], place: Any, sums: Sums | None = None) -> None:
        estimates, constant, collinear = solve_block(model, arrays[0], arrays[1:], sums=sums)
        self.constant[place], self.collinear[place] = constant, collinear
        for i, found in enumerate(estimates):
            self.effects[i][:, place] = found.effect
            self.variances[i][:, place] = found.variance
            self.statistics[i][place] = found.statistic
            self.dfs[i][place] = found.df

    def _model(self, present: NDArray[np.bool_]) -> Model | None:
        """The model of the observations present; None where they cannot answer every contrast."""
        if present.all():
            return self.whole
        key = np.packbits(present).tobytes()
        with self._lock:
            if key in self._models:
                return self._models[key]
        model = self._model_of(present)
        with self._lock:
            self._models[key] = model
            while len(self._models) > max(8, _MODEL_BYTES // (8 * self.design.size)):
                self._models.pop(next(iter(self._models)))
        return model

    def _model_of(self, present: NDArray[np.bool_]) -> Model | None:
        groups = None if self.groups is None else self.groups[present]
        try:
            basis = decompose(self.design[present])
            if basis.df <= self.n_covariates:
                return None
            rows = [contrast_rows(basis, r, n_extra=self.n_covariates) for r in self.rows]
            return Model.of(self.backend, basis, rows, self.as_f, groups)
        except DataError:
            return None

    @staticmethod
    def _name(i: int) -> str:
        return "data" if i == 0 else f"element-wise regressor {i}"


@dataclass(frozen=True)
class FitPart:
    """What was found for some neighbouring elements: NumPy arrays that travel between processes."""

    effects: list[NDArray[Any]]
    variances: list[NDArray[Any]]
    statistics: list[NDArray[Any]]
    dfs: list[NDArray[Any]]
    constant: NDArray[np.bool_]
    collinear: NDArray[np.bool_]
    varying: bool


class _Refused:
    """Values that cannot be fitted, counted over all blocks so that one message tells of all."""

    def __init__(self, n_arrays: int) -> None:
        self._values, self._elements = [0] * n_arrays, [0] * n_arrays
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return sum(self._values) > 0

    def any(self, backend: Backend, arrays: list[Array], *, nan: bool) -> bool:
        """Count those of a block; True if there are some here, or were before."""
        xp = backend.xp
        for i, array in enumerate(arrays):
            bad = ~xp.isfinite(array) if nan else xp.isinf(array)
            count = int(bad.sum())  # sync: reads one int
            if count:
                with self._lock:
                    self._values[i] += count
                    self._elements[i] += int(bad.any(axis=0).sum())  # sync: reads one int
        return bool(self)

    def complain(self, n_elements: int, *, nan: bool) -> None:
        """Raise `DataError` for the first array that held some."""
        for i, count in enumerate(self._values):
            if count:
                name = "data hold" if i == 0 else f"element-wise regressor {i} holds"
                if not nan:
                    raise DataError(f"{name} infinite values", "NaN is what marks a missing value")
                raise DataError(
                    f"{name} {count} values that are NaN or infinite, in {self._elements[i]} of {n_elements} elements",
                    'mask these elements, or use missing="pattern" to leave NaNs out element by element',
                )


def _patterns(absent: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Which observations are present, and the elements where just these are."""
    n = len(absent)
    packed = np.ascontiguousarray(np.packbits(absent, axis=0).T)  # (v, bytes)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    distinct, which = np.unique(keys, return_inverse=True)
    order = np.argsort(which, kind="stable")
    counts = np.bincount(which.reshape(-1), minlength=len(distinct))
    bits = distinct.view(np.uint8).reshape(len(distinct), -1)
    patterns = ~np.unpackbits(bits, axis=1, count=n).astype(bool)
    return list(zip(patterns, np.split(order, np.cumsum(counts)[:-1]), strict=True))
