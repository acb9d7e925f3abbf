"""Where the smoothed volumes of all runs lie: in memory, or in a temporary file where they would not fit."""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from gpuroi.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RunStore"]

_log = logging.getLogger("gpuroi")


class RunStore:
    """Room for `n` float32 volumes, each in Fortran order, as NIfTI files store them; a context that closes it.

    Parameters
    ----------
    n_volumes : int
    shape : (int, int, int)
    budget : int
        Bytes of memory that the volumes may take. Beyond it they lie in a temporary file (in TMPDIR), whose
        pages the system can take back; `drop_pages` gives them back at once.

    Attributes
    ----------
    volumes : float32 array, shape (n, X, Y, Z)
    in_memory : bool

    Raises
    ------
    OutputError
        If the temporary file does not fit on its disk.
    """

    def __init__(self, n_volumes: int, shape: tuple[int, int, int], budget: int) -> None:
        size_x, size_y, size_z = shape
        n_bytes = 4 * n_volumes * size_x * size_y * size_z
        self._file: IO[bytes] | None = None
        self._mapping: mmap.mmap | None = None
        self.in_memory = n_bytes <= budget
        if self.in_memory:
            flat = np.empty(n_bytes // 4, np.float32)
        else:
            _log.info("%.1f GB of volumes do not fit into memory: they lie in %s", n_bytes / 1e9, tempfile.gettempdir())
            self._file = _temporary_file(n_bytes)
            self._mapping = mmap.mmap(self._file.fileno(), n_bytes)
            flat = np.frombuffer(self._mapping, np.float32)
        self._rows: NDArray[np.float32] = flat.reshape(n_volumes, size_x * size_y * size_z)  # voxels in Fortran order
        self.volumes: NDArray[np.float32] = flat.reshape(n_volumes, size_z, size_y, size_x).transpose(0, 3, 2, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the temporary file, which with that is gone; volumes in memory stay as long as somebody holds them."""
        if self._file is not None:
            self._file.close()

    def series(self, volumes: NDArray[np.intp], part: slice) -> NDArray[np.float32]:
        """Return a copy of some volumes at a range of voxels, counted in Fortran order, shape (n, w)."""
        if self._file is None:
            return self._rows[volumes, part]
        # Read, not taken from the mapping: that would map whole large pages around every short row.
        out = np.empty((len(volumes), part.stop - part.start), np.float32)
        for row, volume in zip(out, volumes.tolist(), strict=True):
            self._file.seek(4 * (volume * self._rows.shape[1] + part.start))
            self._file.readinto(row)  # type: ignore[attr-defined]
        return out

    def drop_pages(self) -> None:
        """Stop counting the pages of the temporary file as memory of this process; nothing is lost."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _temporary_file(n_bytes: int) -> IO[bytes]:
    file = tempfile.TemporaryFile(prefix="gpuroi-", buffering=0)  # noqa: SIM115 (the store closes it)
    try:
        if hasattr(os, "posix_fallocate"):  # a hole in the file would be a bus error when the disk is full
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
    except OSError as error:
        file.close()
        raise OutputError(
            f"no room for {n_bytes / 1e9:.1f} GB of volumes in {tempfile.gettempdir()} ({error.strerror})",
            "set TMPDIR to a larger disk, or raise the memory limit",
        ) from error
    return file
