"""Parcels within regions within lobes: parents that stand in for contact."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.domains import ParcelGraph
from gpuroi.errors import DataError, UsageError
from gpuroi.parcels.threshold import ParcelClusters, find_clusters
from gpuroi.parcels.values import named_ids, read_id_table

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Level", "family_graph", "read_hierarchy", "threshold_levels"]


@dataclass(frozen=True)
class Level:
    """Clusters of one level of a hierarchy, in which parcels of one parent are neighbours.

    Attributes
    ----------
    name : str
    parents : object array of str, shape (v,)
        Parent of each parcel; "" where it has none, which makes it nobody's neighbour.
    clusters : ParcelClusters
        Of the parcels.
    table : DataFrame
        One row a parent: `parent`, `parcels`, `weight` (sum over all its parcels), `above`, `weight_above`, `below`,
        `weight_below` (its parcels that pass, positive and negative), `kept_above`, `kept_below`.
    """

    name: str
    parents: NDArray[Any]
    clusters: ParcelClusters
    table: pd.DataFrame


def read_hierarchy(source: Any, known: NDArray[np.int64], levels: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the parent of each parcel at every level.

    Parameters
    ----------
    source : DataFrame or path of a table
        One row a parcel: a column of ids (id, index, label, ...), and a column for each level. A row for the
        background, 0, is passed over.
    known : int64 array, shape (v,)
        Ids of the parcels, ascending.
    levels : sequence of str, optional
        Columns, from fine to coarse. Default: all columns of words but the first, which is taken for the name.

    Returns
    -------
    dict of str to object array, shape (v,)
        In the order of `known`.

    Raises
    ------
    DataError
        Columns or parcels that are missing, parcels that do not exist, and parents of one level that lie in several of
        the next: each named.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"id": [1, 2, 3], "lobe": ["frontal", "frontal", "limbic"]})
    >>> read_hierarchy(table, np.array([1, 2, 3]), ["lobe"])["lobe"].tolist()
    ['frontal', 'frontal', 'limbic']
    """
    table, key, name = read_id_table(source)
    table = table[table[key].map(str).str.strip() != "0"]
    columns = [levels] if isinstance(levels, str) else levels
    words = [c for c in table.columns if c != key and table[c].dtype.kind not in "iufb"]
    chosen = [str(c) for c in (words[1:] if columns is None else columns)]
    absent = [c for c in chosen if c not in table.columns]
    if absent or not chosen:
        raise DataError(
            f"{name}: has no column {', '.join(absent) or 'of parents'}, only {', '.join(table.columns)}",
            "name the columns of the levels, from fine to coarse",
        )
    ids = named_ids(table[key].to_numpy(), f"{name}: ids")
    unknown, missing = np.setdiff1d(ids, known), np.setdiff1d(known, ids)
    if len(unknown) or len(missing):
        said = [f"parcels that do not exist: {', '.join(map(str, unknown))}"] if len(unknown) else []
        said += [f"parcels without a row: {', '.join(map(str, missing))}"] if len(missing) else []
        raise DataError(f"{name}: {'; '.join(said)}", "the hierarchy needs one row for each parcel of the labels")
    order = np.argsort(ids)
    found = {c: table[c].fillna("").astype(str).str.strip().to_numpy(object)[order] for c in chosen}
    for fine, coarse in itertools.pairwise(chosen):
        _check_nested(fine, found[fine], coarse, found[coarse], name)
    return found


def family_graph(ids: NDArray[np.int64], parents: NDArray[Any], weights: NDArray[np.float64]) -> ParcelGraph:
    """Return the graph in which parcels of one parent are neighbours, wherever they lie.

    Examples
    --------
    >>> family_graph(np.array([1, 2, 3]), np.array(["a", "b", "a"], object), np.ones(3)).edges.tolist()
    [[1, 3]]
    """
    edges = [
        pair
        for parent in np.unique(parents.astype(str))
        if parent
        for pair in itertools.combinations(ids[parents.astype(str) == parent].tolist(), 2)
    ]
    return ParcelGraph(ids, edges, weights)


def threshold_levels(
    values: NDArray[np.float64],
    ids: NDArray[np.int64],
    weights: NDArray[np.float64],
    hierarchy: dict[str, NDArray[Any]],
    cutoff: float,
    *,
    cluster_threshold: float = 1,
    two_sided: bool = True,
    device: str | None = None,
) -> list[Level]:
    """Find clusters at every level: parcels that pass, on one side, under one parent.

    Parameters
    ----------
    values, weights : float64 array, shape (v,)
    ids : int64 array, shape (v,)
        Ascending.
    hierarchy : dict of str to object array, shape (v,)
        As `read_hierarchy` returns it.
    cutoff, cluster_threshold, two_sided, device
        As `find_clusters` takes them.

    Returns
    -------
    list of Level
        In the order of the hierarchy.
    """
    if not hierarchy:
        raise UsageError("the hierarchy has no level", "name the columns that hold the parents")
    levels = []
    for name, parents in hierarchy.items():
        graph = family_graph(ids, parents, weights)
        found = find_clusters(
            values, graph, cutoff, cluster_threshold=cluster_threshold, two_sided=two_sided, device=device
        )
        levels.append(Level(name, parents, found, _parent_table(parents, weights, found)))
    return levels


def _parent_table(parents: NDArray[Any], weights: NDArray[np.float64], found: ParcelClusters) -> pd.DataFrame:
    import pandas as pd

    names = [parent for parent in dict.fromkeys(parents.tolist()) if parent]
    rows = []
    for parent in names:
        inside = parents == parent
        row: dict[str, Any] = {"parent": parent, "parcels": int(inside.sum()), "weight": float(weights[inside].sum())}
        for side, sign in (("above", 1), ("below", -1)):
            passing = inside & (found.sign == sign)
            row[side] = int(passing.sum())
            row[f"weight_{side}"] = float(weights[passing].sum())
            row[f"kept_{side}"] = bool(found.kept[passing].any())
        rows.append(row)
    columns = ["parent", "parcels", "weight", "above", "weight_above", "kept_above", "below", "weight_below"]
    return pd.DataFrame(rows, columns=[*columns, "kept_below"])


def _check_nested(fine: str, children: NDArray[Any], coarse: str, parents: NDArray[Any], name: str) -> None:
    above: dict[str, set[str]] = {}
    for child, parent in zip(children.tolist(), parents.tolist(), strict=True):
        if child:
            above.setdefault(child, set()).add(parent)
    torn = [f"{child} ({', '.join(sorted(where))})" for child, where in above.items() if len(where) > 1]
    if torn:
        raise DataError(
            f"{name}: {fine} lies in several of {coarse}: {'; '.join(torn)}", "order the levels from fine to coarse"
        )
