"""Many phenotypes against every element: one product for all, and never a table of phenotypes and elements."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.backends.threads import limited_threads
from gpuroi.errors import DataError, UsageError
from gpuroi.inference.columns import ColumnSource
from gpuroi.inference.design import DesignBasis, decompose
from gpuroi.inference.phenotype_gaps import Gapped, GapProducts
from gpuroi.inference.phenotype_residuals import DeviceResiduals, HostResiduals, residuals_of
from gpuroi.inference.phenotype_tally import Counts, PhenotypeResult, PhenotypeTally
from gpuroi.inference.placing import place, scratch_folder
from gpuroi.inference.projection import block_of, for_each_part, parts_of, without_constant
from gpuroi.inference.rearrange import Rearrangements, make_rearrangements

if TYPE_CHECKING:
    import os


__all__ = ["phenotype_test", "unusable_phenotypes"]

_ROWS = 256  # phenotypes times rearrangements in one product
_OBSERVED = 512  # phenotypes in one product, as they are


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
        As in `permutation_test`; progress counts products with a block of elements.

    Returns
    -------
    PhenotypeResult

    Raises
    ------
    DataError
        Shapes that do not fit; covariates that are not finite; phenotypes that are infinite, constant beside the
        covariates, or leave no degrees of freedom: all are named.
    UsageError
        An argument outside its range; a map of an unknown phenotype; names that occur twice.

    Notes
    -----
    The t of a phenotype is that of its regression coefficient, from the partial correlation of phenotype and element.
    One product gives the correlations of a block of elements with all phenotypes; of these only maxima, the largest few
    and a histogram are kept. Without permutations data are read once, whatever is missing in the phenotypes. With
    permutations they are read once for each pattern of missing values, and the residuals, which `scratch` takes where
    memory does not hold them, once for every few hundred rearranged phenotypes. t from float32 data is right to about
    1e-5.

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
    tests, bad = _patterns(y, z)
    if bad:
        listed = ", ".join(f"{labels[j]} {reason}" for j, reason in bad.items())
        raise DataError(f"phenotypes that cannot be tested: {listed}", "leave them out, or correct them")
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
    report = _counted(progress, sum(_n_products(backend, test, values.shape[1], n_rearranged) for test in tests))
    with backend.activate(), limited_threads(n_jobs), scratch_folder(scratch) as folder:
        if backend.name == "cpu" and not n_rearranged and len(tests) > 1:
            _observe_together(backend, values, tests, z, found, dtype, report)
            tests = []
        for test in tests:
            e = residuals_of(backend, values, test.present, test, dtype, keep=n_rearranged > 0, scratch=folder)
            run = _Run(backend, e, test, found, dtype, flips=errors != "ee")
            run.observe(report)
            if arrangements is not None:
                run.rearrange(arrangements, report)
            e.close()
    return found.result(labels, n_rearranged, _settings(arrangements, errors, seed))


def unusable_phenotypes(phenotypes: ArrayLike, covariates: ArrayLike, names: Sequence[str]) -> dict[str, str]:
    """Say which phenotypes `phenotype_test` would refuse, and why: "is constant", "is missing in everybody", ...

    Parameters
    ----------
    phenotypes, covariates, names
        As in `phenotype_test`.

    Returns
    -------
    dict of str to str
        Empty where all can be tested.

    Examples
    --------
    >>> age = np.array([20.0, 30, 40, 50])
    >>> unusable_phenotypes(np.column_stack([age, 0 * age]), np.ones((4, 1)), ["age", "nothing"])
    {'nothing': 'is constant'}
    """
    y, z, labels = _checked(len(np.asarray(phenotypes)), phenotypes, covariates, names)
    return {labels[j]: reason for j, reason in _patterns(y, z)[1].items()}


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


def _patterns(y: NDArray[np.float64], z: NDArray[np.float64]) -> tuple[list[_Pattern], dict[int, str]]:
    """Group the phenotypes by who has them and take the covariates out of them; say what is wrong with others."""
    bad = {int(j): "has infinite values" for j in np.flatnonzero(np.isinf(y).any(axis=0))}
    there = ~np.isnan(y.T)
    same: dict[bytes, list[int]] = {}
    for i, bits in enumerate(np.packbits(there, axis=1)):
        if i not in bad:
            same.setdefault(bits.tobytes(), []).append(i)
    found = []
    for columns in map(np.array, same.values()):
        present = there[columns[0]]
        n, basis = int(present.sum()), _basis(z[present])
        if basis is None:
            reason = "is missing in everybody" if n == 0 else f"is there in {n} of {len(y)} only: too few to be tested"
            bad.update(dict.fromkeys(columns.tolist(), reason))
            continue
        traits = y[np.ix_(present, columns)]
        size = np.abs(traits).max(axis=0)
        rest = traits - basis.u @ (basis.u.T @ traits)
        rest -= basis.u @ (basis.u.T @ rest)  # twice: what the first left of a large mean
        length = np.linalg.norm(rest, axis=0)
        good = length > 1e-10 * size * np.sqrt(n)
        for j in np.flatnonzero(~good).tolist():
            varies = np.ptp(traits[:, j]) > 0
            bad[int(columns[j])] = "is constant beside the covariates" if varies else "is constant"
        if good.any():
            found.append(_Pattern(present, columns[good], rest[:, good] / length[good], basis.u))
    return found, dict(sorted(bad.items()))


def _basis(z: NDArray[np.float64]) -> DesignBasis | None:
    """The covariates, decomposed; None where they leave no degrees of freedom for a phenotype."""
    try:
        basis = decompose(z)
    except DataError:
        return None
    return basis if basis.df > 1 else None


# ------------------------------------------------------------------ the products of one pattern


class _Run:
    """The products of the phenotypes of one pattern with all elements."""

    def __init__(
        self,
        backend: Backend,
        e: HostResiduals | DeviceResiduals,
        test: _Pattern,
        found: PhenotypeTally,
        dtype: np.dtype[Any],
        *,
        flips: bool,
    ) -> None:
        self.backend, self.e, self.test, self.found, self.dtype = backend, e, test, found, dtype
        self.nuisance = test.z if flips else without_constant(test.z)

    @cached_property
    def chunks(self) -> list[tuple[NDArray[np.int64], Array]]:
        """Phenotypes of one product, as they are, and their weights (p, n)."""
        test = self.test
        return [(test.columns[some], self._weights(test.traits[:, some].T)) for some in test.chunks(_OBSERVED)]

    def observe(self, report: Callable[[int], None]) -> None:
        """Statistics of the phenotypes as they are: the largest, the histogram, the maps."""
        test, found = self.test, self.found

        def keep(part: slice) -> None:
            e, elements = self.e.block(part)
            with found.counting() as counts:
                self.keep(counts, e, elements)
            report(len(self.chunks))

        for_each_part(keep, self.e.parts, self.backend)
        found.n[test.columns], found.df[test.columns] = len(test.z), test.df
        found.n_left_out[test.columns] = self.e.n_left_out

    def keep(self, counts: Counts, e: Array, elements: NDArray[np.int64]) -> None:
        """Keep what matters of the phenotypes at some elements, from their residuals (n, w)."""
        for columns, weights in self.chunks if len(elements) else ():
            self.found.keep(self.backend, counts, columns, elements, weights @ e, float(self.test.df))

    def rearrange(self, arrangements: Rearrangements, report: Callable[[int], None]) -> None:
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
                report(k * len(self.e.parts))

    def _largest(self, rows: NDArray[np.int32], traits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest partial correlation over the elements, (k, p)."""
        backend, xp = self.backend, self.backend.xp
        to, sign = np.abs(rows) - 1, np.sign(rows)
        (k, n), p, q = rows.shape, traits.shape[1], self.nuisance.shape[1]
        effect = (traits[to] * sign[..., None]).transpose(0, 2, 1).reshape(k * p, n)
        taken = (self.nuisance[to] * sign[..., None]).transpose(0, 2, 1).reshape(k * q, n)
        weights = self._weights(np.concatenate([effect, taken]))
        tiny = 16 * float(np.finfo(self.dtype).eps)  # less left of a rearranged residual lies in the nuisance
        found: list[Array] = []

        def largest(part: slice) -> None:
            e, elements = self.e.block(part)
            if not len(elements):
                return
            product = weights @ e  # (k p + k q, w)
            u, w = product[: k * p].reshape(k, p, product.shape[1]), product[k * p :].reshape(k, q, product.shape[1])
            rest = 1 - (w * w).sum(axis=1)  # (k, w)
            u *= xp.where(rest > tiny, 1 / xp.sqrt(xp.maximum(rest, tiny)), 0)[:, None]
            found.append(xp.maximum(u.max(axis=2), -u.min(axis=2)) if self.found.two_sided else u.max(axis=2))

        for_each_part(largest, self.e.parts, backend)
        most = xp.stack(found).max(axis=0)
        return np.asarray(backend.to_numpy(most), np.float64)  # sync: reads k p maxima

    def _weights(self, rows: NDArray[np.float64]) -> Array:
        return self.backend.asarray(np.ascontiguousarray(rows, dtype=self.dtype))


