"""From rearrangements to statistics: residuals once, one product for many rearrangements, a few flops an element.

After the nuisance is projected out and every element is scaled to unit length, the statistic of a rearrangement depends
on a handful of inner products alone. With `e` the residuals of an element, `P` the signed rearrangement, `x` an
orthonormal basis of the effect space and `z` one of the nuisance space::

    Freedman-Lane, ter Braak   u = x' P e,  w = z' P e,  rest = 1 - |u|^2 - |w|^2
    Draper-Stoneman            u = (R_z P' x)' e, orthonormalised,  rest = 1 - |u|^2
    t = u sqrt(df / rest),     F = (|u|^2 / r) / (rest / df)

The nuisance is thus projected out of every rearranged sample anew: `w` is what it takes up there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.backends.threads import one_ahead, one_blas_thread, run_blocks
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.columns import ColumnSource, StoredColumns
from gpuroi.inference.design import Partition

__all__ = [
    "BATCH",
    "METHODS",
    "Projection",
    "Rearranged",
    "Source",
    "Spanned",
    "batch_of",
    "block_of",
    "cached_width",
    "columns_of",
    "for_each_block",
    "for_each_columns",
    "for_each_part",
    "moved",
    "parts_of",
    "product_block",
    "residuals",
    "without_constant",
]

METHODS = ("freedman-lane", "draper-stoneman", "ter-braak")
BATCH = 64  # rearrangements in one product: below 50 it is slow, above 100 the maps leave the cache
_DEVICE_BATCH = 128  # on a device, which reads all residuals for each product
_BLOCK = 2048  # elements in one product on the CPU, which one thread takes: it stays in the cache until it is counted
_IN_CACHE = 1 << 17  # values at a time of a pass in several steps: 1 MB in float64; 8 MB took 3 times as long
_MOST_VALUES = 1 << 23  # of the residuals in one product: 256 MB in float64
_MOVED_BYTES = 1 << 28  # that the host holds on the way from one device to another
_CONSTANT = 1e-12  # residuals of this size, relative to the data, are rounding


@dataclass(frozen=True)
class Projection:
    """Inner products that the statistic of a rearrangement needs.

    Attributes
    ----------
    x : float64 array, shape (n, r)
        Orthonormal basis of the effect, orthogonal to the nuisance.
    z : float64 array, shape (n, q)
        Orthonormal basis of that part of the nuisance that a rearrangement can bring back.
    df : float
    method : str
    as_f : bool
        F instead of t.
    """

    x: NDArray[np.float64]
    z: NDArray[np.float64]
    df: float
    method: str
    as_f: bool

    @classmethod
    def of(cls, part: Partition, method: str, *, flips: bool) -> Projection:
        """Set up a method for a partitioned design; `flips` says that signs may change."""
        if method not in METHODS:
            raise UsageError(f'method is "{method}"', f"use one of {', '.join(METHODS)}")
        z = part.z
        if method != "draper-stoneman" and not flips:
            z = without_constant(z)
        return cls(part.x_orth, z, float(part.df), method, part.kind == "F")

    @property
    def n_rows(self) -> int:
        """Rows of the product for one rearrangement."""
        r, q = int(self.x.shape[1]), int(self.z.shape[1])
        return r if self.method == "draper-stoneman" else r + q

    def weights(self, rows: NDArray[np.int32]) -> NDArray[np.float64]:
        """Weights of the observations, (k * r + k * q, n): all effect rows first, then all nuisance rows.

        Row `i` of the residuals moves to row `abs(rows[i]) - 1` and takes the sign: x' P e = sum_i sign_i x[to_i] e_i.
        """
        to, sign = np.abs(rows) - 1, np.sign(rows)
        n = rows.shape[1]
        effect = (self.x[to] * sign[..., None]).transpose(0, 2, 1)  # (k, r, n)
        if self.method == "draper-stoneman":
            return np.asarray(self._orthonormal_effect(effect).reshape(-1, n))
        nuisance = (self.z[to] * sign[..., None]).transpose(0, 2, 1)  # (k, q, n)
        return np.concatenate([effect.reshape(-1, n), nuisance.reshape(-1, n)])

    def statistics(self, backend: Backend, product: Array, k: int) -> Array:
        """t or F, (k, w), from the product of the weights with the residuals."""
        r, w = self.x.shape[1], product.shape[1]
        effect = product[: k * r].reshape((k, r, w))
        nuisance = product[k * r :].reshape((k, self.n_rows - r, w))
        return backend.permutation_statistics(effect, nuisance, self.df, self.as_f)

    def _orthonormal_effect(self, effect: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rearranged effect regressors, nuisance projected out, orthonormal: (k, r, n)."""
        clean = effect - (effect @ self.z) @ self.z.T
        if clean.shape[1] == 1:
            length = np.linalg.norm(clean, axis=2, keepdims=True)
            return np.asarray(np.divide(clean, length, out=np.zeros_like(clean), where=length > 1e-9))
        basis, size, _ = np.linalg.svd(clean.transpose(0, 2, 1), full_matrices=False)  # (k, n, r), (k, r)
        return np.asarray((basis * (size > 1e-9)[:, None, :]).transpose(0, 2, 1))


