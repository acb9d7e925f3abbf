"""Permutation tests of one or several contrasts, with nilearn's names for the results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import UsageError
from gpuroi.inference.design import partition

if TYPE_CHECKING:
    from gpuroi.inference.result import PermutationResult

__all__ = ["MapOptions", "Tested", "permutation_maps", "t_threshold"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Tested:
    """One hypothesis.

    Attributes
    ----------
    design : float64 array, shape (n, p)
    contrast : float64 array, shape (p,)
    flips : bool
        Signs are flipped; otherwise observations are permuted.
    names : tuple of str
        Names of the regressors, for messages.
    """

    design: Matrix
    contrast: Matrix
    flips: bool
    names: tuple[str, ...]


@dataclass(frozen=True)
class MapOptions:
    """What is asked for of every hypothesis.

    Attributes
    ----------
    n_perm : int
        Rearrangements beside the identity; 0 for the statistics alone.
    two_sided : bool
    seed : int
    n_threads : int
    verbose : int
    domain : VoxelGrid or None
    threshold : float or None
        Cluster-forming p-value.
    tfce : bool
    """

    n_perm: int
    two_sided: bool
    seed: int
    n_threads: int
    verbose: int
    domain: Any = None
    threshold: float | None = None
    tfce: bool = False


def permutation_maps(data: Any, tested: Sequence[Tested], options: MapOptions) -> dict[str, NDArray[Any]]:
    """Return nilearn's dictionary of maps (n_regressors, v) and null distributions (n_regressors, n_perm).

    Parameters
    ----------
    data : array, shape (n, v)
    tested : sequence of Tested
        Each is tested alone, with the same rearrangements.
    options : MapOptions

    Raises
    ------
    DataError
        A contrast that cannot be estimated, lengths that do not fit, NaN in a design.
    UsageError
        A threshold that is no p-value.
    """
    _warn_of_zeros(data)
    results = [_run(data, one, options) for one in tested]
    _warn_of_left_out(results, data)
    out: dict[str, NDArray[Any]] = {"t": np.stack([r.statistic for r in results]).astype(np.float64)}
    if options.n_perm <= 0:
        if options.tfce:
            out["tfce"] = _tfce(results)
        return out
    _warn_of_exhaustion(results, options.n_perm)
    out["logp_max_t"] = _logp([r.p_fwe for r in results])
    out["h0_max_t"] = _null(results, "max_stat")
    if options.tfce:
        out["tfce"] = _tfce(results)
        out["h0_max_tfce"] = _null(results, "max_tfce")
        out["logp_max_tfce"] = _logp([_not_none(r.tfce_p_fwe) for r in results])
    if options.threshold is not None:
        for name, dtype in (("size", np.int64), ("mass", np.float64)):
            out[name] = np.stack([_painted(r, name, outside=0.0) for r in results]).astype(dtype)
            p = [np.where(np.isnan(r.statistic), np.nan, _painted(r, f"p_{name}_fwe", outside=1.0)) for r in results]
            out[f"logp_max_{name}"] = _logp(p)
            out[f"h0_max_{name}"] = _null(results, f"max_{name}")
    return out


def t_threshold(p: float, df: float, *, two_sided: bool) -> float:
    """Return the t that cuts off the tail area `p`: of both tails together if `two_sided`.

    Raises
    ------
    UsageError
        If `p` is not between 0 and 1, or, one-sided, not below 0.5: t would not be above 0.

    Examples
    --------
    >>> round(t_threshold(0.001, 20, two_sided=True), 4)
    3.8495
    """
    limit = 1.0 if two_sided else 0.5
    if not 0 < p < limit:
        raise UsageError(
            f"threshold is {p:g}: expected a cluster-forming p-value above 0 and below {limit:g}",
            "it is no t: a t of 3 with 20 degrees of freedom is threshold=0.0035 one-sided, 0.0071 two-sided",
        )
    from scipy.special import stdtrit

    return float(-stdtrit(df, p / 2 if two_sided else p))


def _run(data: Any, one: Tested, options: MapOptions) -> PermutationResult:
    from gpuroi.inference.permute import permutation_test

    part = partition(one.design, one.contrast, name="the tested contrast", names=one.names)
    n = len(one.design)
    only_statistics = options.n_perm <= 0
    threshold = None
    if options.threshold is not None:
        threshold = t_threshold(float(options.threshold), part.df, two_sided=options.two_sided)
    return permutation_test(
        data,
        one.design,
        one.contrast,
        domain=options.domain,
        n_permutations=options.n_perm + 1,
        errors="ise" if one.flips else "ee",
        two_sided=options.two_sided,
        cluster_threshold=None if only_statistics else threshold,
        cluster_mass="excess",
        tfce=options.tfce,
        permutations=np.arange(1, n + 1)[None] if only_statistics else None,
        seed=options.seed,
        n_jobs=options.n_threads,
        progress=None if only_statistics else _progress(options.verbose),
    )


def _progress(verbose: int) -> Callable[[int, int], None] | None:
    """Print how far it has come, at most ten times, or with verbose > 1 after every batch."""
    if verbose <= 0:
        return None
    printed = 0

    def say(done: int, n: int) -> None:
        nonlocal printed
        if verbose > 1 or done == n or 10 * (done - printed) >= n:
            printed = done
            print(f"{done}/{n} permutations ({100 * done / n:.0f}%)", flush=True)

    return say


def _logp(p: Sequence[Matrix]) -> Matrix:
    """-log10 p; 0, not -0, where p is 1."""
    return 0.0 - np.log10(np.stack(p))


def _null(results: Sequence[PermutationResult], name: str) -> Matrix:
    """Maxima of the rearrangements beside the identity; rows that are shorter than others end in NaN."""
    rows = [r.null[name][1:] for r in results]
    out = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _tfce(results: Sequence[PermutationResult]) -> Matrix:
    return np.stack([_not_none(r.tfce) for r in results]).astype(np.float64)


def _painted(result: PermutationResult, column: str, *, outside: float) -> Matrix:
    """The value of its cluster at every element."""
    values = np.concatenate([[outside], _not_none(result.cluster_table)[column].to_numpy(np.float64)])
    painted: Matrix = values[_not_none(result.cluster_labels)]
    return painted


def _not_none(value: Any) -> Any:
    assert value is not None  # it was asked for
    return value


def _warn_of_zeros(data: Any) -> None:
    if _n_zero(data):
        warnings.warn(
            "Some descriptors in 'target_vars' have zeros across all samples. These descriptors will be ignored "
            "during null distribution generation.",
            UserWarning,
            stacklevel=4,
        )


def _warn_of_left_out(results: Sequence[PermutationResult], data: Any) -> None:
    n_left_out = max(r.n_left_out for r in results)
    if n_left_out > _n_zero(data):
        warnings.warn(
            f"{n_left_out} of {data.shape[1]} descriptors are explained by the confounds alone (constant ones by an "
            "intercept) or hold NaN or infinity: their t and p are NaN, and they enter no null distribution.",
            UserWarning,
            stacklevel=4,
        )


def _n_zero(data: Any) -> int:
    return int((data == 0).all(axis=0).sum())


def _warn_of_exhaustion(results: Sequence[PermutationResult], n_perm: int) -> None:
    fewest = min(r.n_permutations for r in results)
    if fewest < n_perm + 1:
        warnings.warn(
            f"Only {fewest} distinct rearrangements exist, the identity included: all of them were run, not {n_perm} "
            f"drawn at random. The smallest attainable p-value is {1 / fewest:.3g}.",
            UserWarning,
            stacklevel=4,
        )
