"""How many hypotheses of a set are false, at least: closed testing with Simes' test, for every set at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError, UsageError

__all__ = ["hommel_value", "true_discovery_proportions"]


def hommel_value(p: Any, alpha: float) -> int:
    """Return Hommel's value: the size of the largest set of hypotheses that Simes' test does not reject.

    h is the largest i for which ``i p_(n - i + j) > j alpha`` for all j = 1..i, with the p-values in ascending order.

    Parameters
    ----------
    p : array, shape (n,)
        P-values.
    alpha : float
        Level, 0 to 1.

    Returns
    -------
    int
        0 (all hypotheses are rejected together) to n.

    Raises
    ------
    UsageError
        Alpha outside 0 to 1.
    DataError
        P-values outside 0 to 1, or NaN.

    Notes
    -----
    Only the p-values up to alpha are sorted: of n numbers, some 5 %. Where a p-value lies on the line exactly Simes'
    test rejects; nilearn's value is then larger by one.

    References
    ----------
    .. [1] Meijer RJ, Krebs TJP, Goeman JJ (2019). Hommel's procedure in linear time. Biometrical Journal 61, 73-82.
       doi:10.1002/bimj.201700316

    Examples
    --------
    >>> hommel_value([1e-8, 0.01, 0.08, 0.1, 0.5, 0.7, 0.9], 0.061)
    5
    """
    values = _checked(p, alpha)
    n = len(values)
    small = np.sort(values[values <= alpha])  # (m,)
    if len(small) in (0, n):
        return n if n and len(small) == 0 else 0
    if alpha == 0:
        return n - len(small)
    slope = float(np.max((alpha - small) / (n - np.arange(1, len(small) + 1))))
    h = n if slope * n <= alpha else int(alpha / slope)
    h = min(h + 1, n)  # the division may have rounded down
    while h > 0 and not _simes_accepts(small, n, h, alpha):
        h -= 1
    return h


def true_discovery_proportions(p: Any, cluster: Any, n_clusters: int, h: int, alpha: float) -> NDArray[np.float64]:
    """Return for each of some sets a lower bound of the share of its hypotheses that are false.

    With probability 1 - alpha all bounds hold at the same time, for all sets there are, however they were chosen.

    Parameters
    ----------
    p : array, shape (v,)
        P-values.
    cluster : int array, shape (v,)
        The set that each belongs to, 1 to `n_clusters`; 0: to none.
    n_clusters : int
    h : int
        Hommel's value of all hypotheses, at this alpha.
    alpha : float

    Returns
    -------
    float64 array, shape (n_clusters,)
        0 to 1; 0 for an empty set.

    Notes
    -----
    d(S) = max over u of 1 - u + #{i in S: h p_i <= u alpha}, as a share of |S|. Where h is 0, or p underflows to 0,
    nilearn counts from u = 0 and gives (|S| + 1) / |S|, more than everything.

    References
    ----------
    .. [1] Rosenblatt JD, Finos L, Weeda WD, Solari A, Goeman JJ (2018). All-Resolutions Inference for brain imaging.
       NeuroImage 181, 786-796. doi:10.1016/j.neuroimage.2018.07.060

    Examples
    --------
    >>> true_discovery_proportions([1e-8, 0.01, 0.08], [1, 1, 2], 2, h=5, alpha=0.061)
    array([1., 0.])
    """
    values = _checked(p, alpha)
    sets = np.asarray(cluster)
    found = np.zeros(n_clusters)
    inside = np.flatnonzero(sets)
    if not len(inside) or alpha == 0:
        return found
    if (np.diff(values[inside]) < 0).any():
        inside = inside[np.argsort(values[inside], kind="stable")]
    own = sets[inside]
    narrow = own.astype(np.int16) if n_clusters < 1 << 15 else own  # 16 bits: NumPy's radix sort, five times as fast
    order = inside[np.argsort(narrow, kind="stable")]
    size = np.bincount(own, minlength=n_clusters + 1)[1:]
    present = np.flatnonzero(size)
    start = (np.cumsum(size) - size)[present]
    rank = np.arange(1, len(order) + 1) - np.repeat(start, size[present])  # from 1 in each set
    u = np.maximum(np.ceil(h * values[order] / alpha), 1)
    found[present] = np.maximum(np.maximum.reduceat(1 - u + rank, start), 0) / size[present]
    return found


def _checked(p: Any, alpha: float) -> NDArray[np.float64]:
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha should be between 0 and 1. {alpha} was provided.")
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"p has shape {values.shape}, or values outside 0 to 1, or NaN", "give p-values, shape (n,)")
    return values


def _simes_accepts(small: NDArray[np.float64], n: int, i: int, alpha: float) -> bool:
    """Whether Simes' test does not reject the i largest of n p-values, of which `small` are those up to alpha."""
    first = n - i  # so many are not among them
    j = np.arange(1, len(small) - first + 1)
    return bool((i * small[first:] > j * alpha).all()) if first < len(small) else True
