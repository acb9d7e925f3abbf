"""One value for each parcel, keyed by its id: from a mapping, a vector with ids, a table or an image; and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends import Array, Backend, backend_of, get_backend
from gpuroi.domains.domain import on_host
from gpuroi.errors import DataError, UsageError
from gpuroi.images.text_files import MISSING, clipped, listed, read_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuroi.images.read import Image

__all__ = ["has_single_precision", "named_ids", "paint", "parcel_values", "read_id_table"]

_TABLES = {".tsv": "\t", ".csv": ",", ".txt": None}
_ID_COLUMNS = ("id", "index", "label", "parcel", "roi", "region")
_VALUE_COLUMNS = ("value", "t", "z", "stat", "statistic")


def parcel_values(
    values: Any,
    known: NDArray[np.int64],
    *,
    ids: Any = None,
    column: str | None = None,
    labels: Any = None,
    like: Image | None = None,
    summary: str | None = None,
    device: str = "auto",
) -> NDArray[np.float64]:
    """Return the value of each parcel, in the order of its id.

    Parameters
    ----------
    values : mapping, Series, DataFrame, array, path or image
        Id -> value. Or a vector, whose `ids` are given. Or a table (.tsv, .csv, .txt; DataFrame) with a column of ids
        (id, index, label, parcel, roi or region) and one of values. Or an image, path or array (X, Y, Z) on the grid
        of the labels. NumPy or CuPy.
    known : int64 array, shape (v,)
        Ids of the parcels, ascending.
    ids : array of int, shape (v,), optional
        Of a vector, in its order.
    column : str, optional
        Column of a table that holds the values. Default: value, t, z, stat, statistic, or the only other one.
    labels : integer array, shape (X, Y, Z), optional
        Needed for images.
    like : Image, optional
        The label image: an image of values must lie on its grid.
    summary : {None, "mean"}
        None: an image must hold one value in each parcel. "mean": the mean over the parcel's voxels is taken.
    device : str
        Where images are summarised; CuPy arrays stay where they are.

    Returns
    -------
    float64 array, shape (v,)
        NaN where a value is NaN, which is how to say that a parcel has none.

    Raises
    ------
    DataError
        Ids without a parcel, parcels without a value, ids named twice, parcels with several values: each names all.
    GridError
        An image on another grid than the labels.
    UsageError
        A vector without ids, another summary.

    Examples
    --------
    >>> parcel_values({30: 2.5, 4: -1.0}, np.array([4, 30]))
    array([-1. ,  2.5])
    >>> parcel_values(np.array([[[7.0, 7.0, 0.0, 2.0]]]), np.array([1, 9]), labels=np.array([[[1, 1, 0, 9]]]))
    array([7., 2.])
    """
    if summary not in (None, "mean"):
        raise UsageError(f"summary is {summary!r}", 'use "mean", or None if the image holds one value a parcel')
    if _is_image(values):
        return _of_image(values, known, labels, like, summary, device)
    pairs = _pairs(values, ids, column)
    given = named_ids([key for key, _ in pairs], "ids of values")
    return _by_id(given, np.array([_number(value, key) for key, value in pairs], np.float64), known)


def paint(values: NDArray[np.float64], known: NDArray[np.int64], labels: NDArray[Any]) -> NDArray[Any]:
    """Return a volume that holds the value of each parcel in its voxels, 0 elsewhere.

    float32 where that holds every value exactly, else float64. All labels other than 0 are in `known`.

    Examples
    --------
    >>> paint(np.array([0.5, 0.1]), np.array([4, 30]), np.array([[[4, 0, 30]]]))
    array([[[0.5, 0. , 0.1]]])
    """
    table = np.append(0.0, values).astype(np.float32 if has_single_precision(values) else np.float64)
    return np.asarray(table[np.searchsorted(np.append(0, known), labels)])


def has_single_precision(values: NDArray[np.float64]) -> bool:
    """True if float32 holds every value exactly, as it does where they come from a float32 image.

    Examples
    --------
    >>> has_single_precision(np.array([0.5, np.nan])), has_single_precision(np.array([0.1]))
    (True, False)
    """
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return bool(np.all((narrow == values) | np.isnan(values)))


def read_id_table(source: Any) -> tuple[Any, str, str]:
    """Return a table with a column of ids: the data frame, the name of that column, and what to call it in messages.

    Parameters
    ----------
    source : DataFrame or path
        .tsv, .csv or .txt with a header. "n/a" and empty cells are missing.

    Raises
    ------
    DataError
        If it cannot be read, or has no column of ids.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        table, name = source, "the table"
    else:
        path = Path(source).expanduser()
        name = str(source)
        if path.suffix.lower() not in _TABLES:
            raise DataError(f"{name}: is no table", f"name it {', '.join(_TABLES)}")
        header, rows = read_columns(path, name=name, separator=_TABLES[path.suffix.lower()])
        table = pd.DataFrame([[_value(cell) for cell in cells] for cells in rows], columns=header)
    columns = {str(column).lower(): str(column) for column in table.columns}
    for wanted in _ID_COLUMNS:
        if wanted in columns:
            return table.rename(columns=str), columns[wanted], name
    raise DataError(
        f"{name}: has no column of ids, only {listed(table.columns)}",
        f"name it one of {', '.join(_ID_COLUMNS)}",
    )


