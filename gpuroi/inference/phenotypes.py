"""Many phenotypes against every element: one product for all, and never a table of phenotypes and elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.backends.threads import limited_threads
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.design import decompose
from gpuroi.inference.permute import place, scratch_folder
from gpuroi.inference.phenotype_tally import PhenotypeResult, PhenotypeTally
from gpuroi.inference.projection import columns_of, for_each_part, parts_of, product_block, residuals, without_constant
from gpuroi.inference.rearrange import Rearrangements, make_rearrangements

if TYPE_CHECKING:
    import os


__all__ = ["phenotype_test"]

_ROWS = 256  # phenotypes, or phenotypes times rearrangements, in one product


def phenotype_test(
    data: Any,
    phenotypes: ArrayLike,
    covariates: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    n_permutations: int = 0,
    errors: Literal["ee", "ise", "both"] = "ee",
    blocks: Any = None,
    whole_blocks: bool = False,
    two_sided: bool = True,
    top: int = 100,
    maps: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhenotypeResult:
    """Test each of many phenotypes at every element, beside the same covariates.

    Parameters
    ----------
    data : array or ColumnSource, shape (n_subjects, n_elements)
        float32 or float64; NumPy or CuPy. Integers become floats.
    phenotypes : array, shape (n_subjects, n_phenotypes)
        NaN where a subject lacks one: the phenotype is then tested in the others.
    covariates : array, shape (n_subjects, n_regressors)
        Nuisance of every test, the intercept among them.
    names : sequence of str, optional
        Of the phenotypes; by default "1", "2", ...
    n_permutations : int, default 0
        Rearrangements, the identity included, for familywise p-values; 0 gives parametric p-values only.
    errors, blocks, whole_blocks
        As in `permutation_test`.
    two_sided : bool, default True
    top : int, default 100
        How many of the largest statistics to keep of each phenotype.
    maps : sequence of str, optional
        Names of phenotypes whose maps to keep.
    seed : int, default 0
        Rearrangement k depends on (seed, k) alone and is the same for all phenotypes; among those who have a phenotype
        the subjects keep the order that it gives them.
    device, n_jobs, scratch, progress
        As in `permutation_test`; progress counts products.

    Returns
    -------
    PhenotypeResult

    Raises
    ------
    DataError
        Shapes that do not fit; covariates that are not finite; phenotypes that are constant beside the covariates,
        or leave no degrees of freedom: all are named.
    UsageError
        An argument outside its range; a map of an unknown phenotype; names that occur twice.

    Notes
    -----
    The t of a phenotype is that of its regression coefficient, from the partial correlation of phenotype and element.
    One product gives the correlations of a block of elements with all phenotypes; of these only maxima, the largest few
    and a histogram are kept. Data are read once for each pattern of missing phenotypes, and once more for every few
    hundred rearranged phenotypes. t from float32 data is right to about 1e-5.

    Familywise p-values are Freedman and Lane's [1]_, as in `permutation_test`: the largest statistic over all elements,
    and for `p_fwe_all` over all phenotypes too, as z where these differ in degrees of freedom.

    References
    ----------
    .. [1] Freedman D, Lane D (1983). A nonstochastic interpretation of reported significance levels. J Bus Econ Stat
       1, 292-298. doi:10.1080/07350015.1983.10509354

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> data, traits = rng.standard_normal((40, 500)), rng.standard_normal((40, 3))
    >>> data[:, 7] += 2 * traits[:, 1]
    >>> result = phenotype_test(data, traits, np.ones((40, 1)), n_permutations=200, top=2, device="cpu")
    >>> int(result.table.loc[1, "element"]), float(result.table.loc[1, "p_fwe_all"]), len(result.top)
    (7, 0.005, 6)
    """
    backend, values, dtype = place(data, device)
    y, z, labels = _checked(values.shape[0], phenotypes, covariates, names)
    if top < 1 or n_permutations < 0:
        raise UsageError(f"top is {top}, n_permutations {n_permutations}", "keep 1 or more; permute 0 times or more")
    if unknown := [name for name in maps if name not in labels]:
        raise UsageError(f"maps of unknown phenotypes: {', '.join(unknown)}", "use names of phenotypes")
    tests = list(_patterns(y, z, labels))
    arrangements = None
    if n_permutations:
        arrangements = make_rearrangements(
            len(y),
            n_permutations=n_permutations,
            errors=errors,
            blocks=blocks,
            whole_blocks=whole_blocks,
            seed=seed,
            x=np.hstack([np.nan_to_num(y), z]),
        )
    n_kept = min(top, values.shape[1])
    found = PhenotypeTally(
        len(labels), values.shape[1], n_kept, two_sided, {labels.index(name): name for name in maps}, dtype
    )
    n_rearranged = arrangements.n if arrangements is not None else 0
    found.null = np.full((n_rearranged, len(labels)), np.nan)
    total = sum(len(test.chunks(_ROWS)) * (1 + n_rearranged) for test in tests)
    report = _counted(progress, total)
    with backend.activate(), limited_threads(n_jobs), scratch_folder(scratch) as folder:
        for test in tests:
            e, kept, _, _ = residuals(backend, _rows_of(backend, values, test.present), test, dtype, scratch=folder)
            run = _Run(backend, e, kept, test, found, flips=errors != "ee")
            run.observe(report)
            if arrangements is not None:
                run.rearrange(arrangements, report)
    return found.result(labels, n_rearranged, _settings(arrangements, errors, seed))


# ------------------------------------------------------------------ the phenotypes that the same subjects have


@dataclass(frozen=True)
class _Pattern:
    """Phenotypes that are there in the same subjects.

    `present` (n,) says in whom; `columns` are the places of the phenotypes; `traits` (n_g, p) their residuals, unit
    length; `z` (n_g, q) an orthonormal basis of the covariates.
    """

    present: NDArray[np.bool_]
    columns: NDArray[np.int64]
    traits: NDArray[np.float64]
    z: NDArray[np.float64]

    @property
    def x_orth(self) -> NDArray[np.float64]:
        """No effect: the phenotypes are tested one by one."""
        return np.empty((len(self.z), 0))

    @property
    def df(self) -> int:
        """Degrees of freedom of each test."""
        return len(self.z) - int(self.z.shape[1]) - 1

    def chunks(self, rows: int) -> list[slice]:
        """Phenotypes of one product."""
        return parts_of(len(self.columns), rows)


def _patterns(y: NDArray[np.float64], z: NDArray[np.float64], labels: list[str]) -> Iterator[_Pattern]:
    """Group the phenotypes by who has them, and take the covariates out of them."""
    patterns, which = np.unique(~np.isnan(y), axis=1, return_inverse=True)
    for i, present in enumerate(patterns.T):
        columns = np.flatnonzero(which.reshape(-1) == i)
        if not present.any():
            raise DataError(f"phenotypes that nobody has: {_listed(labels, columns)}", "leave them out")
        basis = decompose(z[present])
        if basis.df < 2:
            raise DataError(
                f"{int(present.sum())} subjects have {_listed(labels, columns)}, with {basis.rank} independent "
                "covariates: no degrees of freedom are left",
                "leave these phenotypes out, or covariates",
            )
        traits = y[np.ix_(present, columns)]
        size = np.abs(traits).max(axis=0)
        rest = traits - basis.u @ (basis.u.T @ traits)
        rest -= basis.u @ (basis.u.T @ rest)  # twice: what the first left of a large mean
        length = np.linalg.norm(rest, axis=0)
        constant = ~(length > 1e-10 * size * np.sqrt(len(traits)))
        if constant.any():
            raise DataError(
                f"constant beside the covariates: {_listed(labels, columns[constant])}", "leave these phenotypes out"
            )
        yield _Pattern(present, columns, rest / length, basis.u)


def _listed(labels: list[str], columns: NDArray[np.int64]) -> str:
    named = ", ".join(labels[j] for j in columns[:8])
    return named + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")


class _RowsOfColumns:
    """Some subjects of a source of columns."""

    def __init__(self, source: ColumnSource, present: NDArray[np.bool_]) -> None:
        self._source, self._present = source, present
        self.shape, self.dtype = (int(present.sum()), source.shape[1]), source.dtype

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        return self._source.columns(start, stop)[self._present]


class _RowsOfArray:
    """Some subjects of an array, without a copy of all of it."""

    def __init__(self, backend: Backend, array: Array, present: NDArray[np.bool_]) -> None:
        self._array, self._where = array, backend.asarray(np.flatnonzero(present))
        self.shape, self.dtype = (int(present.sum()), array.shape[1]), array.dtype

    def __getitem__(self, key: Any) -> Array:
        return self._array[:, key[1]][self._where]


def _rows_of(backend: Backend, values: Array | ColumnSource, present: NDArray[np.bool_]) -> Any:
    if present.all():
        return values
    if isinstance(values, ColumnSource):
        return _RowsOfColumns(values, present)
    return _RowsOfArray(backend, values, present)


# ------------------------------------------------------------------ the products of one pattern


class _Run:
    """The products of the phenotypes of one pattern with all elements."""

    def __init__(
        self, backend: Backend, e: Any, kept: NDArray[np.bool_], test: _Pattern, found: PhenotypeTally, *, flips: bool
    ) -> None:
        self.backend, self.e, self.test, self.found = backend, e, test, found
        self.elements = np.flatnonzero(kept)  # of the columns of e
        found.n_left_out[test.columns] = int((~kept).sum())
        found.n[test.columns], found.df[test.columns] = len(test.z), test.df
        self.nuisance = test.z if flips else without_constant(test.z)
        self.parts = parts_of(e.shape[1], product_block(backend, e))

    def observe(self, report: Callable[[], None]) -> None:
        """Statistics of the phenotypes as they are: the largest, the histogram, the maps."""
        backend = self.backend
        for chunk in self.test.chunks(_ROWS):
            weights = backend.asarray(self.test.traits[:, chunk].T.astype(self.e.dtype))  # (p, n)
            columns = self.test.columns[chunk]

            def keep(part: slice, weights: Array = weights, columns: NDArray[np.int64] = columns) -> None:
                u = weights @ self._residuals(part)  # (p, w)
                nothing = backend.xp.empty((len(u), 0, u.shape[1]), dtype=u.dtype)
                t = backend.permutation_statistics(u[:, None, :], nothing, float(self.test.df), False)
                self.found.keep(backend, columns, self.elements[part], t)

            for_each_part(keep, self.parts, backend)
            report()

    def rearrange(self, arrangements: Rearrangements, report: Callable[[], None]) -> None:
        """Largest statistic of every rearrangement and phenotype."""
        for chunk in self.test.chunks(_ROWS):
            width = chunk.stop - chunk.start
            together = max(1, _ROWS // width)
            for start in range(0, arrangements.n, together):
                rows = _among(arrangements.rows(start, min(start + together, arrangements.n)), self.test.present)
                k = len(rows)
                # Always the same shape: a product may round differently when its shape does.
                full = np.concatenate([rows, np.repeat(rows[-1:], together - k, axis=0)])
                largest = self._largest(full, self.test.traits[:, chunk])[:k]
                self.found.null[start : start + k, self.test.columns[chunk]] = largest
                for _ in range(k):
                    report()

    def _largest(self, rows: NDArray[np.int32], traits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest partial correlation over the elements, (k, p)."""
        backend, xp = self.backend, self.backend.xp
        to, sign = np.abs(rows) - 1, np.sign(rows)
        (k, n), p, q = rows.shape, traits.shape[1], self.nuisance.shape[1]
        effect = (traits[to] * sign[..., None]).transpose(0, 2, 1).reshape(k * p, n)
        taken = (self.nuisance[to] * sign[..., None]).transpose(0, 2, 1).reshape(k * q, n)
        weights = backend.asarray(np.concatenate([effect, taken]).astype(self.e.dtype))
        tiny = 16 * float(np.finfo(self.e.dtype).eps)  # less left of a rearranged residual lies in the nuisance
        found: list[Array] = []

        def largest(part: slice) -> None:
            product = weights @ self._residuals(part)  # (k p + k q, w)
            u, w = product[: k * p].reshape(k, p, product.shape[1]), product[k * p :].reshape(k, q, product.shape[1])
            rest = 1 - (w * w).sum(axis=1)  # (k, w)
            u *= xp.where(rest > tiny, 1 / xp.sqrt(xp.maximum(rest, tiny)), 0)[:, None]
            found.append(xp.maximum(u.max(axis=2), -u.min(axis=2)) if self.found.two_sided else u.max(axis=2))

        for_each_part(largest, self.parts, backend)
        most = xp.stack(found).max(axis=0)
        return np.asarray(backend.to_numpy(most), np.float64)  # sync: reads k p maxima

    def _residuals(self, part: slice) -> Array:
        return columns_of(self.backend, self.e, part)


