"""How good a parcellation is: the variance that parcels keep, and how alike two parcellations are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import backend_of
from gpuroi.domains.domain import on_host
from gpuroi.errors import DataError, UsageError
from gpuroi.ops.volumes import as_float

if TYPE_CHECKING:
    from gpuroi.parcels.parcellation import Parcellation

__all__ = ["Reproducibility", "adjusted_rand", "dice", "explained_variance", "reproducibility"]


@dataclass(frozen=True)
class Reproducibility:
    """How alike parcellations of resampled data are.

    Attributes
    ----------
    dice : float64 array, shape (n_resamples,)
        Mean Dice of matched parcels, of each pair of parcellations.
    adjusted_rand : float64 array, shape (n_resamples,)
    how : str
        "halves" or "bootstrap".
    """

    dice: NDArray[np.float64]
    adjusted_rand: NDArray[np.float64]
    how: str


def explained_variance(data: Any, labels: ArrayLike) -> float:
    """Return the share of the variance between elements that the means of parcels keep.

    Parameters
    ----------
    data : array, shape (n, v)
        n values of each of v elements; NumPy or CuPy.
    labels : int array, shape (v,)
        Parcel of each element, of any numbering; 0 is a parcel like all others.

    Returns
    -------
    float
        1 - (sum of squares within parcels) / (sum of squares around the mean of all elements); 0 for one parcel, 1
        where all elements of a parcel are equal.

    Raises
    ------
    DataError
        Shapes that do not fit; elements that are all equal, or not finite.

    Examples
    --------
    >>> round(explained_variance(np.array([[0.0, 0.0, 3.0, 5.0]]), [1, 1, 2, 2]), 3)
    0.889
    """
    backend = backend_of(data)
    values = as_float(backend, data, "data")
    given = np.asarray(labels)
    if values.ndim != 2 or given.shape != (values.shape[1],):
        raise DataError(f"data have shape {tuple(values.shape)} and labels {given.shape}: expected (n, v) and (v,)")
    _, inverse = np.unique(given, return_inverse=True)
    k = int(inverse.max()) + 1
    with backend.activate():
        number = backend.asarray(inverse.astype(np.int32))
        sums, counts = backend.label_sums(values, number + 1, k)
        means = sums / counts  # (n, k)
        within = total = 0.0
        for row in range(values.shape[0]):
            line = values[row].astype(np.float64)
            within += float(((line - means[row][number]) ** 2).sum())  # sync: reads one float
            total += float(((line - line.mean()) ** 2).sum())  # sync: reads one float
    if not np.isfinite(total):
        raise DataError("data hold NaN or infinite values", "leave these elements out, or mend them")
    if total == 0:
        raise DataError("all elements have the same values: there is no variance to explain")
    return 1 - within / total


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Return the mean Dice coefficient of the parcels of two parcellations, matched one to one.

    Parameters
    ----------
    a, b : int array, shape (v,)
        Parcel of each element, of any numbering.

    Returns
    -------
    float
        2 |A and B| / (|A| + |B|), averaged over the pairs whose sum is largest; parcels without a partner count as 0.

    Raises
    ------
    DataError
        Shapes that differ, or no element.

    References
    ----------
    .. [1] Dice LR (1945). Measures of the amount of ecologic association between species. Ecology 26, 297-302.
       doi:10.2307/1932409

    Examples
    --------
    >>> dice([1, 1, 2, 2], [5, 5, 5, 3]), dice([1, 2, 2], [2, 1, 1])
    (0.7333333333333334, 1.0)
    """
    from scipy.optimize import linear_sum_assignment

    joint = _joint_counts(a, b)
    sums = joint.sum(axis=1)[:, None] + joint.sum(axis=0)
    coefficient = 2 * joint / sums
    rows, columns = linear_sum_assignment(coefficient, maximize=True)
    return float(coefficient[rows, columns].sum() / max(joint.shape))


