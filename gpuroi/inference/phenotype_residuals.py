"""Residuals of the elements beside the covariates, unit length, block by block: worked out as they are needed, or kept.

Where phenotypes are only tested as they are, each block is used once while it lies in cache, and the residuals as a
whole are never there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError
from gpuroi.inference.columns import ColumnSource, StoredColumns
from gpuroi.inference.projection import Spanned, block_of, parts_of, residuals

__all__ = ["DeviceResiduals", "HostResiduals", "residuals_of"]

_COLUMNS = 512  # at a time: their sums in float64 stay in cache beside each other
_CONSTANT = 1e-12  # residuals of this size, relative to the data, are rounding
_LARGE = 1e30  # lengths beyond might overflow in float32


class HostResiduals:
    """On the CPU: read, projected and scaled a block at a time, by several threads at once.

    Parameters
    ----------
    data : array or ColumnSource, shape (n_all, v)
    present : bool array, shape (n_all,)
        Whose rows count.
    basis : float64 array, shape (n, q)
        Orthonormal, of the covariates.
    dtype : dtype
        Of the residuals.
    keep : bool
        Keep them once they are worked out.
    scratch : Path, optional
        Keep them in a file here, rather than in memory.

    Attributes
    ----------
    parts : list of slice
        Blocks of elements: the same for all patterns of missing values.
    """

    def __init__(
        self,
        data: Array | ColumnSource,
        present: NDArray[np.bool_],
        basis: NDArray[np.float64],
        dtype: np.dtype[Any],
        *,
        keep: bool,
        scratch: Path | None,
    ) -> None:
        self._data, self._dtype = data, dtype
        self._rows = None if present.all() else np.flatnonzero(present)
        self._basis = np.ascontiguousarray(basis.T)
        n, v = len(basis), data.shape[1]
        block = block_of(len(present))
        self.parts = parts_of(v, block)
        self._n_found: dict[int, int] = {}
        self._elements: dict[int, NDArray[np.int64]] = {}
        self._kept: Array | StoredColumns | None = None
        self._keep = keep
        if keep and scratch is None:
            self._kept = np.empty((n, v), dtype)
        elif keep and scratch is not None:
            self._kept = StoredColumns(scratch / "residuals", (n, v), dtype, block=block)

    def block(self, part: slice, values: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return residuals (n, w) and the elements (w,) of a part: those that have a statistic.

        `values` (n_all, w) are the data of the part, where these have been read already.
        """
        if self._kept is not None and part.start in self._elements:
            elements = self._elements[part.start]
            return self._kept[:, part.start : part.start + len(elements)], elements
        y = self._of_those_present(self.values(part) if values is None else values)
        n, w = y.shape
        e = self._kept[:, part] if isinstance(self._kept, np.ndarray) else np.empty((n, w), self._dtype)
        good = np.empty(w, np.bool_)
        for some in parts_of(w, _COLUMNS):
            good[some] = project(y[:, some], self._basis, e[:, some])
        n_good = int(np.count_nonzero(good))
        if n_good < w:
            e[:, :n_good] = e[:, good]
        elements = part.start + np.flatnonzero(good)
        self._n_found[part.start] = n_good
        if isinstance(self._kept, StoredColumns):
            self._kept.write(part.start, e)
        if self._keep:
            self._elements[part.start] = elements
        return e[:, :n_good], elements

    @property
    def n_left_out(self) -> int:
        """Elements without a statistic, when all parts have been worked out."""
        v, n_found = int(self._data.shape[1]), sum(self._n_found.values())
        if n_found == 0:
            raise DataError(
                f"none of the {v} elements has a statistic: all are constant or hold missing values",
                "check the data and the mask",
            )
        return v - n_found

    def close(self) -> None:
        """Let go of what was kept."""
        if isinstance(self._kept, StoredColumns):
            self._kept.remove()
        self._kept = None

    def values(self, part: slice) -> NDArray[Any]:
        """Return the data of a part, (n_all, w), as they are stored."""
        data = self._data
        return np.asarray(data.columns(part.start, part.stop) if isinstance(data, ColumnSource) else data[:, part])

    def _of_those_present(self, values: NDArray[Any]) -> NDArray[Any]:
        some = values if self._rows is None else values[self._rows]
        return some if some.dtype == self._dtype else some.astype(self._dtype)


