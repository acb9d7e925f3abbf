"""Volumes of one or many images, one after the other: opened, checked to lie on one grid, read when asked for."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends.threads import run_blocks
from gpuroi.errors import DataError, GpuroiError
from gpuroi.images import Image, open_image
from gpuroi.nilearn import niimg

__all__ = ["VolumeSeries", "open_series"]


@dataclass(frozen=True)
class VolumeSeries:
    """Volumes that lie on one grid.

    Attributes
    ----------
    name : str
        Of the first image.
    reference : object
        The first image, as given.
    shape : tuple of int
        (X, Y, Z).
    affine : float64 array, shape (4, 4)
    is_4d : bool
        False for a single 3-D image.
    """

    name: str
    reference: Any
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    is_4d: bool
    _images: tuple[Image | NDArray[Any], ...]
    _starts: NDArray[np.int64]  # number of volumes before each image, and in all

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def array(self) -> NDArray[Any] | None:
        """Data of a single image that is in memory, (X, Y, Z) or (X, Y, Z, n); else None."""
        only = self._images[0]
        return only if len(self._images) == 1 and isinstance(only, np.ndarray) else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the first image's volumes, in native byte order; those of a list may differ."""
        first = self._images[0]
        dtype = first.dtype if isinstance(first, np.ndarray) else first.read(0, 0, dtype=None).dtype
        return dtype.newbyteorder("=")

    def volume(self, index: int) -> NDArray[Any]:
        """Return one volume (X, Y, Z) in its own type, float64 where the header scales it.

        It may be the memory of the image that was given: do not write into it. Threads may ask at once.
        """
        k = self._image_of(index)
        image, i = self._images[k], index - int(self._starts[k])
        if isinstance(image, np.ndarray):
            return image if image.ndim == 3 else image[..., i]
        return np.asarray(image.read(i, i + 1, dtype=None)[0])

    def for_each(self, work: Callable[[int, NDArray[Any]], None], start: int = 0, stop: int | None = None) -> None:
        """Call `work(index, volume)` on the volumes `start` to `stop`, in threads.

        What a compressed file is kept for is dropped with its last volume, so that one run at a time is in memory.
        """
        stop = len(self) if stop is None else stop
        starts, lock = self._starts, threading.Lock()
        left = np.clip(starts[1:], start, stop) - np.clip(starts[:-1], start, stop)  # volumes to do, of each image

        def part(first: int, last: int) -> None:
            for i in range(start + first, start + last):
                work(i, self.volume(i))
                k = self._image_of(i)
                with lock:
                    left[k] -= 1
                    done = left[k] == 0 and starts[k + 1] <= stop
                if done:
                    self._release(k)

        run_blocks(part, stop - start)

    def release(self) -> None:
        """Drop what was kept of compressed files."""
        for k in range(len(self._images)):
            self._release(k)

    def _image_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _release(self, k: int) -> None:
        image = self._images[k]
        if isinstance(image, Image):
            image.release()


def open_series(imgs: Any) -> VolumeSeries:
    """Open what nilearn takes for one image: a path, a pattern, an image, or a (nested) list of these.

    Parameters
    ----------
    imgs : str, path, nibabel image, or (nested) iterable of these

    Returns
    -------
    VolumeSeries
        In the order given; files of a pattern in ascending order. Nothing but headers is read, and nothing is joined.

    Raises
    ------
    TypeError, DataError, GridError
        As `check_niimg`, which finds out what is wrong.
    """
    imgs = niimg.as_list(imgs)
    try:
        series = _opened(imgs)
    except (GpuroiError, TypeError, OSError) as error:
        return _as_nilearn_sees_it(imgs, error)
    return series if series is not None else _as_nilearn_sees_it(imgs, None)


def _opened(imgs: Any) -> VolumeSeries | None:
    """Open all; None unless they have the same number of axes and the same grid."""
    if not niimg.is_volume_input(imgs):
        return None
    leaves = _leaves(imgs, 0)
    members = [_open(leaf) for leaf, _ in leaves]
    if not members or len({(depth, m.is_4d) for (_, depth), m in zip(leaves, members, strict=True)}) > 1:
        return None
    first = members[0]
    if any(m.shape != first.shape for m in members):
        return None
    if len(members) > 1 and not np.allclose(np.stack([m.affine for m in members]), first.affine):
        return None
    return _series(members, leaves[0][0], is_4d=first.is_4d or leaves[0][1] > 0)


@dataclass(frozen=True)
class _Member:
    name: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    is_4d: bool
    n_volumes: int
    image: Image | NDArray[Any]


def _series(members: list[_Member], reference: Any, *, is_4d: bool) -> VolumeSeries:
    first = members[0]
    starts = np.cumsum([0, *(m.n_volumes for m in members)], dtype=np.int64)
    images = tuple(m.image for m in members)
    return VolumeSeries(first.name, reference, first.shape, first.affine, is_4d, images, starts)


def _leaves(imgs: Any, depth: int) -> list[tuple[Any, int]]:
    """Images one by one, each with the number of lists around it."""
    if isinstance(imgs, str | os.PathLike):
        path = os.fspath(imgs)
        if not glob.has_magic(path) and not path.startswith("~"):
            return [(path, depth)]  # to ask whether it is there takes longer than to open it
        found = niimg.files_of(path, wildcards=True)
        return [(found, depth)] if isinstance(found, str) else [(one, depth + 1) for one in found]
    if niimg.is_image(imgs):
        return [(imgs, depth)]
    inner = [_leaves(one, depth + 1) for one in imgs]
    if not all(inner):
        raise TypeError("Cannot concatenate empty objects.")
    return [leaf for leaves in inner for leaf in leaves]


def _open(leaf: Any) -> _Member:
    """Open one image: NIfTI files by ourselves, data in memory as they stand."""
    if isinstance(leaf, str):
        image = open_image(leaf)
        return _Member(image.name, image.shape, image.affine, image.is_4d, image.n_volumes, image)
    name, affine, shape = niimg.image_name(leaf), np.asarray(leaf.affine, np.float64), tuple(leaf.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{name}: shape {shape}, expected (X, Y, Z) or (X, Y, Z, n), no axis of length 0")
    data: Any = _in_memory(leaf)
    if data is None:
        data = niimg.opened_nifti(leaf) or open_image(leaf)
    return _Member(name, shape[:3], affine, len(shape) == 4, shape[3] if len(shape) == 4 else 1, data)


def _in_memory(img: Any) -> NDArray[Any] | None:
    """The array of an image that needs no reading; None for what lies in a file."""
    cached = getattr(img, "_data_cache", None)
    data = getattr(img, "dataobj", None) if cached is None else cached
    if data is None:
        data = np.asanyarray(img.get_fdata())
    return data if isinstance(data, np.ndarray) else None


def _as_nilearn_sees_it(imgs: Any, error: Exception | None) -> VolumeSeries:
    """Let `check_niimg` raise what nilearn raises; what passes there and was no error here is taken as one image."""
    joined = niimg.check_niimg(imgs)
    if len(joined.shape) not in (3, 4):
        raise DataError(
            f"Computation expects 3D or 4D images, but {len(joined.shape)} dimensions were given "
            f"({niimg.image_name(joined)})"
        ) from error
    if error is not None:
        raise error
    return _series([_open(joined)], joined, is_4d=len(joined.shape) == 4)
