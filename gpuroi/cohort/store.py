"""Maps of a cohort packed into one zarr store: opened, checked, and read by rows and by columns."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.cohort.maps import CohortMaps, bytes_allowed, kept_grid
from gpuroi.cohort.missing import MissingData, MissingRule, apply_missing
from gpuroi.cohort.store_layout import (
    CHUNK_COLUMNS,
    CHUNK_ROWS,
    ShardedMatrix,
    damaged,
    need_zarr,
    shard_columns,
)
from gpuroi.domains import VoxelGrid
from gpuroi.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.inference.columns import ColumnSource

__all__ = ["FORMAT", "MapStore", "attributes_checksum", "maps_from_store", "open_store"]

FORMAT = 1
_FIELDS = (
    "format",
    "gpuroi_version",
    "participant_id",
    "source",
    "sha256",
    "missing_values",
    "affine",
    "mask_sha256",
    "smoothing_fwhm_mm",
    "dtype",
    "asked_dtype",
)


class MapStore:
    """A packed cohort: a `ColumnSource` with rows, ids and a mask.

    Made by `open_store`, `pack_maps` and `append_maps`.

    Attributes
    ----------
    path : Path
    ids : list of str
        Participants, in the order of the rows.
    sources, sha256 : list of str
        The file that each row is from, and the SHA-256 of its bytes (of a pair: of both files, as named first).
    missing_per_map : list of int
        NaN and infinite values of each map.
    shape : (int, int)
        Participants and voxels.
    dtype : dtype
    mask : VoxelGrid
        The voxels, in the order of the columns.
    affine : float64 array, shape (4, 4)
    smoothing_fwhm_mm : float or None
        Of the smoothing before the maps were packed.
    gpuroi_version : str
        That packed it first.
    attributes : dict
        All of this as it is written.
    """

    def __init__(self, path: Path, attributes: dict[str, Any], mask: VoxelGrid) -> None:
        self.path, self.attributes, self.mask = path, attributes, mask
        self.ids: list[str] = list(attributes["participant_id"])
        self.sources: list[str] = list(attributes["source"])
        self.sha256: list[str] = list(attributes["sha256"])
        self.missing_per_map: list[int] = list(attributes["missing_values"])
        self.affine = np.asarray(mask.affine)
        self.shape = (len(self.ids), mask.n_elements)
        self.dtype = np.dtype(attributes["dtype"])
        self.smoothing_fwhm_mm: float | None = attributes["smoothing_fwhm_mm"]
        self.gpuroi_version: str = attributes["gpuroi_version"]
        self._matrix = ShardedMatrix(path / "maps", self.shape, self.dtype, name=str(path))

    def __repr__(self) -> str:
        return f"MapStore({str(self.path)!r}, {self.shape[0]} maps of {self.shape[1]} voxels, {self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as a path, and as the checksum of what must be there."""
        return _reopened, (str(self.path.resolve()), self.attributes["checksum"])

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        """Return voxels start..stop of all participants, (n, stop - start).

        Threads may read at the same time. Fastest over whole chunks of 512 voxels; narrower blocks, in their order,
        are as good.

        Raises
        ------
        DataError
            If what is read is damaged, naming the store.
        """
        return self._matrix.columns(start, stop)

    def rows(self, start: int, stop: int, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return participants start..stop, (stop - start, v), in `out` if given. Fastest by whole bands of 128."""
        return self._matrix.rows(start, stop, out=out)

    def verify(self) -> None:
        """Read and check every chunk.

        Raises
        ------
        DataError
            For the first that is damaged.
        """
        for start in range(0, self.shape[0], CHUNK_ROWS):
            self._matrix.rows(start, min(self.shape[0], start + CHUNK_ROWS))

    def bytes_on_disk(self) -> int:
        """Return the size of the maps as they are packed."""
        return sum(file.stat().st_size for file in self._matrix.shard_files())

    def check_files(self) -> None:
        """Raise `DataError` unless every shard is there."""
        missing = [file for file in self._matrix.shard_files() if not file.is_file()]
        if missing:
            listed = ", ".join(file.relative_to(self.path).as_posix() for file in missing[:5])
            raise damaged(str(self.path), f"{len(missing)} shards are not there: {listed}")


def open_store(path: str | os.PathLike[str]) -> MapStore:
    """Open a packed store and check that it is whole as far as can be seen without reading its maps.

    Parameters
    ----------
    path : path
        As `pack_maps` made it.

    Returns
    -------
    MapStore

    Raises
    ------
    DataError
        If there is no store, or one that is not ours, was changed, or lacks a shard.
    UsageError
        If zarr is not installed.

    Notes
    -----
    The list of participants, their hashes, affine and mask have a checksum of their own; chunks of maps are checked as
    they are read.
    """
    need_zarr()
    import zarr

    given = Path(path).expanduser()
    name = str(path)
    if not (given / "zarr.json").is_file():
        raise DataError(f"{name}: no packed store", "make one with gpuroi pack, or check the path")
    try:
        group = zarr.open_group(given, mode="r")
        attributes: dict[str, Any] = dict(group.attrs.asdict())
        array: Any = group["maps"]
        layout = (array.shape, np.dtype(array.dtype), array.chunks, array.shards)
        mask = np.asarray(group["mask"])  # its chunks have checksums
    except Exception as error:  # every broken field raises something else in zarr
        raise damaged(name, f"cannot be read as a store of maps: {' '.join(str(error).split())}") from error
    _check_attributes(attributes, name)
    if attributes["mask_sha256"] != hashlib.sha256(np.ascontiguousarray(mask != 0).tobytes()).hexdigest():
        raise damaged(name, "the mask is not the one that the maps were packed with")
    try:
        store = MapStore(given.resolve(), attributes, VoxelGrid(mask, attributes["affine"]))
    except (TypeError, ValueError) as error:
        raise damaged(name, f"its affine or type of maps is none: {' '.join(str(error).split())}") from error
    n, v = store.shape
    expected = (store.dtype, (CHUNK_ROWS, CHUNK_COLUMNS), (CHUNK_ROWS, shard_columns(v)))
    if layout[1:] != expected or layout[0][1] != v or layout[0][0] < n:
        raise damaged(name, f"maps of {layout} do not fit {n} participants and {v} voxels in {expected}")
    store.check_files()
    return store


def maps_from_store(
    store: MapStore,
    ids: Sequence[str] | None = None,
    *,
    missing_data: MissingRule = "drop-voxel",
    min_coverage: float = 0.9,
    zero_is_missing: bool = False,
    memory_limit: int | str | None = None,
) -> CohortMaps:
    """Return the maps of some participants, in their order, with missing values handled as `read_maps` does.

    Parameters
    ----------
    store : MapStore
    ids : sequence of str, optional
        Participants; default all, in the order of the store.
    missing_data, min_coverage, zero_is_missing
        As in `read_maps`.
    memory_limit : int or str, optional
        If the matrix takes more, `data` stays on disk and gives its columns; default 80 % of the memory that is free.

    Returns
    -------
    CohortMaps

    Raises
    ------
    DataError
        If the store lacks a participant, naming all; if it is damaged; if no voxel is left.
    """
    how = MissingData(missing_data, min_coverage, zero_is_missing)
    wanted = store.ids if ids is None else [str(i) for i in ids]
    rows = _rows_of(store, wanted)
    source: ColumnSource = store if rows is None else _SomeRows(store, rows)
    data: Any = source
    n, v = source.shape
    if 1.1 * n * v * how.dtype(store.dtype).itemsize <= bytes_allowed(memory_limit):
        data = _loaded(source, how.dtype(store.dtype))
    data, coverage = apply_missing(data, how)
    return CohortMaps(
        ids=list(wanted), mask=kept_grid(store.mask, coverage), data=data, affine=store.affine, coverage=coverage
    )


def attributes_checksum(attributes: dict[str, Any]) -> str:
    """Return the SHA-256 of the attributes without their `checksum`."""
    plain = {key: value for key, value in attributes.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _reopened(path: str, checksum: str) -> MapStore:
    store = open_store(path)
    if store.attributes["checksum"] != checksum:
        raise DataError(f"{path}: has changed since the run began", "start again")
    return store


class _SomeRows:
    """Some rows of a source, in any order: a `ColumnSource`."""

    def __init__(self, source: MapStore, rows: NDArray[np.int64]) -> None:
        self._source, self._rows = source, rows
        self.shape, self.dtype = (len(rows), source.shape[1]), source.dtype

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        return self._source.columns(start, stop)[self._rows]


def _rows_of(store: MapStore, ids: list[str]) -> NDArray[np.int64] | None:
    """Return the row of each id; None for all rows in their order."""
    if ids == store.ids:
        return None
    place = {name: row for row, name in enumerate(store.ids)}
    lacking = [name for name in ids if name not in place]
    if lacking:
        more = f" and {len(lacking) - 20} more" if len(lacking) > 20 else ""
        raise DataError(
            f"{store.path}: {len(lacking)} of {len(ids)} participants are not in the store: "
            f"{', '.join(lacking[:20])}{more}",
            "add them with gpuroi pack --append, or leave them out of the table",
        )
    if len(set(ids)) < len(ids):
        raise DataError("a participant is asked for twice", "give each id once")
    if not ids:
        raise DataError("no participant is asked for", "give one id or more")
    return np.array([place[name] for name in ids], dtype=np.int64)


def _loaded(source: ColumnSource, dtype: np.dtype[Any]) -> NDArray[Any]:
    out = np.empty(source.shape, dtype)
    width = 16 * CHUNK_COLUMNS
    for start in range(0, source.shape[1], width):
        stop = min(source.shape[1], start + width)
        out[:, start:stop] = source.columns(start, stop)
    return out


def _check_attributes(attributes: dict[str, Any], name: str) -> None:
    if "gpuroi_version" not in attributes or "format" not in attributes:
        raise DataError(f"{name}: a zarr group, but not one of gpuroi", "make a store with gpuroi pack")
    if attributes["format"] != FORMAT:
        raise UsageError(
            f"{name}: a store of format {attributes['format']}; this gpuroi reads {FORMAT}",
            f"it was written by gpuroi {attributes['gpuroi_version']}: install that version, or pack the maps again",
        )
    if any(key not in attributes for key in _FIELDS) or attributes.get("checksum") != attributes_checksum(attributes):
        raise damaged(name, "its list of participants was changed: the checksum does not match")
    kinds = {"participant_id": str, "source": str, "sha256": str, "missing_values": int}
    lists = {key: attributes[key] for key in kinds}
    sound = all(isinstance(one, list) and all(isinstance(x, kinds[key]) for x in one) for key, one in lists.items())
    if (
        not sound
        or len({len(one) for one in lists.values()}) > 1
        or len(set(lists["participant_id"])) < len(lists["participant_id"])
    ):
        raise damaged(name, "its lists of participants, files and hashes do not fit each other")
