"""Maps from files to a matrix on the device, as stored until they are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpuroi.backends.base import Array, Backend
from gpuroi.errors import DataError
from gpuroi.images.read import Image

__all__ = ["load_rows"]

_PART_BYTES = 1 << 27  # of a buffer; there are two on the host and two on the device


def load_rows(
    images: Sequence[Image], inside: NDArray[np.bool_], backend: Backend, *, dtype: DTypeLike = np.float32
) -> Array:
    """Read the voxels of a mask from 3-D images, one row an image.

    Threads read and inflate the next images while the last ones travel, in the type in which they are stored, and are
    scaled and masked on the device: of int16 images two bytes a voxel cross the bus.

    Parameters
    ----------
    images : sequence of Image
        As `open_image` gives them; of one shape.
    inside : bool array, shape (X, Y, Z)
        On the host.
    backend : Backend
        Where the rows will be.
    dtype : dtype, default float32
        Or float64.

    Returns
    -------
    array, shape (n_images, n_voxels inside)
        In the order of `volume[inside]`; the same numbers on every device.

    Raises
    ------
    DataError
        Another shape than that of the mask, a 4-D image, no image; an image that cannot be read.

    Examples
    --------
    >>> import nibabel, numpy as np
    >>> from gpuroi.backends import get_backend
    >>> from gpuroi.images import open_image
    >>> volume = np.arange(8, dtype=np.int16).reshape(2, 2, 2)
    >>> image = open_image(nibabel.Nifti1Image(volume, np.eye(4)))
    >>> load_rows([image], volume > 5, get_backend("cpu"))
    array([[6., 7.]], dtype=float32)
    """
    _check(images, inside)
    stored = np.result_type(*(image._store.dtype().newbyteorder("=") for image in images))
    columns = backend.asarray(np.where(inside, np.cumsum(inside).reshape(inside.shape) - 1, -1).astype(np.int32))
    scalings = [image._store.scaling() for image in images]
    plain = all(scaling.is_identity for scaling in scalings)
    scaling = None if plain else np.array([[s.slope, s.inter] for s in scalings], np.float64)
    with backend.activate():
        rows = backend.xp.empty((len(images), int(np.count_nonzero(inside))), dtype)

    def fill(i: int, out: NDArray[Any]) -> None:
        np.copyto(out, images[i]._store.volume(0))  # also the other byte order
        images[i].release()

    part = max(1, _PART_BYTES // max(1, stored.itemsize * inside.size))
    for items, volumes in backend.stream(fill, len(images), inside.shape[::-1], stored, part):
        factors = None if scaling is None else scaling[items]
        with backend.activate():
            rows[items] = backend.gather(volumes.transpose(0, 3, 2, 1), columns, rows.shape[1], factors, rows.dtype)
    return rows


def _check(images: Sequence[Image], inside: NDArray[np.bool_]) -> None:
    if not images:
        raise DataError("no image to read", "give one or more")
    wrong = [image for image in images if image.shape != inside.shape or image.n_volumes != 1]
    if wrong:
        listed = ", ".join(f"{image.name} {(*image.shape, image.n_volumes)}" for image in wrong[:10])
        raise DataError(
            f"the mask has shape {inside.shape}, but {len(wrong)} of {len(images)} images differ: {listed}",
            "give 3-D images on the grid of the mask",
        )
