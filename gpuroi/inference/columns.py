"""A matrix on disk, block of columns by block of columns, for data that memory does not hold."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.errors import DataError, OutputError, UsageError

__all__ = ["ColumnSource", "StoredColumns"]


@runtime_checkable
class ColumnSource(Protocol):
    """A matrix (n, v) that gives its columns when asked, such as a store of maps on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """Observations and elements."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values as stored."""

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        """Return columns start..stop of all rows, (n, stop - start). Called from several threads at once."""


class StoredColumns:
    """A matrix (n, v) in a file of its own, written and read by columns.

    Parameters
    ----------
    path : path
        The file is made, and must not be there before. It takes n times v values.
    shape : (int, int)
        n, v.
    dtype : dtype
    block : int
        Columns that lie together, row by row. Reading or writing whole blocks is one sequential access.

    Raises
    ------
    UsageError
        If the file is there already, or a size is below 1.
    OutputError
        If it cannot be written, now or later.

    Notes
    -----
    Reads go to memory of their own rather than through a memory map: the pages of a map count as the memory of the
    process, which has a limit to keep. Threads may read, and write different columns, at the same time.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = StoredColumns(Path(folder, "e"), (2, 5), np.float32, block=2)
    ...     stored.write(1, np.array([[1, 2, 3], [4, 5, 6]]))
    ...     stored.columns(2, 4).tolist()
    ...     stored.remove()
    [[2.0, 3.0], [5.0, 6.0]]
    """

    def __init__(self, path: str | os.PathLike[str], shape: tuple[int, int], dtype: DTypeLike, *, block: int) -> None:
        if min(*shape, block) < 1:
            raise UsageError(f"a matrix of shape {shape} in blocks of {block}", "all sizes are 1 or more")
        self.path, self.shape, self.dtype, self.block = Path(path), shape, np.dtype(dtype), block
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        except FileExistsError:
            raise UsageError(f"{self.path}: there is a file already", "give a folder of its own") from None
        except OSError as error:
            raise self._cannot_write(error, "give a folder that can be written") from error
        self._close = weakref.finalize(self, os.close, self._file)
        try:
            os.ftruncate(self._file, shape[0] * shape[1] * self.dtype.itemsize)  # zeros, which take no room yet
        except OSError as error:  # more than the file system, or this user, may have in one file
            raise self._cannot_write(error, "make room, or give another folder") from error

    def columns(self, start: int, stop: int) -> NDArray[Any]:
        """Return columns start..stop, (n, stop - start), in memory of their own."""
        out = np.empty((self.shape[0], stop - start), self.dtype)
        for first, last, offset, width in self._blocks(start, stop):
            whole = np.empty((self.shape[0], width), self.dtype)
            self._read(whole, offset)
            lo = start - first if first < start else 0
            hi = min(stop, last) - first
            if hi - lo == stop - start == width:
                return whole
            out[:, first + lo - start : first + hi - start] = whole[:, lo:hi]
        return out

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Put values (n, w) into columns start..start + w; fastest where these are whole blocks."""
        stop = start + values.shape[1]
        for first, last, offset, width in self._blocks(start, stop):
            lo, hi = max(start, first), min(stop, last)
            part = values[:, lo - start : hi - start]
            if (lo, hi) == (first, last):
                self._write(np.ascontiguousarray(part, dtype=self.dtype), offset)
                continue
            for row in range(self.shape[0]):
                place = offset + (row * width + lo - first) * self.dtype.itemsize
                self._write(np.ascontiguousarray(part[row], dtype=self.dtype), place)

    def take(self, path: str | os.PathLike[str], where: NDArray[np.int64]) -> StoredColumns:
        """Return a new file with the columns `where`, which ascend."""
        taken = StoredColumns(path, (self.shape[0], len(where)), self.dtype, block=self.block)
        for start in range(0, len(where), self.block):
            wanted = where[start : start + self.block]
            span = self.columns(int(wanted[0]), int(wanted[-1]) + 1)
            taken.write(start, span[:, wanted - wanted[0]])
        return taken

    def remove(self) -> None:
        """Close and delete the file."""
        self._close()
        self.path.unlink(missing_ok=True)

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[Any]:
        """All rows of some columns, as ``stored[:, 3:7]``."""
        rows, columns = key
        if rows != slice(None):
            raise UsageError("rows of a matrix that is stored by columns", "take all rows: stored[:, start:stop]")
        start, stop, step = columns.indices(self.shape[1])
        if step != 1:
            raise UsageError(f"columns by steps of {step}", "take neighbouring columns")
        return self.columns(start, max(start, stop))

    def _blocks(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """First and last column, place in the file and width of the blocks that hold columns start..stop."""
        n, v = self.shape
        if not 0 <= start <= stop <= v:
            raise UsageError(f"columns {start} to {stop} of {v}", "stay within the matrix")
        found = []
        for first in range(start // self.block * self.block, stop, self.block):
            last = min(first + self.block, v)
            found.append((first, last, first * n * self.dtype.itemsize, last - first))
        return found

    def _read(self, out: NDArray[Any], offset: int) -> None:
        view, done = out.data.cast("B"), 0
        while done < len(view):
            got = os.preadv(self._file, [view[done:]], offset + done)
            if got == 0:
                raise DataError(f"{self.path}: ends at {offset + done} bytes", "the disk may have been full; run again")
            done += got

    def _write(self, values: NDArray[Any], offset: int) -> None:
        view, done = values.data.cast("B"), 0
        try:
            while done < len(view):
                done += os.pwrite(self._file, view[done:], offset + done)
        except OSError as error:
            raise self._cannot_write(error, "make room, or give another folder") from error

    def _cannot_write(self, error: OSError, hint: str) -> OutputError:
        return OutputError(f"{self.path}: cannot be written: {error.strerror}", hint)