def adjusted_rand(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Rand index of two parcellations, adjusted for chance.

    Parameters
    ----------
    a, b : int array, shape (v,)
        Parcel of each element, of any numbering.

    Returns
    -------
    float
        1 for the same parcels, 0 on average for random ones of the same sizes.

    Raises
    ------
    DataError
        Shapes that differ, or no element.

    References
    ----------
    .. [1] Hubert L, Arabie P (1985). Comparing partitions. J Classif 2, 193-218. doi:10.1007/BF01908075

    Examples
    --------
    >>> adjusted_rand([1, 1, 2, 2], [3, 3, 1, 1]), round(adjusted_rand([1, 1, 2, 2], [1, 1, 1, 2]), 3)
    (1.0, 0.0)
    """
    joint = _joint_counts(a, b)
    together = _pairs(joint)
    in_a, in_b, among_all = _pairs(joint.sum(axis=1)), _pairs(joint.sum(axis=0)), _pairs(joint.sum())
    expected = in_a * in_b / among_all if among_all else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def reproducibility(
    parcellation: Parcellation, data: Any, *, how: str = "halves", n_resamples: int = 10, seed: int = 0
) -> Reproducibility:
    """Parcellate resampled data again and again, and compare.

    Parameters
    ----------
    parcellation : Parcellation
        Its settings are used; it is not changed. Without a `domain` of its own that of its fit is used.
    data : array, shape (n_samples, n_elements)
        As for `fit`, in the layout of its domain.
    how : {"halves", "bootstrap"}, default "halves"
        Random halves of the samples, compared with each other; or samples drawn with replacement, compared with the
        parcels of all samples.
    n_resamples : int, default 10
    seed : int, default 0
        Resample i is drawn by Philox with this key and counter i.

    Returns
    -------
    Reproducibility

    Raises
    ------
    UsageError
        Another `how`, or no resample.
    DataError
        Fewer than four samples.

    Notes
    -----
    Samples that follow each other in time are alike, and so are halves that share them: what comes out is an upper
    bound. Halves that are runs, compared by `dice` and `adjusted_rand`, have no such bias.
    """
    values = on_host(data)
    if how not in ("halves", "bootstrap"):
        raise UsageError(f'how is "{how}"', 'use "halves" or "bootstrap"')
    if n_resamples < 1:
        raise UsageError(f"n_resamples is {n_resamples}", "use 1 or more")
    if values.ndim != 2 or len(values) < 4:
        raise DataError(f"data have shape {values.shape}: expected (n_samples, n_elements) with four samples or more")
    from sklearn.base import clone

    domain = parcellation.domain or getattr(parcellation, "domain_", None)
    single = clone(parcellation).set_params(domain=domain)
    n = len(values)
    whole = single.fit(values).labels_ if how == "bootstrap" else None
    scores = np.empty((2, n_resamples))
    for i in range(n_resamples):
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, i]))
        if whole is None:
            order = random.permutation(n)
            first = single.fit(values[np.sort(order[: n // 2])]).labels_
            second = single.fit(values[np.sort(order[n // 2 :])]).labels_
        else:
            first, second = whole, single.fit(values[np.sort(random.integers(n, size=n))]).labels_
        scores[:, i] = dice(first, second), adjusted_rand(first, second)
    return Reproducibility(scores[0], scores[1], how)


def _joint_counts(a: ArrayLike, b: ArrayLike) -> NDArray[np.int64]:
    """Return how many elements lie in parcel i of one and j of the other."""
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise DataError(
            f"labels have shapes {first.shape} and {second.shape}: expected (v,), both on the same elements"
        )
    _, rows = np.unique(first, return_inverse=True)
    _, columns = np.unique(second, return_inverse=True)
    k = int(columns.max()) + 1
    return np.bincount(rows * k + columns, minlength=(int(rows.max()) + 1) * k).reshape(-1, k)


def _pairs(sizes: Any) -> float:
    counts = np.asarray(sizes, dtype=np.float64)
    return float((counts * (counts - 1)).sum() / 2)