def batch_of(device: str, *, needs_maps: bool) -> int:
    """Return the rearrangements in one product: more on a device, unless their maps are kept there.

    Examples
    --------
    >>> batch_of("cpu", needs_maps=False), batch_of("cuda:0", needs_maps=False), batch_of("cuda:0", needs_maps=True)
    (64, 128, 64)
    """
    return BATCH if device == "cpu" or needs_maps else _DEVICE_BATCH


def block_of(n_subjects: int) -> int:
    """Elements in one product on the CPU: a function of the number of subjects alone, as a product may round
    differently when its shape does.
    """
    return max(64, min(_BLOCK, 1 << max(1, _MOST_VALUES // n_subjects).bit_length() - 1))


def cached_width(n_subjects: int) -> int:
    """Elements at a time on the CPU where several steps follow each other: they stay in the cache meanwhile."""
    return min(block_of(n_subjects), max(64, _IN_CACHE // n_subjects))


class Spanned(Protocol):
    """A design as orthonormal bases: `z` (n, q) of the nuisance, `x_orth` (n, r) of the effect."""

    @property
    def z(self) -> NDArray[np.float64]:
        """Of the nuisance."""

    @property
    def x_orth(self) -> NDArray[np.float64]:
        """Of the effect."""


class Source(Protocol):
    """Where the statistics of rearrangements come from, block by block of elements."""

    @property
    def backend(self) -> Backend:
        """Where the products are taken."""

    def parts(self) -> list[slice]:
        """Return the blocks of elements; the same whatever the number of threads."""

    def prepare(self, rows: NDArray[np.int32]) -> Callable[[slice], Array]:
        """Return what computes the statistics of some rearrangements, (k, elements of the block)."""

    def on(self, backend: Backend) -> Source:
        """Return the same on another device, which is the current one."""


def for_each_block(source: Source, rows: NDArray[np.int32], use: Callable[[slice, Array], None]) -> None:
    """Call `use(block, statistics)` for all blocks, on the CPU from several threads, in any order.

    A thread multiplies, and uses what it got while that is in its cache. BLAS has one thread meanwhile: threads of its
    own wait for each other after every product (a permutation of 100 x 235 375: 0.99 ms; so 0.60), and may round
    otherwise with another number of them.
    """
    statistics = source.prepare(rows)
    for_each_part(lambda part: use(part, statistics(part)), source.parts(), source.backend)


@dataclass(frozen=True)
class Rearranged:
    """Statistics of rearranged residuals, one product for a batch of rearrangements and a block of elements.

    Attributes
    ----------
    backend : Backend
    e : array or StoredColumns, shape (n, w)
        Residuals, unit length.
    projection : Projection
    batch : int
        Rows of every product, whatever the number of rearrangements: a product may round differently when its shape
        does.
    block : int
        Elements of a product.
    """

    backend: Backend
    e: Array | StoredColumns
    projection: Projection
    batch: int
    block: int

    def parts(self) -> list[slice]:
        """Blocks of elements."""
        return parts_of(self.e.shape[1], self.block)

    def prepare(self, rows: NDArray[np.int32]) -> Callable[[slice], Array]:
        """t or F, (k, part of w), of a block of elements; k at most `batch`."""
        k = len(rows)
        full = np.concatenate([rows, np.repeat(rows[-1:], self.batch - k, axis=0)])
        weights = self.projection.weights(full).astype(self.e.dtype)
        return lambda part: self.projection.statistics(self.backend, self._product(weights, part), self.batch)[:k]

    def _product(self, weights: NDArray[np.floating], part: slice) -> Array:
        whole = self.block >= self.e.shape[1] and not isinstance(self.e, StoredColumns)
        return self._multiply(weights) if whole else self.backend.products(self.residuals(part))(weights)

    @cached_property
    def _multiply(self) -> Callable[[NDArray[np.floating]], Array]:
        """Product with all residuals, where one takes them all: what can be worked out of them is kept."""
        return self.backend.products(self.e)

    def on(self, backend: Backend) -> Rearranged:
        """The same on another device, which is the current one."""
        e = moved(self.e, self.backend, backend)
        return dataclasses.replace(self, backend=backend, e=e, block=product_block(backend, e))

    def residuals(self, part: slice) -> Array:
        """Residuals of a block of elements, on the device."""
        return columns_of(self.backend, self.e, part)


def residuals(
    backend: Backend,
    data: Array | ColumnSource,
    part: Spanned,
    dtype: np.dtype[Any],
    *,
    full_model: bool = False,
    scratch: Path | None = None,
) -> tuple[Array | StoredColumns, NDArray[np.bool_], Array, Array]:
    """Project the nuisance out of every element and scale what is left to unit length.

    Parameters
    ----------
    backend : Backend
    data : array or ColumnSource, shape (n, v)
    part : Spanned
        A Partition, for one.
    dtype : dtype
        float32 or float64, of the residuals.
    full_model : bool, default False
        Project out the effect too (ter Braak).
    scratch : Path, optional
        Folder for the residuals, where they are not to be held in memory.

    Returns
    -------
    e : array or StoredColumns, shape (n, w)
        Elements that have a statistic, in their order.
    kept : bool array, shape (v,)
        On the host. Constant elements, and those with a missing or infinite value, are left out.
    along : float64 array, shape (r, w)
        Coordinates of the residuals in the effect space, before they were scaled.
    length : float64 array, shape (w,)
        Lengths of the residuals, before they were scaled.
    """
    xp = backend.xp
    basis = backend.asarray(np.hstack([part.z, part.x_orth]) if full_model else part.z)
    n, v = data.shape
    block = block_of(n)
    width = cached_width(n) if backend.name == "cpu" else block
    file = None if scratch is None else scratch / f"residuals-{len(list(scratch.iterdir()))}"
    e = xp.empty((n, v), dtype=dtype) if file is None else StoredColumns(file, (n, v), dtype, block=block)
    effect = backend.asarray(part.x_orth)
    along, lengths = xp.empty((effect.shape[1], v), dtype=np.float64), xp.empty(v, dtype=np.float64)
    keep = xp.empty(v, dtype=np.bool_)

    def project(part_of: slice, columns: list[Array]) -> None:
        (values,) = columns
        scaled = xp.empty(values.shape, dtype=dtype) if isinstance(e, StoredColumns) else e[:, part_of]
        for some in parts_of(values.shape[1], width):
            rest = values[:, some].astype(np.float64, order="C")  # sums are taken alike, however the data lie
            largest = xp.abs(rest).max(axis=0)
            rest -= basis @ (basis.T @ rest)
            rest -= basis @ (basis.T @ rest)  # twice: what the first left of a large mean
            length = xp.sqrt(xp.einsum("ij,ij->j", rest, rest))
            good = xp.isfinite(length) & (length > _CONSTANT * largest * np.sqrt(n))
            here = slice(part_of.start + some.start, part_of.start + some.stop)
            along[:, here], lengths[here], keep[here] = effect.T @ rest, length, good
            rest /= xp.where(good, length, 1.0)
            scaled[:, some] = rest
        if isinstance(e, StoredColumns):
            e.write(part_of.start, backend.to_numpy(scaled))

    for_each_columns([data], parts_of(v, block), backend, project)
    kept = backend.to_numpy(keep)  # sync: reads which elements have a statistic
    if not kept.any():
        raise _nothing_left(backend, data)
    if kept.all():
        return e, kept, along, lengths
    some = np.flatnonzero(kept)
    where = backend.asarray(some)
    if isinstance(e, StoredColumns):
        whole, e = e, e.take(e.path.with_suffix(".kept"), some)
        whole.remove()
    else:
        e = xp.ascontiguousarray(e[:, where])
    return e, kept, along[:, where], lengths[where]


def columns_of(backend: Backend, e: Array | StoredColumns, part: slice) -> Array:
    """Return some columns of a matrix, on the device: in memory they are a view."""
    columns = e[:, part]
    return backend.asarray(columns) if isinstance(e, StoredColumns) else columns


def moved(array: Array | StoredColumns, source: Backend, target: Backend) -> Array | StoredColumns:
    """Return a copy on another device, which is the current one; what is on disk stays there."""
    if isinstance(array, StoredColumns):
        return array
    out = target.xp.empty(array.shape, dtype=array.dtype)
    at_once = max(1, _MOVED_BYTES // max(1, array.nbytes // max(1, len(array))))
    for rows in parts_of(len(array), at_once):
        with source.activate():
            host = source.to_numpy(array[rows])
        out[rows] = target.asarray(host)
    return out


def product_block(backend: Backend, e: Array | StoredColumns) -> int:
    """Return how many elements of residuals (n, w) a product takes: all of them where they lie on a device."""
    n, w = e.shape
    return block_of(n) if backend.name == "cpu" or isinstance(e, StoredColumns) else max(1, w)


def parts_of(n: int, block: int) -> list[slice]:
    """Return the blocks of `n` elements."""
    return [slice(start, min(n, start + block)) for start in range(0, n, block)]


def for_each_part(work: Callable[[slice], None], parts: list[slice], backend: Backend) -> None:
    """Call `work` for every block of elements, on the CPU from several threads."""

    def some(start: int, stop: int) -> None:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for part in parts[start:stop]:
                work(part)

    if backend.name != "cpu":
        some(0, len(parts))
        return
    with one_blas_thread():
        run_blocks(some, len(parts))


def for_each_columns(
    arrays: Sequence[Array | ColumnSource],
    parts: list[slice],
    backend: Backend,
    work: Callable[[slice, list[Array]], None],
) -> None:
    """Call `work(part, columns)` for every block of elements, on the CPU from several threads.

    Parameters
    ----------
    arrays : sequence of array or ColumnSource, shape (n, v)
    parts : list of slice
        Blocks of elements.
    backend : Backend
    work : callable
        Takes the block and its columns of each array, (n, part), on the device.

    Notes
    -----
    While a thread computes a block of a source, another one reads and decodes the next: two blocks a thread are in
    memory.
    """
    stored = any(isinstance(array, ColumnSource) for array in arrays)

    def read(part: slice) -> list[Array]:
        return [a.columns(part.start, part.stop) if isinstance(a, ColumnSource) else a[:, part] for a in arrays]

    def some(start: int, stop: int) -> None:
        mine = parts[start:stop]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for part, columns in one_ahead(read, mine) if stored else ((part, read(part)) for part in mine):
                work(part, [c if backend.owns(c) else backend.asarray(c) for c in columns])
                del columns

    if backend.name != "cpu":
        some(0, len(parts))
        return
    with one_blas_thread():
        run_blocks(some, len(parts))


def _nothing_left(backend: Backend, data: Array | ColumnSource) -> DataError:
    """Say why no element has a statistic."""
    n, v = data.shape
    if isinstance(data, ColumnSource):
        return DataError(f"none of the {v} elements has a statistic", "check the maps and the mask")
    empty = np.flatnonzero(~backend.to_numpy(backend.xp.isfinite(data).any(axis=1))) if v else np.empty(0, int)
    if empty.size:
        listed = ", ".join(str(i + 1) for i in empty[:8]) + (f" and {empty.size - 8} more" if empty.size > 8 else "")
        return DataError(
            f"{empty.size} of {n} observations hold no finite value (rows {listed}): no element has a statistic",
            "leave these observations out of data and design",
        )
    return DataError(
        f"none of the {v} elements has a statistic: all are constant or hold missing values",
        "check the data and the mask",
    )


def without_constant(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """The basis without the constant, where it lies in its span: residuals sum to 0 however they are permuted."""
    n = len(z)
    ones = np.full(n, 1 / np.sqrt(n))
    if np.linalg.norm(ones - z @ (z.T @ ones)) > 1e-10:
        return z
    left = z - ones[:, None] * (ones @ z)
    basis, size, _ = np.linalg.svd(left, full_matrices=False)
    return np.asarray(basis[:, size > 1e-8])
