"""Parcels that pass a threshold, and the clusters that they form with their neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuroi.errors import DataError, UsageError
from gpuroi.parcels.values import has_single_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.domains import ParcelGraph

__all__ = ["ParcelClusters", "cutoff_of", "find_clusters"]


@dataclass(frozen=True)
class ParcelClusters:
    """What each parcel is to the clusters of a map; all arrays are in the order of the ids, shape (v,).

    Attributes
    ----------
    sign : int8 array
        1 or -1 where a parcel passes the threshold, else 0.
    cluster : int32 array
        0 outside; positive clusters first, each sign by its first parcel.
    weight : float64 array
        Of the parcel's cluster: the sum over its parcels; 0 outside.
    n_parcels : int64 array
        Parcels of its cluster; 0 outside.
    kept : bool array
        The cluster's weight is at least the one asked for.
    """

    sign: NDArray[np.int8]
    cluster: NDArray[np.int32]
    weight: NDArray[np.float64]
    n_parcels: NDArray[np.int64]
    kept: NDArray[np.bool_]

    @property
    def isolated(self) -> NDArray[np.bool_]:
        """Parcels that pass while no neighbour of theirs does on the same side."""
        return np.asarray(self.n_parcels == 1)


def find_clusters(
    values: NDArray[np.float64],
    graph: ParcelGraph,
    cutoff: float,
    *,
    cluster_threshold: float = 1,
    two_sided: bool = True,
    device: str | None = None,
) -> ParcelClusters:
    """Find the parcels above a cutoff and their clusters on a graph.

    Parameters
    ----------
    values : float64 array, shape (v,)
        In the order of the graph's ids. NaN never passes.
    graph : ParcelGraph
        Which parcels are neighbours, and what each adds to the weight of a cluster.
    cutoff : float
        ``abs(value) > cutoff`` passes. One-sided ``value > cutoff``, or ``value < cutoff`` if the cutoff is negative.
        Rounded to float32 first if every value has that precision: 2.4 from a float32 image is not above 2.4.
    cluster_threshold : float, default 1
        A cluster is kept if its weight is at least this.
    two_sided : bool, default True
        Parcels below -cutoff form clusters of their own; the two signs never join.
    device : str, optional

    Returns
    -------
    ParcelClusters

    Examples
    --------
    >>> from gpuroi.domains import ParcelGraph
    >>> path = ParcelGraph([1, 2, 3, 4], [(1, 2), (2, 3), (3, 4)])
    >>> found = find_clusters(np.array([3.0, 4.0, -5.0, 0.5]), path, 2.0, cluster_threshold=2)
    >>> found.cluster.tolist(), found.kept.tolist(), found.isolated.tolist()
    ([1, 1, 2, 0], [True, True, False, False], [False, False, True, False])
    """
    from gpuroi.inference import clusters

    if values.shape != (graph.n_elements,):
        raise DataError(f"{len(values)} values but {graph.n_elements} parcels", "give one value for each parcel")
    if not cluster_threshold >= 0:
        raise UsageError(f"cluster_threshold is {cluster_threshold}", "give the smallest weight to keep, 0 or more")
    if two_sided and cutoff < 0:
        raise UsageError(
            f"the threshold {cutoff} is negative, but both sides are kept",
            "give its absolute value, or two_sided=False (--one-sided) to keep what lies below it",
        )
    below = not two_sided and cutoff < 0
    if has_single_precision(values):
        cutoff = float(np.float32(cutoff))
    # Only which parcels pass, and their sides, matter here: 2 and -2 against 1, whatever the values and the cutoff.
    if below:
        passing = np.where(values < cutoff, 2.0, 0.0)
    else:
        passing = np.where(values > cutoff, 2.0, np.where(two_sided & (values < -cutoff), -2.0, 0.0))
    found = clusters(passing, graph, 1.0, two_sided=two_sided, device=device)
    labels = np.asarray(found.labels, np.int32)
    size = np.append(0.0, found.table["size"].to_numpy(np.float64))
    weight = size[labels]
    sign = np.sign(passing).astype(np.int8)
    # A hair below the limit counts as the limit: 27 parcels of 0.1 mm3 are 2.7 mm3, whatever the last bit says.
    kept = (labels > 0) & (weight >= cluster_threshold * (1 - 1e-9))
    return ParcelClusters(
        sign if not below else -sign, labels, weight, np.append(0, np.bincount(labels)[1:])[labels], kept
    )


def cutoff_of(threshold: float | str, values: NDArray[np.float64], *, two_sided: bool = True) -> float:
    """Return the cutoff as a number.

    Parameters
    ----------
    threshold : float or str
        A number (also as text), or a percentile of the parcels such as "90%": two-sided of ``abs(value)``, else of the
        values that are not negative; each parcel counts once, whatever its size. Interpolated linearly.
    values : float64 array, shape (v,)
    two_sided : bool

    Raises
    ------
    UsageError
        Any other text, NaN or infinity, a percentile outside 0 to 100.
    DataError
        No value to take the percentile of.

    Examples
    --------
    >>> cutoff_of("50%", np.array([-4.0, 1.0, 2.0, np.nan])), cutoff_of("2.5", np.array([1.0]))
    (2.0, 2.5)
    """
    hint = 'give a value such as 2.5, or a percentile of the parcels: "90%"'
    text = str(threshold).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        raise UsageError(f'threshold is "{threshold}"', hint) from None
    if not text.endswith("%"):
        if not math.isfinite(number):
            raise UsageError(f"threshold is {threshold}", hint)
        return number
    if not 0 <= number <= 100:
        raise UsageError(f"the percentile {text} is outside 0 to 100", hint)
    finite = values[np.isfinite(values)]
    population = np.abs(finite) if two_sided else finite[finite >= 0]
    if not len(population):
        raise DataError(f"no parcel to take the percentile {text} of: none has a value", "check the values")
    return float(np.percentile(population, number))
