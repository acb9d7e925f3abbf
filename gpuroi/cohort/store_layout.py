"""How the maps of a store lie on disk, and how they are read: a sharded zarr array, decoded without zarr's event loop.

A shard holds chunks of 128 participants by 512 elements, each compressed and followed by its CRC-32C, and ends with an
index of their places. 128 rows are what a packer holds of all elements at once (120 MB of float32 at 2 mm). 512
columns are what a reader holds of all participants (82 MB at 40 000).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import n_threads, run_blocks
from gpuroi.errors import DataError, UsageError

__all__ = ["CHUNK_COLUMNS", "CHUNK_ROWS", "ShardedMatrix", "damaged", "need_zarr", "shard_columns"]

CHUNK_ROWS = 128
CHUNK_COLUMNS = 512
_CHUNKS_PER_SHARD = 128
_ABSENT = np.iinfo(np.uint64).max  # zarr's mark of a chunk that was never written


def need_zarr() -> None:
    """Raise `UsageError` unless zarr 3 is installed."""
    try:
        import google_crc32c  # noqa: F401 (it reads the shards, as does numcodecs, which zarr brings)
        import zarr
    except ImportError as error:
        raise UsageError(
            f"packed stores need zarr: {error.name or error} is not installed", "pip install 'gpuroi[store]'"
        ) from error
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise UsageError(f"packed stores need zarr 3; found {zarr.__version__}", "pip install 'gpuroi[store]'")


def shard_columns(n_elements: int) -> int:
    """Return the columns of a shard: whole chunks, as many as there are, up to 128.

    Examples
    --------
    >>> shard_columns(400), shard_columns(235_000)
    (512, 65536)
    """
    return CHUNK_COLUMNS * min(_CHUNKS_PER_SHARD, -(-n_elements // CHUNK_COLUMNS))


def damaged(name: str, what: str) -> DataError:
    """Return the error for a store that cannot be trusted."""
    return DataError(
        f"{name}: {what}",
        "the store is damaged: restore it from a copy, or make it again with gpuroi pack --overwrite",
    )


class ShardedMatrix:
    """A matrix (n, v) in the shards of a zarr array: a `ColumnSource` that gives rows too.

    Parameters
    ----------
    folder : Path
        Of the array.
    shape : (int, int)
        What counts of it; there may be more rows on disk.
    dtype : dtype
        Little-endian.
    name : str
        Of the store, for errors.

    Notes
    -----
    Every chunk is checked against its CRC before it is decompressed. A read of part of a chunk keeps the columns of the
    chunk until its last column was read, so that blocks that are narrower than a chunk, read in their order, decode
    it once; at most one more than there are threads are kept.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: np.dtype[Any], *, name: str) -> None:
        self.shape, self.dtype = shape, dtype
        self._folder, self._name = folder, name
        self._per_shard = shard_columns(shape[1]) // CHUNK_COLUMNS
        self._indices: dict[tuple[int, int], tuple[tuple[int, ...], NDArray[np.uint64]]] = {}
        self._slabs: dict[int, NDArray[Any]] = {}
        self._lock = threading.Lock()

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        """Return columns start..stop of all rows, (n, stop - start), in memory of their own."""
        n, v = self.shape
        _check_range(start, stop, v, "columns")
        out = np.empty((n, stop - start), self.dtype)
        chunk = start // CHUNK_COLUMNS
        while chunk * CHUNK_COLUMNS < stop:
            first = chunk * CHUNK_COLUMNS
            whole = max(0, (stop if stop < v else -(-v // CHUNK_COLUMNS) * CHUNK_COLUMNS) - first) // CHUNK_COLUMNS
            if first >= start and whole:
                end = min(v, first + whole * CHUNK_COLUMNS)
                self._read(0, n, chunk, chunk + whole, out[:, first - start : end - start])
                chunk += whole
                continue
            slab = self._slab(chunk, last=stop >= min(v, first + CHUNK_COLUMNS))
            lo, hi = max(start, first), min(stop, first + slab.shape[1])
            out[:, lo - start : hi - start] = slab[:, lo - first : hi - first]
            chunk += 1
        return out

    def rows(self, start: int, stop: int, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return rows start..stop, (stop - start, v), in `out` or in memory of their own."""
        n, v = self.shape
        _check_range(start, stop, n, "rows")
        out = np.empty((stop - start, v), self.dtype) if out is None else out
        if stop > start:
            self._read(start, stop, 0, -(-v // CHUNK_COLUMNS), out)
        return out

    def shard_files(self) -> list[Path]:
        """Return the files that hold the matrix."""
        n, v = self.shape
        bands, across = -(-n // CHUNK_ROWS), -(-v // (self._per_shard * CHUNK_COLUMNS))
        return [self._shard(band, column) for band in range(bands) for column in range(across)]

    def _shard(self, band: int, column: int) -> Path:
        return self._folder / "c" / str(band) / str(column)

    def _slab(self, chunk: int, *, last: bool) -> NDArray[Any]:
        """Return all rows of the columns of one chunk, from the last read if they are kept."""
        with self._lock:
            slab = self._slabs.pop(chunk, None)
        if slab is None:
            width = min(self.shape[1], (chunk + 1) * CHUNK_COLUMNS) - chunk * CHUNK_COLUMNS
            slab = np.empty((self.shape[0], width), self.dtype)
            self._read(0, self.shape[0], chunk, chunk + 1, slab)
        if not last:
            with self._lock:
                self._slabs[chunk] = slab
                while len(self._slabs) > n_threads() + 1:
                    self._slabs.pop(next(iter(self._slabs)))
        return slab

    def _read(self, start: int, stop: int, first: int, last: int, out: NDArray[Any]) -> None:
        """Decode rows start..stop of chunks first..last (across) into `out`, band by band on all threads."""
        pieces = [
            (band, shard)
            for band in range(start // CHUNK_ROWS, -(-stop // CHUNK_ROWS))
            for shard in range(first // self._per_shard, -(-last // self._per_shard))
        ]

        def some(begin: int, end: int) -> None:
            scratch = np.empty((CHUNK_ROWS, CHUNK_COLUMNS), self.dtype)
            for band, shard in pieces[begin:end]:
                row = band * CHUNK_ROWS
                rows = slice(max(start, row) - row, min(stop, row + CHUNK_ROWS) - row)
                target = out[row + rows.start - start : row + rows.stop - start]
                lo, hi = max(first, shard * self._per_shard), min(last, (shard + 1) * self._per_shard)
                self._read_shard(band, shard, lo, hi, rows, target, first, scratch)

        run_blocks(some, len(pieces))

    def _read_shard(
        self,
        band: int,
        shard: int,
        first: int,
        last: int,
        rows: slice,
        target: NDArray[Any],
        origin: int,
        scratch: NDArray[Any],
    ) -> None:
        """Decode some rows of chunks first..last of one shard into the columns of `target`, which begin at `origin`."""
        import numcodecs.blosc

        path = self._shard(band, shard)
        packed, places = self._packed(path, (band, shard), first, last)
        for k, (offset, size) in enumerate(places):
            chunk = packed[offset : offset + size]
            if not _is_sound(chunk):
                raise damaged(self._name, f"{self._short(path)}, chunk {first + k}: its checksum does not match")
            lo = (first + k - origin) * CHUNK_COLUMNS
            columns = target[:, lo : lo + CHUNK_COLUMNS]
            in_place = columns.shape == scratch.shape and columns.flags.c_contiguous
            try:
                numcodecs.blosc.decompress(chunk[:-4], columns if in_place else scratch)
            except Exception as error:  # what it raises is its own affair; the checksum was right
                raise damaged(self._name, f"{self._short(path)}, chunk {first + k}: {error}") from error
            if not in_place:
                columns[...] = scratch[rows, : columns.shape[1]]

    def _packed(
        self, path: Path, shard: tuple[int, int], first: int, last: int
    ) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
        """Return the bytes of chunks first..last of a shard with one read, and each one's place in them."""
        try:
            file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise damaged(self._name, f"{self._short(path)}: {error.strerror}") from error
        try:
            index = self._index(file, path, shard)
            begin = first - shard[1] * self._per_shard
            wanted = index[begin : begin + last - first]
            if (wanted == _ABSENT).any():
                raise damaged(self._name, f"{self._short(path)}: a chunk is not there")
            low, high = int(wanted[:, 0].min()), int(wanted.sum(axis=1).max())
            packed = self._bytes(file, path, low, high - low)
            if hasattr(os, "posix_fadvise"):  # the next chunks come from the disk while these are computed
                os.posix_fadvise(file, high, high - low, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(file)
        return np.frombuffer(packed, np.uint8), [(int(offset) - low, int(size)) for offset, size in wanted]

    def _index(self, file: int, path: Path, shard: tuple[int, int]) -> NDArray[np.uint64]:
        """Return the places of the chunks of a shard, (chunks, 2), read again if the file is another one now."""
        status = os.fstat(file)
        version = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._indices.get(shard)
        if known is not None and known[0] == version:
            return known[1]
        size = 16 * self._per_shard + 4
        raw = self._bytes(file, path, status.st_size - size, size)
        if not _is_sound(np.frombuffer(raw, np.uint8)):
            raise damaged(self._name, f"{self._short(path)}: cut short or damaged, its index cannot be read")
        index = np.frombuffer(raw[:-4], "<u8").reshape(-1, 2)
        self._indices[shard] = (version, index)
        return index

    def _bytes(self, file: int, path: Path, offset: int, size: int) -> bytes:
        if offset < 0:
            raise damaged(self._name, f"{self._short(path)}: cut short")
        try:
            got = os.pread(file, size, offset)
        except OSError as error:
            raise damaged(self._name, f"{self._short(path)}: {error.strerror}") from error
        if len(got) < size:
            raise damaged(self._name, f"{self._short(path)}: cut short")
        return got

    def _short(self, path: Path) -> str:
        return path.relative_to(self._folder.parent).as_posix()


def _is_sound(data: NDArray[np.uint8]) -> bool:
    """True if the last four bytes are the CRC-32C of what is before them."""
    import google_crc32c

    return data.size >= 4 and google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:].tobytes(), "little")


def _check_range(start: int, stop: int, n: int, what: str) -> None:
    if not 0 <= start <= stop <= n:
        raise UsageError(f"{what} {start} to {stop} of {n}", "stay within the matrix")
