"""Threshold a parcellated map with its neighbours in mind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import get_backend
from gpuroi.domains import ParcelGraph
from gpuroi.domains.domain import on_host
from gpuroi.domains.homotopic import homotopic_pairs
from gpuroi.domains.voxel_geometry import checked_affine, voxel_mm3
from gpuroi.errors import DataError, UsageError
from gpuroi.workflows.parcel_result import ParcelThresholdResult
from gpuroi.workflows.provenance import describe_inputs
from gpuroi.workflows.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from gpuroi.images.read import Image
    from gpuroi.parcels.hierarchy import Level
    from gpuroi.parcels.threshold import ParcelClusters

__all__ = ["threshold_parcels"]


def threshold_parcels(
    values: Any,
    labels: Any,
    *,
    threshold: float | str,
    cluster_threshold: float = 1,
    weights: Any = "parcels",
    two_sided: bool = True,
    connectivity: int = 6,
    graph: Any = None,
    min_contact: int = 1,
    homotopic: Any = None,
    summary: str | None = None,
    ids: Any = None,
    column: str | None = None,
    names: Any = None,
    hierarchy: Any = None,
    levels: Sequence[str] | None = None,
    affine: ArrayLike | None = None,
    device: str = "auto",
) -> ParcelThresholdResult:
    """Find the parcels that stand out together with their neighbours.

    Parcels whose value passes the threshold form clusters with those they touch; a cluster is kept if it is large
    enough in parcels, voxels or mm3.

    Parameters
    ----------
    values : mapping, Series, array, table, path or image
        One value for each parcel: id -> value; a vector with `ids`; a table (.tsv, .csv, DataFrame) with columns of ids
        and values; or an image with one value in all voxels of a parcel. NaN: the parcel has no value.
    labels : path, image or array, shape (X, Y, Z)
        Parcel of each voxel, 0 outside.
    threshold : float or str
        A parcel passes if ``abs(value) > threshold``; or a percentile of the parcels, such as "90%".
    cluster_threshold : float, default 1
        A cluster is kept if its weight is at least this.
    weights : {"parcels", "voxels", "mm3", "graph"}, mapping or array, default "parcels"
        What counts: 1 a parcel, its voxels, its volume, or the weights of `graph`.
    two_sided : bool, default True
        Positive and negative parcels form clusters apart. False: ``value > threshold`` alone, or ``value < threshold``
        if that is negative.
    connectivity : {6, 18, 26}, default 6
        Parcels touch if voxels of theirs do: by faces; and edges; and corners.
    graph : ParcelGraph or path, optional
        Which parcels are neighbours, instead of contact. A path: a table that `gpuroi.parcels.save_graph` has written.
    min_contact : int, default 1
        Voxel pairs that have to touch.
    homotopic : optional
        Edges between the hemispheres: "mirror", pairs of ids, names by id, or "names" (those of `names`).
    summary : {None, "mean"}
        "mean" takes a map of voxels and averages it over each parcel; by default such a map is refused.
    ids : array of int, optional
        Of a vector of values.
    column : str, optional
        Of a table of values.
    names : mapping or path, optional
        Name of each id, as a mapping or a look-up table. None: the table beside a label image that is a file.
    hierarchy : DataFrame or path, optional
        Look-up table whose columns `levels` give the parents of each parcel: parcels of one parent are neighbours,
        wherever they lie, in place of contact. `kept` and `table` are those of the first level, `levels` holds all.
    levels : sequence of str, optional
        Columns of the hierarchy, from fine to coarse. By default all columns of words after the first.
    affine : array, shape (4, 4), optional
        Of labels that are an array: needed for mm3, mirroring, figures and files.
    device : {"auto", "cpu", "cuda", "cuda:N"}

    Returns
    -------
    ParcelThresholdResult
        `.kept` (ids, ascending), `.table`, `.image`, `.graph`; also where nothing is kept.

    Raises
    ------
    DataError
        Ids, values, labels, graph or hierarchy that do not fit: all offenders are named. Labels without a parcel.
    GridError
        An image of values on another grid than the labels.
    UsageError
        An argument outside its range, or arguments that contradict each other.
    DeviceError
        If the device asked for cannot be used.

    Notes
    -----
    No p-value belongs to what is kept. Parcels are large and few, so that random field theory says nothing about them;
    `gpuroi.inference.permutation_test` with `domain=result.graph` does. Counting the voxels of a painted map lets one
    large parcel pass any extent; that is why the default counts parcels.

    Examples
    --------
    >>> labels = np.array([[[1, 1, 1, 1, 2, 3, 0, 9]]])
    >>> result = threshold_parcels({1: 2.9, 2: 3.5, 3: 0.1, 9: 4.0}, labels, threshold=2.5, cluster_threshold=2)
    >>> result.kept, result.table[["id", "value", "cluster", "kept"]].values.tolist()[3], result.image.tolist()
    ([1, 2], [9, 4.0, 2, False], [[[2.9, 2.9, 2.9, 2.9, 3.5, 0.0, 0.0, 0.0]]])
    """
    from gpuroi.parcels.hierarchy import family_graph, read_hierarchy, threshold_levels
    from gpuroi.parcels.threshold import cutoff_of, find_clusters
    from gpuroi.parcels.values import parcel_values

    backend = get_backend(device)
    watch = Stopwatch()
    with watch("read"):
        like, volume, matrix = _read_labels(labels, affine)
        called = _names(names) if names is not None else _names_beside(labels)
    with watch("graph"):
        if hierarchy is not None and (graph is not None or homotopic is not None):
            raise UsageError("a hierarchy stands in for contact", "leave out graph and homotopic")
        if levels is not None and hierarchy is None:
            raise UsageError("levels are columns of a hierarchy", "pass hierarchy, the look-up table")
        if graph is not None and homotopic is not None:
            raise UsageError("a graph has all its edges already", "leave out homotopic, or add them: graph.with_edges")
        on_device = volume if backend.owns(volume) else backend.asarray(volume)
        touching = ParcelGraph.from_labels(on_device, matrix, connectivity=connectivity, min_contact=min_contact)
        if homotopic is not None:
            pairs = _named_sides(called, touching) if isinstance(homotopic, str) and homotopic == "names" else homotopic
            touching = touching.with_edges(homotopic_pairs(touching.ids, pairs, touching.centres_mm))
        if on_device.dtype.kind not in "iu":  # whole numbers, as the graph has found
            on_device, volume = on_device.astype(np.int64), volume.astype(np.int64)
        whose = _weighted(touching, weights, graph, matrix)
    with watch("values"):
        numbers = parcel_values(
            values, whose.ids, ids=ids, column=column, labels=on_device, like=like, summary=summary, device=device
        )
        cutoff = cutoff_of(threshold, numbers, two_sided=two_sided)
    with watch("inputs"):
        sources = (values, labels, graph, names, hierarchy)
        inputs = describe_inputs([source if _is_source(source) else None for source in sources])
    with watch("clusters"):
        rule: dict[str, Any] = {"cluster_threshold": cluster_threshold, "two_sided": two_sided, "device": device}
        found_levels: list[Level] = []
        if hierarchy is None:
            found = find_clusters(numbers, whose, cutoff, **rule)
        else:
            parents = read_hierarchy(hierarchy, whose.ids, levels)
            found_levels = threshold_levels(numbers, whose.ids, whose.weights, parents, cutoff, **rule)
            found = found_levels[0].clusters
            whose = _with_edges_of(whose, family_graph(whose.ids, found_levels[0].parents, whose.weights))
    table = _table(whose, touching, numbers, found, called)
    compared = "|value| >" if two_sided else ("value >" if cutoff >= 0 else "value <")
    settings = {
        "threshold": threshold,
        "cutoff": cutoff,
        "rule": f"{compared} {cutoff:.6g}{f' ({threshold})' if str(threshold).strip().endswith('%') else ''}",
        "cluster_threshold": float(cluster_threshold),
        "weights": whose.unit,
        "two_sided": bool(two_sided),
        "neighbours": "parents" if found_levels else ("given" if graph is not None else "contact"),
        "connectivity": int(connectivity),
        "min_contact": int(min_contact),
        "homotopic": homotopic if homotopic is None or isinstance(homotopic, str) else "given",
        "summary": summary,
        "levels": [level.name for level in found_levels],
    }
    return ParcelThresholdResult(
        kept=whose.ids[found.kept].tolist(),
        table=table,
        graph=whose,
        levels=found_levels,
        settings=settings,
        timings=watch.seconds,
        counts=_counts(whose, touching, numbers, found),
        inputs=inputs,
        device=backend.device,
        labels=on_host(volume),
        affine=matrix,
        like=like,
        source=values,
    )


def _read_labels(labels: Any, affine: ArrayLike | None) -> tuple[Image | None, Any, NDArray[np.float64] | None]:
    """The label image, if it is one, its voxels, and its affine."""
    if hasattr(labels, "dtype") and not hasattr(labels, "affine"):
        return None, labels, checked_affine(affine)
    from gpuroi.images.read import open_image, read_labels

    image = open_image(labels)
    if affine is not None:
        raise UsageError(f"{image.name}: has an affine of its own", "leave affine out")
    volume = read_labels(image)
    if not volume.any():
        raise DataError(f"{image.name}: every voxel is 0: the labels hold no parcel", "give a label image")
    return image, volume, checked_affine(image.affine)


def _names_beside(labels: Any) -> dict[int, str]:
    """Names in the table that lies beside a label image, if one does."""
    from gpuroi.images.atlas_names import find_label_names

    found = find_label_names(labels) if isinstance(labels, str | Path) else None
    return dict(found or {})


def _names(names: Any) -> dict[int, str]:
    """Names by id."""
    from gpuroi.images.atlas_names import read_label_names
    from gpuroi.parcels.values import read_id_table

    if hasattr(names, "items") and not hasattr(names, "columns"):
        return {int(key): str(name) for key, name in names.items()}
    if not hasattr(names, "columns") and Path(names).suffix.lower() not in (".tsv", ".csv"):
        return dict(read_label_names(names))  # of FSL, FreeSurfer and others
    table, key, source = read_id_table(names)
    words = [c for c in table.columns if c != key and table[c].dtype.kind not in "iufb"]
    column = next((c for c in table.columns if str(c).lower() == "name"), words[0] if words else None)
    if column is None:
        raise DataError(f"{source}: has no column of names, only {', '.join(table.columns)}", 'name it "name"')
    return {int(i): str(name) for i, name in zip(table[key], table[column].fillna(""), strict=True)}


def _named_sides(names: dict[int, str], touching: ParcelGraph) -> dict[int, str]:
    """Names of the parcels that occur; a look-up table may have more."""
    if not names:
        raise UsageError('homotopic "names" need names', "pass names (--names), the look-up table of the atlas")
    return {i: name for i, name in names.items() if i in set(touching.ids.tolist())}


def _weighted(touching: ParcelGraph, weights: Any, graph: Any, matrix: NDArray[np.float64] | None) -> ParcelGraph:
    """The graph with the neighbours and the weights that are asked for."""
    volume = None if matrix is None else voxel_mm3(matrix)
    whose = touching
    if graph is not None:
        whose = _given_graph(graph, touching)
    if isinstance(weights, str) and weights == "graph":
        if graph is None:
            raise UsageError('weights "graph" need a graph', "pass graph=ParcelGraph(ids, edges, weights)")
        return whose
    if not isinstance(weights, str):
        return whose.with_weights(weights)
    counted = touching.with_weights(weights, volume)
    whose = whose.with_weights(counted.weights)
    vars(whose)["unit"] = counted.unit
    return whose


def _given_graph(graph: Any, touching: ParcelGraph) -> ParcelGraph:
    """A graph of the user's, over the parcels of the labels."""
    from gpuroi.parcels.graph_files import load_graph

    given: ParcelGraph = graph if isinstance(graph, ParcelGraph) else load_graph(graph)
    unknown, missing = np.setdiff1d(given.ids, touching.ids), np.setdiff1d(touching.ids, given.ids)
    said = [f"ids that are no label: {', '.join(map(str, unknown))}"] if len(unknown) else []
    said += [f"no row for the labels {', '.join(map(str, missing))}"] if len(missing) else []
    if said:
        raise DataError(f"the graph does not fit the labels: {'; '.join(said)}", "make it from the same atlas")
    return given


