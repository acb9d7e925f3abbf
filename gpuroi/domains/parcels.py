"""The parcels of an atlas, which touch or do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuroi.backends import Array, Backend, backend_of
from gpuroi.backends.graph import Graph
from gpuroi.domains.contacts import count_contacts, count_pieces, parcel_columns, sizes_and_centres
from gpuroi.domains.domain import edge_graph, on_host, read_only
from gpuroi.domains.homotopic import homotopic_pairs
from gpuroi.domains.voxel_geometry import checked_affine, face_areas_mm2, voxel_mm3
from gpuroi.errors import DataError, UsageError

__all__ = ["ParcelGraph"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ParcelGraph:
    """Parcels of an atlas, known by their label ids, and which of them touch.

    Parameters
    ----------
    ids : sequence of int, shape (v,)
        Labels of the parcels, ascending, 1 or more; gaps are fine. Column i of the data is parcel `ids[i]`.
    edges : array of int, shape (n_edges, 2)
        Pairs of ids that touch, in any order. A pair that is named again, either way round, counts once.
    weights : mapping or array of shape (v,), optional
        What each parcel adds to the size of a cluster. A mapping (or a pandas Series) from id to weight needs one for
        every id; an array goes with `ids`. None: 1 each.

    Attributes
    ----------
    ids : int64 array, shape (v,)
    edges : int64 array, shape (n_edges, 2)
        Each pair once, the lower id first, sorted.
    contact : int64 array, shape (n_edges,), or None
        Pairs of voxels that touch, where the graph was made from labels; 0 for an edge that was added.
    contact_mm2 : float64 array, shape (n_edges,), or None
        Area of the voxel faces that the two share, where it was made from labels with an affine.
    voxels, pieces : int64 array, shape (v,), or None
        Size of each parcel, and of how many connected pieces it consists, where it was made from labels.
    centres_mm : float64 array, shape (v, 3), or None
        Mean place of each parcel's voxels, where it was made from labels with an affine.
    unit : str
        What the weights count: "parcels", "voxels", "mm3", or "weights" if they were given.
    n_elements : int

    Raises
    ------
    DataError
        Ids that are no integers, 0 or less, twice there or not ascending; edges with unknown ids or from a parcel to
        itself; weights missing, unknown, negative or not finite. The ids are named.

    Notes
    -----
    Ids that do not ascend are refused, not sorted: whoever passes them in the order of their data would get the
    neighbours of other parcels. Nothing can be changed afterwards; `with_edges` and `with_weights` make new graphs.

    Examples
    --------
    >>> atlas = ParcelGraph([3, 20, 400], [(400, 20), (20, 400)], weights={3: 1, 20: 2.5, 400: 7})
    >>> atlas.edges.tolist(), atlas.index([400, 3]).tolist(), atlas.weights.tolist()
    ([[20, 400]], [2, 0], [1.0, 2.5, 7.0])
    """

    ids: NDArray[np.int64]
    edges: NDArray[np.int64]
    weights: NDArray[np.float64]
    contact: NDArray[np.int64] | None
    contact_mm2: NDArray[np.float64] | None
    voxels: NDArray[np.int64] | None
    pieces: NDArray[np.int64] | None
    centres_mm: NDArray[np.float64] | None
    unit: str
    n_elements: int

    def __init__(self, ids: ArrayLike, edges: ArrayLike, weights: Any = None) -> None:
        known = _checked_ids(ids)
        vars(self).update(
            ids=known,
            edges=_checked_edges(edges, known),
            weights=_checked_weights(weights, known),
            contact=None,
            contact_mm2=None,
            voxels=None,
            pieces=None,
            centres_mm=None,
            unit="parcels" if weights is None else "weights",
            n_elements=len(known),
        )

    @classmethod
    def from_labels(
        cls,
        labels: Any,
        affine: ArrayLike | None = None,
        *,
        connectivity: int = 6,
        min_contact: int = 1,
        weights: str = "parcels",
        homotopic: Any = None,
    ) -> ParcelGraph:
        """Find the parcels of a label volume and which of them touch.

        Parameters
        ----------
        labels : array, shape (X, Y, Z)
            Parcel of each voxel, whole numbers of any type; 0 is background. A parcel may lie in several pieces: it
            touches what any of them touches. NumPy, or CuPy: counted where it lies.
        affine : array, shape (4, 4), optional
            Voxel indices to mm. Needed for `contact_mm2`, `centres_mm`, weights in mm3 and mirroring.
        connectivity : {6, 18, 26}, default 6
            Voxels touch by a face; or an edge; or a corner.
        min_contact : int, default 1
            Parcels are neighbours if at least so many pairs of their voxels touch.
        weights : {"parcels", "voxels", "mm3"}, default "parcels"
            What the size of a cluster counts: 1 a parcel, its voxels, or its volume.
        homotopic : optional
            Edges between the hemispheres: pairs of ids; a mapping or Series from id to name, in which left and right
            are told by LH and RH (or L, R, left, right); or "mirror": parcels whose centres fall on each other when
            x changes its sign (see `homotopic_pairs`).

        Returns
        -------
        ParcelGraph
            `ids` are the labels that occur, ascending.

        Raises
        ------
        UsageError
            Any other connectivity or weights; mm3 or mirroring without an affine; a minimum below 1.
        DataError
            Labels that are not three-dimensional, hold fractions, NaN or negative numbers, or no parcel at all.
            Homotopic pairs that name unknown ids, or that cannot be told.

        Examples
        --------
        >>> atlas = ParcelGraph.from_labels(np.array([[[7, 7, 300, 0, 9]]]), np.diag([2, 2, 3, 1]), weights="mm3")
        >>> atlas.ids.tolist(), atlas.edges.tolist(), atlas.contact_mm2.tolist(), atlas.weights.tolist()
        ([7, 9, 300], [[7, 300]], [4.0], [24.0, 12.0, 12.0])
        """
        if not (isinstance(min_contact, int | np.integer) and min_contact >= 1):
            raise UsageError(f"min_contact is {min_contact!r}", "use a number of touching voxels, 1 or more")
        matrix = checked_affine(affine)
        backend = backend_of(labels)
        with backend.activate():
            volume = _checked_labels(backend, labels)
            ids, columns = parcel_columns(backend, volume)
            if not len(ids):
                raise DataError(
                    f"labels of shape {tuple(volume.shape)} hold no parcel", "0 is background, parcels are 1 or more"
                )
            pairs, faces, contact = count_contacts(backend, columns, len(ids), connectivity)
            pieces = count_pieces(columns, pairs, len(ids), connectivity, backend)
            voxels, centres = sizes_and_centres(backend, columns, len(ids))
        enough = contact >= min_contact
        atlas = cls(ids, ids[pairs[enough]])
        vars(atlas).update(
            contact=read_only(contact[enough]),
            contact_mm2=None if matrix is None else read_only(faces[enough] @ face_areas_mm2(matrix)),
            voxels=read_only(voxels),
            pieces=read_only(pieces),
            centres_mm=None if matrix is None else read_only(centres @ matrix[:3, :3].T + matrix[:3, 3]),
        )
        atlas = atlas.with_weights(weights, None if matrix is None else voxel_mm3(matrix))
        if homotopic is None:
            return atlas
        return atlas.with_edges(homotopic_pairs(atlas.ids, homotopic, atlas.centres_mm))

    def with_edges(self, edges: ArrayLike) -> ParcelGraph:
        """Return a graph with further edges, of contact 0; a pair that touches already stays as it is.

        Examples
        --------
        >>> atlas = ParcelGraph.from_labels(np.array([[[1, 2, 0, 8]]])).with_edges([(8, 1), (2, 1)])
        >>> atlas.edges.tolist(), atlas.contact.tolist()
        ([[1, 2], [1, 8]], [1, 0])
        """
        further = _checked_edges(edges, self.ids)
        every = _checked_edges(np.concatenate([self.edges, further]), self.ids)
        v = self.n_elements
        old, new = (np.searchsorted(self.ids, pairs) @ np.array([v, 1]) for pairs in (self.edges, every))
        place = np.searchsorted(new, old)
        return self._changed(
            edges=every,
            contact=_spread(self.contact, place, len(every)),
            contact_mm2=_spread(self.contact_mm2, place, len(every)),
        )

    def with_weights(self, weights: Any, voxel_volume_mm3: float | None = None) -> ParcelGraph:
        """Return a graph with other weights.

        Parameters
        ----------
        weights : {"parcels", "voxels", "mm3"}, mapping or array of shape (v,)
            1 each; the parcels' voxels; their volume; or any, as the constructor takes them.
        voxel_volume_mm3 : float, optional
            Needed for "mm3".

        Raises
        ------
        UsageError
            Other words; voxels of a graph that was not made from labels; mm3 without the volume of a voxel.
        DataError
            As the constructor.

        Examples
        --------
        >>> ParcelGraph.from_labels(np.array([[[1, 1, 2]]])).with_weights("mm3", 8.0).weights
        array([16.,  8.])
        """
        if not isinstance(weights, str):
            return self._changed(weights=_checked_weights(weights, self.ids), unit="weights")
        if weights not in ("parcels", "voxels", "mm3"):
            raise UsageError(f"weights is {weights!r}", 'use "parcels", "voxels" or "mm3"')
        if weights == "mm3" and voxel_volume_mm3 is None:
            raise UsageError('weights "mm3" need the affine', "pass affine=img.affine")
        if weights == "parcels":
            return self._changed(weights=read_only(np.ones(self.n_elements)), unit=weights)
        if self.voxels is None:
            raise UsageError(
                f'weights "{weights}" need the label volume',
                "use ParcelGraph.from_labels, or give them",
            )
        each = 1.0 if weights == "voxels" else float(voxel_volume_mm3 or 0.0)
        return self._changed(weights=read_only(self.voxels * each), unit=weights)

    @property
    def name(self) -> str:
        """What it is, for messages."""
        return f"parcel graph of ids {self.ids[0]} to {self.ids[-1]}"

    @cached_property
    def graph(self) -> Graph:
        """Neighbours and weights; built when first asked for, then kept."""
        low, high = np.searchsorted(self.ids, self.edges).T
        return edge_graph(low.astype(np.int64), high.astype(np.int64), self.weights)

    @property
    def indptr(self) -> NDArray[np.int64]:
        """Where the neighbours of each parcel begin in `indices`; int64, shape (v + 1,)."""
        return self.graph.indptr

    @property
    def indices(self) -> NDArray[np.int32]:
        """Neighbours as columns (not ids), ascending in each row; int32."""
        return self.graph.indices

    def index(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the columns of parcels.

        Parameters
        ----------
        ids : array of int, any shape

        Returns
        -------
        int64 array, shape of `ids`

        Raises
        ------
        DataError
            Naming the ids that are no parcel of this graph.
        """
        return _columns(_integers(on_host(ids), "ids"), self.ids, "ids")

    def _changed(self, **fields: Any) -> ParcelGraph:
        """Return a copy with some fields replaced, by values that are checked already."""
        copy = object.__new__(type(self))
        vars(copy).update({**{name: value for name, value in vars(self).items() if name != "graph"}, **fields})
        return copy

    def describe(self) -> dict[str, Any]:
        """Return what a reader of the results has to know, in types that JSON has."""
        return {
            "domain": "parcels",
            "n_elements": self.n_elements,
            "first_id": int(self.ids[0]),
            "last_id": int(self.ids[-1]),
            "n_edges": len(self.edges),
            "weights": self.unit,
        }

    def __repr__(self) -> str:
        return f"ParcelGraph({self.n_elements} parcels, {len(self.edges)} edges)"