def _observe_together(
    backend: Backend,
    values: Array | ColumnSource,
    tests: list[_Pattern],
    z: NDArray[np.float64],
    found: PhenotypeTally,
    dtype: np.dtype[Any],
    report: Callable[[int], None],
) -> None:
    """Statistics of the phenotypes of all patterns as they are, in one pass over the data."""
    everybody = np.ones(len(z), np.bool_)
    e = HostResiduals(values, everybody, decompose(z).u, dtype, keep=False, scratch=None)
    whole = [_Run(backend, e, test, found, dtype, flips=False) for test in tests if test.present.all()]
    gaps = GapProducts([test for test in tests if not test.present.all()], dtype)
    n_products = sum(len(test.chunks(_OBSERVED)) for test in tests)

    def keep(part: slice) -> None:
        data = e.values(part)
        rest, elements = e.block(part, data)
        n_found = np.zeros(len(found.n), np.int64)
        with found.counting() as counts:
            for run in whole:
                run.keep(counts, rest, elements)
                n_found[run.test.columns] += len(elements)

            def keep_gapped(test: Gapped, some: NDArray[np.int64], u: NDArray[Any]) -> None:
                n_found[test.columns] += len(some)
                if len(some):
                    found.keep(backend, counts, test.columns, some, u, float(test.df))

            gaps.observe(rest, elements, data, part.start, keep_gapped)
            counts.n_found += n_found
        report(n_products)

    for_each_part(keep, e.parts, backend)
    for test in tests:
        found.n[test.columns], found.df[test.columns] = len(test.z), test.df
    n_found = found.n_found()
    if not n_found.all():
        raise DataError(
            f"no element has a statistic for {np.count_nonzero(n_found == 0)} of {len(n_found)} phenotypes: all are "
            "constant or hold missing values",
            "check the data and the mask",
        )
    found.n_left_out[:] = values.shape[1] - n_found


def _n_products(backend: Backend, test: _Pattern, v: int, n_rearranged: int) -> int:
    """How many blocks of elements are multiplied for a pattern, for the progress."""
    n_parts = len(parts_of(v, block_of(len(test.present)))) if backend.name == "cpu" else 1
    return n_parts * (len(test.chunks(_OBSERVED)) + len(test.chunks(_ROWS)) * n_rearranged)


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
    return y, z, labels


def _counted(progress: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    done, lock = 0, threading.Lock()

    def report(n: int) -> None:
        nonlocal done
        with lock:
            done += n
            if progress is not None:
                progress(done, total)

    return report


def _settings(arrangements: Rearrangements | None, errors: str, seed: int) -> dict[str, Any]:
    if arrangements is None:
        return {"errors": None}
    return {"errors": errors, "seed": seed, "exhaustive": arrangements.exhaustive, **arrangements.describe()}