def _among(rows: NDArray[np.int32], present: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Rearrangements of some of the subjects: these share their own places, in the order of where they went."""
    if present.all():
        return rows
    some = rows[:, present]
    order = np.argsort(np.argsort(np.abs(some), axis=1, kind="stable"), axis=1, kind="stable")
    return ((order + 1) * np.sign(some)).astype(np.int32)


# ------------------------------------------------------------------ input


def _checked(
    n: int, phenotypes: ArrayLike, covariates: ArrayLike, names: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    y, z = np.asarray(phenotypes, np.float64), np.asarray(covariates, np.float64)
    for what, table in (("phenotypes", y), ("covariates", z)):
        if table.ndim != 2 or len(table) != n or table.shape[1] == 0:
            raise DataError(
                f"{what} have shape {table.shape} but data has {n} rows: expected one row per subject",
                "give a table (n_subjects, columns); for one column values[:, None]",
            )
    labels = [str(j + 1) for j in range(y.shape[1])] if names is None else [str(name) for name in names]
    if len(labels) != y.shape[1] or len(set(labels)) != len(labels):
        raise UsageError(f"{len(labels)} names, {len(set(labels))} different, for {y.shape[1]} phenotypes", "name each")
    if not np.isfinite(z).all():
        rows = np.flatnonzero(~np.isfinite(z).all(axis=1))
        raise DataError(
            f"covariates are missing or infinite in row{'s' * (len(rows) > 1)} {', '.join(map(str, rows[:8] + 1))}",
            "leave these subjects out of data, phenotypes and covariates",
        )
    if infinite := [labels[j] for j in np.flatnonzero(np.isinf(y).any(axis=0))]:
        raise DataError(f"infinite values in {', '.join(infinite[:8])}", "write NaN where a value is missing")
    return y, z, labels


def _counted(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return report


def _settings(arrangements: Rearrangements | None, errors: str, seed: int) -> dict[str, Any]:
    if arrangements is None:
        return {"errors": None}
    return {"errors": errors, "seed": seed, "exhaustive": arrangements.exhaustive, **arrangements.describe()}
