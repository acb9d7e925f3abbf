"""Where the stored voxels of an image come from: a file, a compressed file, or an object of nibabel."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpuroi.errors import DataError
from gpuroi.images.gunzip import inflate
from gpuroi.images.headers import Layout, Scaling, check_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["GzipStore", "NibabelStore", "PlainStore", "Store"]


class Store(Protocol):
    """Stored values of one image, volume by volume, as they lie on disk: axes (Z, Y, X), x fastest."""

    def dtype(self) -> np.dtype[Any]:
        """Type of what `volume` returns, before scaling."""

    def scaling(self) -> Scaling:
        """What is still to be applied to the values of `volume`."""

    def volume(self, index: int) -> NDArray[Any]:
        """Return one volume (Z, Y, X); a view where that saves a copy."""

    def take(self, start: int, stop: int) -> NDArray[Any]:
        """Return volumes (n, Z, Y, X), C-contiguous and the caller's own."""

    def release(self) -> None:
        """Drop what is kept for the next read."""


class PlainStore:
    """Voxels of an uncompressed file. Nothing is kept between reads."""

    def __init__(self, path: Path, layout: Layout, name: str) -> None:
        self._path, self._layout, self._name = path, layout, name
        self._version = _version(path)

    def dtype(self) -> np.dtype[Any]:
        """Type on disk."""
        return self._layout.dtype

    def scaling(self) -> Scaling:
        """Scaling of the header."""
        return self._layout.scaling

    def volume(self, index: int) -> NDArray[Any]:
        """Read one volume."""
        volume: NDArray[Any] = self.take(index, index + 1)[0]
        return volume

    def take(self, start: int, stop: int) -> NDArray[Any]:
        """Read a range of volumes with one read."""
        layout = self._layout
        per_volume = math.prod(layout.shape)
        offset = layout.offset + start * per_volume * layout.dtype.itemsize
        try:
            values = np.fromfile(self._path, layout.dtype, (stop - start) * per_volume, offset=offset)
        except OSError as error:
            raise unreadable(self._name, error) from error
        if values.size < (stop - start) * per_volume:
            raise _changed(self._name, "holds less than when it was opened")
        _check_version(self._path, self._version, self._name)
        return values.reshape(stop - start, *layout.shape[::-1])

    def release(self) -> None:
        """Nothing to drop."""


class GzipStore:
    """Voxels of a compressed file: inflated once, kept while only parts were read."""

    def __init__(self, path: Path, layout: Layout, name: str) -> None:
        self._path, self._layout, self._name = path, layout, name
        self._version = _version(path)
        self._content: NDArray[np.uint8] | None = None
        self._lock = threading.Lock()  # two threads that read parts of one file inflate it once

    def dtype(self) -> np.dtype[Any]:
        """Type on disk."""
        return self._layout.dtype

    def scaling(self) -> Scaling:
        """Scaling of the header."""
        return self._layout.scaling

    def volume(self, index: int) -> NDArray[Any]:
        """View of one volume in the inflated bytes, which stay until `release`."""
        volume: NDArray[Any] = self._view(self._kept())[index]
        return volume

    def take(self, start: int, stop: int) -> NDArray[Any]:
        """Hand the inflated bytes over where all of them are wanted and nobody else holds them; else copy."""
        if stop - start < self._layout.n_volumes or self._content is not None:
            return self._view(self._kept())[start:stop].copy()
        whole = self._view(self._inflate())
        return whole if whole.flags.aligned else whole.copy()

    def release(self) -> None:
        """Drop the inflated bytes."""
        with self._lock:
            self._content = None

    def _kept(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._content is None:
                self._content = self._inflate()
            return self._content

    def _inflate(self) -> NDArray[np.uint8]:
        try:
            packed = self._path.read_bytes()
        except OSError as error:
            raise unreadable(self._name, error) from error
        content = inflate(packed, self._layout.end, name=self._name)
        _check_version(self._path, self._version, self._name)
        return content

    def _view(self, content: NDArray[np.uint8]) -> NDArray[Any]:
        layout = self._layout
        values: NDArray[Any] = np.frombuffer(content, layout.dtype, offset=layout.offset)
        return values.reshape(layout.n_volumes, *layout.shape[::-1])


class NibabelStore:
    """Voxels of a nibabel image, in memory or behind a proxy."""

    def __init__(self, image: Any, shape: tuple[int, int, int], name: str) -> None:
        self._image, self._shape, self._name = image, shape, name
        self._loaded: tuple[NDArray[Any], Scaling] | None = None
        self._lock = threading.Lock()

    def dtype(self) -> np.dtype[Any]:
        """Type of the array behind the image."""
        return self._load()[0].dtype

    def scaling(self) -> Scaling:
        """Scaling that nibabel has not applied yet."""
        return self._load()[1]

    def volume(self, index: int) -> NDArray[Any]:
        """View of one volume."""
        array, _ = self._load()
        return array[..., index].T

    def view(self, start: int, stop: int) -> NDArray[Any]:
        """View of a range of volumes."""
        array, _ = self._load()
        return array[..., start:stop].T

    def take(self, start: int, stop: int) -> NDArray[Any]:
        """Copy a range of volumes."""
        array, _ = self._load()
        return np.array(array[..., start:stop].T, order="C", copy=True)

    def release(self) -> None:
        """Drop what a proxy has loaded."""
        with self._lock:
            self._loaded = None

    def _load(self) -> tuple[NDArray[Any], Scaling]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> tuple[NDArray[Any], Scaling]:
        from nibabel.arrayproxy import ArrayProxy

        data: Any = self._image.dataobj
        scaling = Scaling()
        try:
            # Only the plain proxy has one slope and one intercept; AFNI and MINC scale every volume or slice on its
            # own, which nibabel does (in float64).
            if type(data) is ArrayProxy:
                array = np.asanyarray(self._image.dataobj.get_unscaled())
                scaling = Scaling(float(data.slope), float(data.inter))
            else:
                array = np.asanyarray(data)
        except MemoryError:
            raise
        except Exception as error:  # what a broken file raises here depends on its format
            raise unreadable(self._name, error) from error
        check_dtype(array.dtype, name=self._name)
        return array.reshape(*self._shape, -1, order="F"), scaling


def unreadable(name: str, error: BaseException) -> DataError:
    """Return the error for a file that cannot be read to its end."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(
        f"{name}: cannot be read: {reason or type(error).__name__}",
        "check that the file is whole and that you may read it",
    )


def _version(path: Path) -> tuple[int, int]:
    """Return size and time of a file: what was checked when it was opened is true of these bytes alone."""
    found = path.stat()
    return found.st_size, int(found.st_mtime)  # network disks may round the rest of the time, and later


def _check_version(path: Path, version: tuple[int, int], name: str) -> None:
    try:
        now = _version(path)
    except OSError as error:
        raise unreadable(name, error) from error
    if now != version:
        raise _changed(name, "has changed since it was opened")


def _changed(name: str, what: str) -> DataError:
    return DataError(f"{name}: {what}", "let nothing write to the file while it is read")
