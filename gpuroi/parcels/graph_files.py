"""A parcel graph as one table: first its parcels, then its edges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.domains import ParcelGraph
from gpuroi.domains.domain import read_only
from gpuroi.errors import DataError
from gpuroi.images.text_files import MISSING, clipped, listed, read_columns

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["edge_table", "graph_table", "load_graph", "save_graph"]

_NEEDED = ("kind", "id", "neighbour", "weight", "unit")
_KINDS = ("parcel", "contact", "added", "edge")


def save_graph(path: str | os.PathLike[str], graph: ParcelGraph, *, overwrite: bool = False) -> Path:
    """Write a graph as a table (.tsv), whole or not at all.

    Parameters
    ----------
    path : path
    graph : ParcelGraph
    overwrite : bool, default False

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file exists already or cannot be written.

    Notes
    -----
    A row with kind "parcel" has `id`, `weight`, `unit` and, of a graph from labels, `voxels`, `pieces` and the centre
    `x`, `y`, `z` in mm. A row with kind "contact", "added" (no contact) or "edge" (contact not known) is an edge: `id`,
    `neighbour`, `contact`, `contact_mm2`.
    Each edge stands there once, the lower id first. "n/a" is what a row does not have.
    """
    from gpuroi.images.write import write_tsv

    return write_tsv(path, graph_table(graph), overwrite=overwrite)


def load_graph(path: str | os.PathLike[str]) -> ParcelGraph:
    """Read a graph as `save_graph` has written it.

    Parameters
    ----------
    path : path
        Only the columns kind, id, neighbour, weight and unit have to be there.

    Returns
    -------
    ParcelGraph

    Raises
    ------
    DataError
        If the file is missing, lacks columns, or names in an edge an id that has no row of its own.

    Examples
    --------
    >>> import tempfile
    >>> graph = ParcelGraph.from_labels(np.array([[[1, 2, 2, 0, 9]]]), np.eye(4), weights="mm3")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load_graph(save_graph(Path(folder) / "graph.tsv", graph))
    >>> again.edges.tolist(), again.contact.tolist(), again.weights.tolist(), again.unit
    ([[1, 2]], [1], [1.0, 2.0, 1.0], 'mm3')
    """
    import pandas as pd

    name = str(path)
    header, rows = read_columns(Path(path).expanduser(), name=name, separator="\t")
    table = pd.DataFrame([[None if cell in MISSING else cell for cell in cells] for cells in rows], columns=header)
    missing = [column for column in _NEEDED if column not in table.columns]
    if missing:
        raise DataError(f"{name}: has no column {', '.join(missing)}", "give a table that save_graph has written")
    strange = sorted({clipped(str(kind)) for kind in table["kind"]} - set(_KINDS))
    if strange:
        raise DataError(f"{name}: rows of kind {listed(strange)}", f"a row is one of {', '.join(_KINDS)}")
    parcels, edges = table[table["kind"] == "parcel"], table[table["kind"] != "parcel"]
    units = parcels["unit"].unique().tolist()
    if len(units) != 1:
        raise DataError(f"{name}: weights are in {listed(units) or 'nothing'}: expected one unit")
    try:
        return _graph(_numeric(parcels), _numeric(edges), str(units[0]))
    except DataError as error:
        raise DataError(f"{name}: {error.message}", error.hint) from error
    except ValueError as error:
        raise DataError(f"{name}: {error}", "ids, weights and contact are numbers") from error


def edge_table(graph: ParcelGraph) -> pd.DataFrame:
    """Return the edges, one a row: `id`, `neighbour`, `kind`, `contact`, `contact_mm2`.

    Examples
    --------
    >>> edge_table(ParcelGraph([3, 8], [(3, 8)]))[["id", "neighbour", "kind"]].values.tolist()
    [[3, 8, 'edge']]
    """
    import pandas as pd

    n = len(graph.edges)
    kinds = np.full(n, "edge") if graph.contact is None else np.where(graph.contact > 0, "contact", "added")
    return pd.DataFrame(
        {
            "id": graph.edges[:, 0],
            "neighbour": graph.edges[:, 1],
            "kind": kinds.astype(object),
            "contact": pd.array([pd.NA] * n if graph.contact is None else graph.contact, dtype="Int64"),
            "contact_mm2": np.full(n, np.nan) if graph.contact_mm2 is None else graph.contact_mm2,
        }
    )


def graph_table(graph: ParcelGraph) -> pd.DataFrame:
    """Return the table that `save_graph` writes."""
    import pandas as pd

    v, n = graph.n_elements, len(graph.edges)
    edges = edge_table(graph)
    nothing = pd.array([pd.NA] * (v + n), dtype="Int64")
    centres = np.full((v, 3), np.nan) if graph.centres_mm is None else graph.centres_mm
    columns: dict[str, Any] = {
        "kind": np.append(np.full(v, "parcel", object), edges["kind"].to_numpy(object)),
        "id": np.append(graph.ids, edges["id"].to_numpy()),
        "neighbour": _after(v, edges["neighbour"]),
        "contact": _after(v, edges["contact"]),
        "contact_mm2": np.append(np.full(v, np.nan), edges["contact_mm2"]),
        "weight": np.append(graph.weights, np.full(n, np.nan)),
        "unit": np.append(np.full(v, graph.unit, object), np.full(n, None, object)),
        "voxels": nothing if graph.voxels is None else _before(graph.voxels, n),
        "pieces": nothing if graph.pieces is None else _before(graph.pieces, n),
        **{axis: np.append(centres[:, k], np.full(n, np.nan)) for k, axis in enumerate("xyz")},
    }
    return pd.DataFrame(columns)


def _after(v: int, values: pd.Series[Any]) -> Any:
    import pandas as pd

    return pd.array([pd.NA] * v + values.tolist(), dtype="Int64")


def _before(values: NDArray[np.int64], n: int) -> Any:
    import pandas as pd

    return pd.array(values.tolist() + [pd.NA] * n, dtype="Int64")


def _numeric(rows: pd.DataFrame) -> pd.DataFrame:
    """Text as numbers, to the last digit."""
    columns = [column for column in rows.columns if column not in ("kind", "unit")]
    return rows[columns].map(lambda cell: float("nan") if cell is None else float(cell))


def _graph(parcels: pd.DataFrame, edges: pd.DataFrame, unit: str) -> ParcelGraph:
    parcels = parcels.sort_values("id", kind="stable")
    pairs = edges[["id", "neighbour"]].to_numpy(np.float64)
    graph = ParcelGraph(parcels["id"].to_numpy(), pairs, parcels["weight"].to_numpy(np.float64))
    if len(graph.edges) != len(pairs):
        raise DataError("an edge is there more than once", "leave one row for each")
    order = np.lexsort((pairs.max(axis=1), pairs.min(axis=1))) if len(pairs) else np.zeros(0, np.intp)
    vars(graph).update(
        unit=unit,
        contact=_column(edges, ["contact"], np.int64, order),
        contact_mm2=_column(edges, ["contact_mm2"], np.float64, order),
        voxels=_column(parcels, ["voxels"], np.int64),
        pieces=_column(parcels, ["pieces"], np.int64),
        centres_mm=_column(parcels, ["x", "y", "z"], np.float64),
    )
    return graph


def _column(table: pd.DataFrame, names: list[str], dtype: Any, order: NDArray[np.intp] | None = None) -> Any:
    """Columns as an array, one-dimensional if there is one; None where any value is missing."""
    if not set(names) <= set(table.columns) or table[names].isna().to_numpy().any():
        return None
    values = table[names].to_numpy(np.float64)
    if np.dtype(dtype).kind == "i" and not ((np.rint(values) == values) & (np.abs(values) < 2**53)).all():
        raise DataError(f"{', '.join(names)} holds what is no whole number", "give a table that save_graph has written")
    values = values.astype(dtype)
    values = values[:, 0] if len(names) == 1 else values
    return read_only(values if order is None else values[order])
