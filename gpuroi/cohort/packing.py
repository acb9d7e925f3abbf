"""Pack the maps of a cohort into a store, and add participants to one: whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.backends.memory import parse_bytes
from gpuroi.cohort.file_hashes import hash_files, unchanged_files
from gpuroi.cohort.grid_check import HasMaps, read_grid
from gpuroi.cohort.maps import MapReader
from gpuroi.cohort.store import FORMAT, MapStore, attributes_checksum, open_store
from gpuroi.cohort.store_files import (
    check_target,
    checked_target,
    only_writer,
    put_shards,
    replace_attributes,
    staged_store,
)
from gpuroi.cohort.store_layout import CHUNK_COLUMNS, CHUNK_ROWS, need_zarr, shard_columns
from gpuroi.errors import DataError, UsageError
from gpuroi.images.write import as_output_error

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from gpuroi.domains import VoxelGrid

__all__ = ["BandWriter", "PackedBand", "append_maps", "pack_maps", "packing_peak_bytes"]

_log = logging.getLogger("gpuroi")
_DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16")


def pack_maps(
    participants: HasMaps,
    mask: Any,
    out: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    smoothing_fwhm_mm: float | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    memory_limit: int | str | None = None,
    spread: Spread | None = None,
) -> MapStore:
    """Pack maps into a zarr store, which screening reads faster than the files and without holding it in memory.

    Parameters
    ----------
    participants : Participants
        Anything with `ids` and `maps`.
    mask : path, image or VoxelGrid
        Only its voxels are packed. What maps lack (NaN) is packed as it is: rules for it are applied when reading.
    out : path
        Ends in `.zarr`.
    dtype : {"float16", "float32", "float64", "int8", "uint8", "int16", "uint16"}, optional
        Default as stored, see `read_maps`. float16 rounds: the largest relative error is logged and recorded.
    smoothing_fwhm_mm : float, optional
        Smooth each map before it is masked.
    overwrite : bool, default False
        Replace a store that is there. It stays until the new one is complete.
    threads : int, optional
    memory_limit : int or str, optional
        `packing_peak_bytes` must be within.
    spread : callable, optional
        Packs bands of 128 participants elsewhere: takes a `BandWriter` and the bands, returns what that returned.

    Returns
    -------
    MapStore

    Raises
    ------
    DataError
        One for all maps that cannot be used; values that do not fit `dtype`.
    OutputError
        If something stands there already, or it cannot be written.
    UsageError
        If zarr is not installed, the type is none of these, or the memory limit is too low.

    Notes
    -----
    A zarr v3 group: `maps` (n, v), in chunks of 128 x 512 values (Blosc LZ4, bitshuffle, CRC-32C) and shards of
    128 x 65536, each written once by one writer; `mask` (X, Y, Z); ids, affine, files and their SHA-256 as attributes.

    Examples
    --------
    >>> import nibabel, tempfile
    >>> from types import SimpleNamespace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [Path(folder, f"sub-{i}.nii") for i in range(3)]
    ...     for i, path in enumerate(paths):
    ...         nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), i, "f4"), np.eye(4)), path)
    ...     people = SimpleNamespace(ids=["a", "b", "c"], maps=paths)
    ...     store = pack_maps(people, paths[1], Path(folder, "cohort.zarr"))
    ...     store.columns(0, 2).tolist(), store.dtype
    ([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], dtype('float32'))
    """
    need_zarr()
    asked = _checked_dtype(dtype)
    target = checked_target(out, overwrite)
    reader = MapReader(
        participants, mask, smoothing_fwhm_mm=smoothing_fwhm_mm, dtype=None if asked is None else asked, threads=threads
    )
    _check_memory(reader, memory_limit)
    _refuse_repeated(reader.ids)
    with staged_store(target) as staged:
        attributes = _attributes(reader, asked, _write_bands(reader, staged, spread=spread))
        _write_group(staged, attributes, reader.grid)
        check_target(target, overwrite)  # somebody else may have been faster
    _say_rounding(reader)
    return open_store(target)


def append_maps(
    participants: HasMaps,
    path: str | os.PathLike[str],
    *,
    mask: Any = None,
    dtype: DTypeLike | None = None,
    smoothing_fwhm_mm: float | None = None,
    threads: int | None = None,
    memory_limit: int | str | None = None,
) -> MapStore:
    """Add participants to a store.

    Parameters
    ----------
    participants : Participants
        Who is in the store already, with the same file, is passed over: the whole, longer table may be given.
    path : path
        Of the store.
    mask, dtype, smoothing_fwhm_mm : optional
        Default those of the store; others are refused.
    threads, memory_limit
        As in `pack_maps`.

    Returns
    -------
    MapStore
        As it is now.

    Raises
    ------
    DataError
        If mask, affine, type or smoothing is not that of the store; if somebody is in it with another file; as
        `pack_maps` does.
    OutputError
        If it cannot be written, or somebody else is adding to it.

    Notes
    -----
    New shards are written beside the store and renamed into it; the list of participants, which says how many rows
    count, is replaced last. A run that is stopped anywhere leaves the store as it was, or complete.
    """
    with only_writer(open_store(path).path):
        store = open_store(path)
        asked = _checked_dtype(dtype)
        _check_same(store, mask, asked, smoothing_fwhm_mm)
        people = _newcomers(store, participants)
        if not people.ids:
            return store
        recorded = store.attributes["asked_dtype"]
        wanted = None if recorded is None else np.dtype(recorded)
        reader = MapReader(people, store.mask, smoothing_fwhm_mm=store.smoothing_fwhm_mm, dtype=wanted, threads=threads)
        if reader.dtype != store.dtype:
            raise DataError(
                f"{store.path}: holds {store.dtype}, the new maps are {reader.dtype}",
                "pack all maps again with --dtype, which is then kept",
            )
        _check_memory(reader, memory_limit, store.shape[0])
        _add(store, reader, wanted)
    _say_rounding(reader)
    return open_store(path)


def packing_peak_bytes(reader: MapReader, n_before: int = 0) -> int:
    """Return what packing takes at its peak: 128 rows of all voxels, beside them the reading or a shard in the making.

    Parameters
    ----------
    reader : MapReader
    n_before : int, default 0
        Maps that the store has already.
    """
    n_rows = min(CHUNK_ROWS, n_before + reader.shape[0])
    v, item = reader.shape[1], reader.dtype.itemsize
    writing = item * n_rows * v + 12 * v + item * (CHUNK_ROWS + n_rows) * shard_columns(v)
    return max(reader.peak_bytes(n_rows), writing)


class _People:
    """Some of the participants."""

    def __init__(self, ids: list[str], maps: list[Path]) -> None:
        self.ids, self.maps = ids, maps


@dataclass(frozen=True)
class PackedBand:
    """What was seen while some participants were packed.

    Attributes
    ----------
    sha256 : list of str
        Of their files.
    missing : list of int
        Values that each map lacks.
    largest_relative_error : float
    n_underflows : int
        As `MapReader` counts them.
    """

    sha256: list[str]
    missing: list[int]
    largest_relative_error: float = 0.0
    n_underflows: int = 0


@dataclass(frozen=True)
class BandWriter:
    """Packs a band of participants from their files alone, as a worker elsewhere does; it can be pickled.

    Attributes
    ----------
    ids : list of str
    maps : list of Path
    grid : VoxelGrid
    smoothing_fwhm_mm : float or None
    dtype : str
    folder : Path
        Of the array, which exists and which the worker can write to.
    """

    ids: list[str]
    maps: list[Path]
    grid: VoxelGrid
    smoothing_fwhm_mm: float | None
    dtype: str
    folder: Path

    def __call__(self, band: slice) -> PackedBand:
        """Pack one band: whole shards, which nobody else writes to."""
        import zarr

        people = _People(self.ids[band], self.maps[band])
        reader = MapReader(people, self.grid, smoothing_fwhm_mm=self.smoothing_fwhm_mm, dtype=self.dtype)
        rows = np.empty(reader.shape, reader.dtype)
        with unchanged_files(people.maps):
            missing = reader.read(0, rows)[1].tolist()
            hashes = hash_files(people.maps, reader.threads)
        _write_shards(zarr.open_group(self.folder, mode="r+")["maps"], rows, band.start, self.folder)
        return PackedBand(hashes, missing, reader.largest_relative_error, reader.n_underflows)


Spread = Callable[[BandWriter, list[slice]], list[PackedBand]]


def _write_bands(
    reader: MapReader, folder: Path, old: MapStore | None = None, *, spread: Spread | None = None
) -> tuple[list[str], list[int]]:
    """Write the shards that hold the maps of the reader; return the files' hashes and what each map lacks.

    With `old`, the maps follow those of the old store, of which the last, unfinished band is written again.
    """
    before = 0 if old is None else old.shape[0]
    n, v = before + reader.shape[0], reader.shape[1]
    array = _new_array(folder, (n, v), reader.dtype)
    starts = range(before // CHUNK_ROWS * CHUNK_ROWS, n, CHUNK_ROWS)
    bands = [slice(start, min(n, start + CHUNK_ROWS)) for start in starts]
    if spread is not None:
        maps = [Path(image.name) for image in reader.images]
        packed = spread(BandWriter(reader.ids, maps, reader.grid, reader.fwhm_mm, reader.dtype.name, folder), bands)
        reader.largest_relative_error = max(one.largest_relative_error for one in packed)
        reader.n_underflows = sum(one.n_underflows for one in packed)
        return [digest for one in packed for digest in one.sha256], [k for one in packed for k in one.missing]
    sha256: list[str] = []
    missing: list[int] = []
    room = np.empty((min(CHUNK_ROWS, n), v), reader.dtype)  # one for all bands: a new one each would make two
    for band in bands:
        rows = room[: band.stop - band.start]
        held = max(0, before - band.start)
        if old is not None and held:
            old.rows(band.start, before, out=rows[:held])
        first = band.start + held - before
        maps = [Path(image.name) for image in reader.images[first : band.stop - before]]
        with unchanged_files(maps):
            missing += reader.read(first, rows[held:])[1].tolist()
            sha256 += hash_files(maps, reader.threads)
        _write_shards(array, rows, band.start, folder)
    return sha256, missing


def _write_shards(array: Any, rows: NDArray[Any], start: int, folder: Path) -> None:
    """Write all shards of a band, one after the other."""
    width = shard_columns(rows.shape[1])
    with as_output_error(folder):
        for column in range(0, rows.shape[1], width):
            array[start : start + len(rows), column : column + width] = rows[:, column : column + width]


def _new_array(folder: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    with as_output_error(folder):
        return zarr.create_group(folder).create_array(
            "maps",
            shape=shape,
            dtype=dtype.newbyteorder("<"),
            chunks=(CHUNK_ROWS, CHUNK_COLUMNS),
            shards=(CHUNK_ROWS, shard_columns(shape[1])),
            # LZ4 on bits read back at 1.2 GB/s, on bytes at 0.8, Zstandard at 0.6, with 2 % between their sizes
            compressors=[
                BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize),
                Crc32cCodec(),
            ],
            filters=None,
            fill_value=np.nan if dtype.kind == "f" else 0,
            config={"write_empty_chunks": True},  # what is not there is then damage, never a chunk of zeros
        )


def _write_group(folder: Path, attributes: dict[str, Any], grid: VoxelGrid) -> None:
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    with as_output_error(folder):
        group = zarr.open_group(folder, mode="r+")
        mask = group.create_array(
            "mask",
            shape=grid.mask.shape,
            dtype="uint8",
            chunks=grid.mask.shape,
            compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=1), Crc32cCodec()],
            filters=None,
            config={"write_empty_chunks": True},
        )
        mask[...] = grid.mask.astype(np.uint8)
        group.update_attributes(attributes)


def _attributes(reader: MapReader, asked: np.dtype[Any] | None, written: tuple[list[str], list[int]]) -> dict[str, Any]:
    import gpuroi

    attributes = {
        "format": FORMAT,
        "gpuroi_version": gpuroi.__version__,
        "participant_id": reader.ids,
        "source": [image.name for image in reader.images],
        "sha256": written[0],
        "missing_values": written[1],
        "affine": np.asarray(reader.grid.affine).tolist(),
        "mask_sha256": hashlib.sha256(np.ascontiguousarray(reader.grid.mask).tobytes()).hexdigest(),
        "dtype": reader.dtype.name,
        "asked_dtype": None if asked is None else asked.name,
        "smoothing_fwhm_mm": reader.fwhm_mm,
        "largest_relative_error": reader.largest_relative_error,
        "n_underflows": reader.n_underflows,
    }
    return {**attributes, "checksum": attributes_checksum(attributes)}


def _add(store: MapStore, reader: MapReader, asked: np.dtype[Any] | None) -> None:
    beside = store.path.with_name(f".append-{secrets.token_hex(4)}-{store.path.name}")
    try:
        new, old = _attributes(reader, asked, _write_bands(reader, beside, store)), store.attributes
        joined = {
            **old,
            **{key: [*old[key], *new[key]] for key in ("participant_id", "source", "sha256", "missing_values")},
            "largest_relative_error": max(old["largest_relative_error"], new["largest_relative_error"]),
            "n_underflows": old["n_underflows"] + new["n_underflows"],
        }
        joined["checksum"] = attributes_checksum(joined)
        with as_output_error(store.path):
            put_shards(beside / "maps", store.path / "maps")
            replace_attributes(store.path, joined)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _newcomers(store: MapStore, participants: HasMaps) -> _People:
    """Return who is not in the store; refuse those who are, with another file."""
    place = {name: row for row, name in enumerate(store.ids)}
    pairs = list(zip(participants.ids, participants.maps, strict=True))
    known = [(name, path) for name, path in pairs if name in place]
    seen = hash_files([Path(path) for _, path in known], 8)
    other = [name for (name, _), digest in zip(known, seen, strict=True) if digest != store.sha256[place[name]]]
    if other:
        raise DataError(
            f"{store.path}: {len(other)} participants are in the store with another map: {', '.join(other[:20])}",
            "their files have changed since: pack all maps again with --overwrite, or give new ids to new maps",
        )
    new = [(name, path) for name, path in pairs if name not in place]
    _refuse_repeated([name for name, _ in new])
    return _People([name for name, _ in new], [Path(path) for _, path in new])


def _check_same(store: MapStore, mask: Any, asked: np.dtype[Any] | None, smoothing_fwhm_mm: float | None) -> None:
    wrong = []
    if mask is not None:
        grid = read_grid(mask)
        if grid.mask.shape != store.mask.mask.shape or not np.allclose(
            np.asarray(grid.affine), store.affine, atol=1e-4
        ):
            wrong.append("the mask lies on another grid")
        elif not np.array_equal(grid.mask, store.mask.mask):
            both = int(np.count_nonzero(grid.mask & store.mask.mask))
            wrong.append(f"the mask has {grid.n_elements:,} voxels, the store {store.shape[1]:,}, {both:,} in common")
    if asked is not None and asked != store.dtype:
        wrong.append(f"dtype {asked} is asked for, the store holds {store.dtype}")
    if smoothing_fwhm_mm is not None and smoothing_fwhm_mm != (store.smoothing_fwhm_mm or 0):
        wrong.append(f"smoothing of {smoothing_fwhm_mm} mm, the store has {store.smoothing_fwhm_mm or 0} mm")
    if wrong:
        raise DataError(
            f"{store.path}: cannot be added to: {'; '.join(wrong)}", "leave these options out, or pack another store"
        )


def _checked_dtype(dtype: DTypeLike | None) -> np.dtype[Any] | None:
    if dtype is None:
        return None
    try:
        asked = np.dtype(dtype)
    except TypeError:
        asked = np.dtype(object)
    if asked.name not in _DTYPES:
        raise UsageError(f"dtype {dtype!r}", f"use one of {', '.join(_DTYPES)}")
    return asked.newbyteorder("=")


def _refuse_repeated(ids: list[str]) -> None:
    repeated = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise DataError(f"{len(repeated)} ids stand for several maps: {', '.join(repeated[:20])}", "one row a person")


def _check_memory(reader: MapReader, memory_limit: int | str | None, n_before: int = 0) -> None:
    needed = packing_peak_bytes(reader, n_before)
    if memory_limit is not None and needed > parse_bytes(memory_limit):
        raise UsageError(
            f"memory limit {memory_limit}: packing takes {needed / 1e6:.0f} MB with {reader.threads} threads",
            "raise --memory-limit, or set GPUROI_NUM_THREADS=1",
        )


def _say_rounding(reader: MapReader) -> None:
    if reader.largest_relative_error:
        lost = f"; {reader.n_underflows:,} values are too small for it" if reader.n_underflows else ""
        _log.info("%s rounds: largest relative error %.2g%s", reader.dtype, reader.largest_relative_error, lost)