def _spread(values: NDArray[Any] | None, place: NDArray[np.int64], n: int) -> NDArray[Any] | None:
    """Put the values of old edges to their places among n edges, 0 elsewhere."""
    if values is None:
        return None
    spread = np.zeros(n, values.dtype)
    spread[place] = values
    return read_only(spread)


def _checked_labels(backend: Backend, labels: Any) -> Array:
    """Return the label volume as integers, where it lies."""
    volume = labels if backend.owns(labels) else backend.xp.asarray(labels)
    if volume.ndim != 3:
        raise DataError(
            f"labels have shape {tuple(volume.shape)}: expected (X, Y, Z)", "pass one volume, as in labels[..., 0]"
        )
    volume = _integers(volume, "labels")
    if volume.size and int(volume.min()) < 0:  # sync: reads one number
        raise DataError(f"labels hold the negative number {volume.min()}", "number parcels from 1; 0 is background")
    return volume


def _integers(values: Any, name: str) -> Any:
    """Return whole numbers as an integer array of their own width; floats must be whole, as image readers give them."""
    backend = backend_of(values)
    xp = backend.xp
    given = xp.asarray(values)
    if given.size == 0:
        return given.astype(np.int64)
    if given.dtype.kind == "b":
        return given.astype(np.uint8)
    if given.dtype.kind == "f":
        broken = ~(xp.isfinite(given) & (given == xp.trunc(given)) & (xp.abs(given) < 2.0**53))
        if bool(broken.any()):  # sync: reads one bool
            raise DataError(f"{name} hold {given[broken].reshape(-1)[0]}: expected whole numbers")
        return given.astype(np.int64)
    if given.dtype.kind not in "iu":
        raise DataError(f"{name} have dtype {given.dtype}: expected whole numbers")
    if given.dtype.itemsize < 8 or given.dtype.kind == "i":
        return given
    if int(given.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{name} hold {given.max()}: expected numbers below 2**63")
    return given.astype(np.int64)  # NumPy compares uint64 with int64 as floats, which join ids above 2**53


def _checked_ids(ids: ArrayLike) -> NDArray[np.int64]:
    known = _integers(on_host(ids), "ids").astype(np.int64)
    if known.ndim != 1 or not known.size:
        raise DataError(f"ids have shape {known.shape}: expected (v,), one or more")
    if known.min() < 1:
        raise DataError(f"ids hold {_named(known[known < 1])}: parcels are 1 or more", "0 is background")
    unique, counts = np.unique(known, return_counts=True)
    if len(unique) < len(known):
        raise DataError(f"ids are there more than once: {_named(unique[counts > 1])}")
    if not np.array_equal(unique, known):
        raise DataError(
            f"ids do not ascend: {known[np.argmax(np.diff(known) < 0)]} comes before a lower one",
            "they are the columns of the data: sort both, order = numpy.argsort(ids), data[:, order]",
        )
    return read_only(known)


def _checked_edges(edges: ArrayLike, known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each edge once, the lower id first, sorted."""
    given = _integers(on_host(edges), "edges").astype(np.int64)
    if not given.size:
        return read_only(np.empty((0, 2), np.int64))
    if given.ndim != 2 or given.shape[1] != 2:
        raise DataError(f"edges have shape {given.shape}: expected (n_edges, 2), pairs of ids")
    column = _columns(given, known, "edges")
    itself = given[:, 0] == given[:, 1]
    if itself.any():
        raise DataError(f"edges lead from a parcel to itself: {_named(np.unique(given[itself, 0]))}", "leave them out")
    pair = np.unique(column.min(axis=1) * len(known) + column.max(axis=1))
    return read_only(known[np.stack([pair // len(known), pair % len(known)], axis=1)])


def _checked_weights(weights: Any, known: NDArray[np.int64]) -> NDArray[np.float64]:
    if weights is None:
        return read_only(np.ones(len(known)))
    keyed = isinstance(weights, Mapping) or hasattr(weights, "items")  # a pandas Series is keyed, and no Mapping
    values = _by_id(weights, known) if keyed else np.array(on_host(weights), dtype=np.float64)
    if values.shape != known.shape:
        raise DataError(f"weights have shape {values.shape}, but there are {len(known)} ids")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise DataError(f"weights of parcels {_named(known[bad])} are negative or not finite", "use 0 or more")
    return read_only(values)


def _by_id(weights: Any, known: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the values of a mapping in the order of the ids."""
    keys = _integers([key for key, _ in weights.items()], "keys of weights")
    values = np.array([value for _, value in weights.items()], dtype=np.float64)
    column = _columns(keys, known, "weights")
    count = np.bincount(column, minlength=len(known))
    if not np.all(count == 1):
        what = "are missing" if np.any(count == 0) else "are there more than once"
        raise DataError(f"weights of parcels {_named(known[count != 1])} {what}")
    ordered = np.empty(len(known))
    ordered[column] = values
    return ordered


def _columns(ids: NDArray[Any], known: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """Return where each id stands among the known ones."""
    column = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    unknown = known[column] != ids
    if unknown.any():
        raise DataError(
            f"{name} name parcels that do not exist: {_named(np.unique(ids[unknown]))}",
            f"there are {len(known)} ids, {known[0]} to {known[-1]}",
        )
    return column.astype(np.int64)


def _named(ids: NDArray[Any]) -> str:
    """List the first ten."""
    more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
    return ", ".join(str(i) for i in ids[:10].tolist()) + more