def _with_edges_of(graph: ParcelGraph, other: ParcelGraph) -> ParcelGraph:
    """The edges of another graph of the same parcels; how they touch is not known of these."""
    made = ParcelGraph(graph.ids, other.edges, graph.weights)
    vars(made).update(voxels=graph.voxels, pieces=graph.pieces, centres_mm=graph.centres_mm, unit=graph.unit)
    return made


def _table(
    graph: ParcelGraph,
    touching: ParcelGraph,
    values: NDArray[np.float64],
    found: ParcelClusters,
    names: dict[int, str],
) -> pd.DataFrame:
    import pandas as pd

    assert touching.voxels is not None
    assert touching.pieces is not None
    columns: dict[str, Any] = {
        "id": graph.ids,
        "value": values,
        "cluster": found.cluster.astype(np.int64),
        "cluster_weight": found.weight,
        "kept": found.kept,
        "sign": found.sign.astype(np.int64),
        "isolated": found.isolated,
        "weight": graph.weights,
        "voxels": touching.voxels,
        "pieces": touching.pieces,
    }
    if touching.centres_mm is not None:
        columns |= {axis: touching.centres_mm[:, k] for k, axis in enumerate("xyz")}
    table = pd.DataFrame(columns)
    if names:
        table.insert(1, "name", [names.get(int(i), f"label {i}") for i in graph.ids])
    return table


def _counts(
    graph: ParcelGraph, touching: ParcelGraph, values: NDArray[np.float64], found: ParcelClusters
) -> dict[str, Any]:
    assert touching.pieces is not None
    kept = found.cluster[found.kept]
    return {
        "parcels": graph.n_elements,
        "parcels_without_value": int(np.isnan(values).sum()),
        "parcels_above": int((found.sign > 0).sum()),
        "parcels_below": int((found.sign < 0).sum()),
        "parcels_kept": int(found.kept.sum()),
        "clusters": int(found.cluster.max(initial=0)),
        "clusters_kept": len(np.unique(kept)),
        "isolated": graph.ids[found.isolated].tolist(),
        "isolated_kept": graph.ids[found.isolated & found.kept].tolist(),
        "in_several_pieces": touching.ids[touching.pieces > 1].tolist(),
        "edges": len(graph.edges),
    }


def _is_source(source: Any) -> bool:
    """Something that `describe_inputs` can name: a file, an image, an array, a table or a mapping."""
    return source is not None and (hasattr(source, "shape") or hasattr(source, "__len__") or isinstance(source, Path))