def named_ids(ids: Any, name: str) -> NDArray[np.int64]:
    """Return ids as int64; whole floats and digits are ids too. DataError names what is not, and what is there twice.

    Examples
    --------
    >>> named_ids(["3", 20.0], "ids")
    array([ 3, 20])
    """
    try:
        numbers = np.array([_whole(i) for i in np.asarray(on_host(ids)).reshape(-1).tolist()], np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{name} hold {error}: expected whole numbers", "key values by the label of the parcel"
        ) from None
    unique, counts = np.unique(numbers, return_counts=True)
    if len(unique) < len(numbers):
        raise DataError(f"{name} are there more than once: {_listed(unique[counts > 1])}", "leave one value for each")
    return numbers


def _whole(value: Any) -> int:
    try:
        if isinstance(value, int):
            return int(value)
        number = float(value)
        if number == int(number):
            return int(value) if isinstance(value, str) and value.strip().isdecimal() else int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(clipped(repr(value)))


def _value(cell: str) -> Any:
    """Return a cell as Python reads it, a number or text: pandas' own numbers may be off in the last digit."""
    if cell in MISSING:
        return float("nan")
    try:
        return int(cell) if cell.isdecimal() else float(cell)
    except ValueError:
        return cell


def _number(value: Any, key: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"the value of parcel {key} is {value!r}: expected a number", "NaN says there is none"
        ) from None


def _is_image(values: Any) -> bool:
    if isinstance(values, str | os.PathLike):
        return Path(values).suffix.lower() not in _TABLES
    if isinstance(values, Mapping) or hasattr(values, "items"):
        return False
    return (hasattr(values, "affine") and hasattr(values, "shape")) or getattr(values, "ndim", 0) >= 3


def _pairs(values: Any, ids: Any, column: str | None) -> list[tuple[Any, Any]]:
    """Ids and values as they were given."""
    if isinstance(values, str | os.PathLike) or hasattr(values, "columns"):
        table, key, name = read_id_table(values)
        if table[key].isna().any():
            raise DataError(f"{name}: {int(table[key].isna().sum())} rows have no {key}", "give each row its label")
        return list(zip(table[key].tolist(), table[_value_column(table, key, column, name)].tolist(), strict=True))
    if isinstance(values, Mapping) or hasattr(values, "items"):
        if ids is not None:
            raise UsageError("values have ids of their own", "leave ids out")
        return list(values.items())
    vector = np.asarray(on_host(values))
    if vector.ndim != 1:
        raise UsageError(
            f"values have shape {vector.shape}", "give id -> value, a vector with ids, a table or an image"
        )
    if ids is None:
        raise UsageError(
            f"a vector of {len(vector)} values does not say whose they are",
            "pass ids, or a mapping from id to value: values are never matched by their position",
        )
    numbers = np.asarray(on_host(ids)).reshape(-1)
    if len(numbers) != len(vector):
        raise DataError(f"{len(vector)} values but {len(numbers)} ids", "give one id for each value")
    return list(zip(numbers.tolist(), vector.tolist(), strict=True))