class DeviceResiduals:
    """On a device: all at once, and the product takes all elements."""

    def __init__(
        self,
        backend: Backend,
        data: Array | ColumnSource,
        present: NDArray[np.bool_],
        test: Spanned,
        dtype: np.dtype[Any],
        scratch: Path | None,
    ) -> None:
        rows = data if present.all() else _PresentRows(backend, data, present)
        self._backend = backend
        self._e, kept, _, _ = residuals(backend, rows, test, dtype, scratch=scratch)
        self._elements = np.flatnonzero(kept)
        self.n_left_out = int((~kept).sum())
        n, w = self._e.shape
        self.parts = parts_of(w, block_of(n) if isinstance(self._e, StoredColumns) else max(1, w))

    def block(self, part: slice, values: Any = None) -> tuple[Array, NDArray[np.int64]]:
        """Return residuals (n, w) of a part, on the device, and its elements (w,)."""
        return self._backend.asarray(self._e[:, part]), self._elements[part]

    def close(self) -> None:
        """Let go of the residuals."""
        if isinstance(self._e, StoredColumns):
            self._e.remove()
        self._e = None


class _PresentRows:
    """Some subjects of an array or a source, without a copy of all of it: a `ColumnSource`."""

    def __init__(self, backend: Backend, data: Array | ColumnSource, present: NDArray[np.bool_]) -> None:
        self._backend, self._data, self._rows = backend, data, np.flatnonzero(present)
        self.shape, self.dtype = (len(self._rows), data.shape[1]), data.dtype

    def columns(self, start: int, stop: int) -> Array:
        if isinstance(self._data, ColumnSource):
            return self._data.columns(start, stop)[self._rows]
        return self._data[:, start:stop][self._backend.asarray(self._rows)]


def residuals_of(
    backend: Backend,
    data: Array | ColumnSource,
    present: NDArray[np.bool_],
    test: Spanned,
    dtype: np.dtype[Any],
    *,
    keep: bool,
    scratch: Path | None,
) -> HostResiduals | DeviceResiduals:
    """Return the residuals of the subjects that are present, beside the nuisance of the test."""
    if backend.name == "cpu":
        return HostResiduals(data, present, test.z, dtype, keep=keep, scratch=scratch)
    return DeviceResiduals(backend, data, present, test, dtype, scratch)


def project(y: NDArray[Any], basis: NDArray[np.float64], out: NDArray[Any]) -> NDArray[np.bool_]:
    """Take the basis (q, n) out of the columns of y (n, w), scale them to unit length, and say which have one.

    Sums are float64. Columns that are constant beside the basis or not finite become 0.
    """
    from gpuroi.backends.kernels.partial_correlation import coefficients, remainders, scale_columns

    w = y.shape[1]
    b, squares = np.empty((len(basis), w)), np.empty(w)
    coefficients(y, basis, b)
    remainders(y, basis, b, out, squares)
    largest = np.sqrt(squares + np.einsum("kj,kj->j", b, b))  # of the data: Pythagoras
    if out.dtype == np.float64:  # twice: what the first left of a large mean; float32 data are not so exact
        coefficients(out, basis, b)
        remainders(out, basis, b, out, squares)
    elif np.any((largest > _LARGE) & np.isfinite(largest)):
        return project(y * np.where(largest > _LARGE, np.float32(2.0**-100), np.float32(1)), basis, out)
    length = np.sqrt(squares)
    good = np.isfinite(length) & (length > _CONSTANT * largest)
    scale_columns(out, np.divide(1.0, length, out=np.zeros(w), where=good).astype(out.dtype))
    if not good.all():
        out[:, ~good] = 0
    return np.asarray(good)