def _value_column(table: Any, key: str, column: str | None, name: str) -> str:
    if column is not None:
        if column in table.columns:
            return column
        raise DataError(f"{name}: has no column {column}, only {', '.join(table.columns)}", "choose one of these")
    names = {str(c).lower(): str(c) for c in table.columns if c != key}
    for wanted in _VALUE_COLUMNS:
        if wanted in names:
            return names[wanted]
    numeric = [c for c in table.columns if c != key and table[c].dtype.kind in "iuf"]
    if len(numeric) == 1:
        return str(numeric[0])
    raise DataError(
        f"{name}: which column holds the values? It has {', '.join(table.columns)}", 'name it "value", or say its name'
    )


def _by_id(given: NDArray[np.int64], values: NDArray[np.float64], known: NDArray[np.int64]) -> NDArray[np.float64]:
    unknown, missing = np.setdiff1d(given, known), np.setdiff1d(known, given)
    said = []
    if len(unknown):
        said.append(f"values name parcels that do not exist: {_listed(unknown)}")
    if len(missing):
        said.append(f"parcels without a value: {_listed(missing)}")
    if said:
        raise DataError(
            "; ".join(said),
            f"the labels hold {len(known)} parcels, {known[0]} to {known[-1]}; a parcel without a value has NaN",
        )
    return values[np.argsort(given)]


def _of_image(
    values: Any, known: NDArray[np.int64], labels: Any, like: Image | None, summary: str | None, device: str
) -> NDArray[np.float64]:
    """One value of each parcel of an image."""
    if labels is None:
        raise UsageError("an image of values needs the labels of its voxels", "pass the label image")
    volume, name = _volume(values, like)
    backend = backend_of(volume)
    if backend.name == "cpu":
        backend = get_backend(device)
    with backend.activate():
        on_device = volume if backend.owns(volume) else backend.asarray(np.asarray(volume))
        regions = labels if backend.owns(labels) else backend.asarray(on_host(labels))
        if tuple(on_device.shape) != tuple(regions.shape):
            raise DataError(
                f"{name} has shape {tuple(on_device.shape)}, the labels {tuple(regions.shape)}: expected one grid",
                "bring the labels onto the grid of the map",
            )
        if summary == "mean":
            from gpuroi.ops import label_means

            return np.asarray(backend.to_numpy(label_means(on_device, regions, known)), np.float64)
        return _painted(backend, on_device, regions, known, name)


def _volume(values: Any, like: Image | None) -> tuple[Any, str]:
    """The voxels of an image, on the grid of `like`, and its name."""
    if not (isinstance(values, str | os.PathLike) or hasattr(values, "affine")):
        return values, "the image of values"
    from gpuroi.images.grid import check_same_grid
    from gpuroi.images.read import open_image

    image = open_image(values)
    if like is not None:
        check_same_grid([image], reference=like)
    return image.read_one(dtype=np.float32 if image.stored_dtype == np.float32 else np.float64), image.name


def _painted(
    backend: Backend, volume: Array, labels: Array, known: NDArray[np.int64], name: str
) -> NDArray[np.float64]:
    """The value that all voxels of a parcel share; DataError names every parcel where they do not."""
    xp = backend.xp
    flat, regions = volume.reshape(-1), labels.reshape(-1)
    where = xp.flatnonzero(regions)
    column = xp.searchsorted(backend.asarray(known), regions[where].astype(np.int64))
    found = flat[where].astype(np.float64)
    first = xp.zeros(len(known), dtype=np.float64)
    first[column] = found
    other = found != first[column]
    other &= ~(xp.isnan(found) & xp.isnan(first[column]))
    several = np.flatnonzero(backend.to_numpy(xp.bincount(column[other], minlength=len(known))))  # sync: the offenders
    if len(several):
        raise DataError(
            f"{name} holds more than one value in {len(several)} of {len(known)} parcels: {_listed(known[several])}",
            'it is a map of voxels: take the mean of each parcel with summary="mean" (--summary mean)',
        )
    return np.asarray(backend.to_numpy(first), np.float64)


def _listed(ids: NDArray[Any]) -> str:
    """Name them all, a hundred at most."""
    more = f" and {len(ids) - 100} more" if len(ids) > 100 else ""
    return ", ".join(str(i) for i in ids[:100].tolist()) + more
