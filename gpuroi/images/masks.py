"""Masks: which voxels count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpuroi.errors import DataError
from gpuroi.images.grid import check_same_grid
from gpuroi.images.read import Image, open_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_mask"]


def read_mask(source: Any, like: Image | None = None) -> NDArray[np.bool_]:
    """Return a mask: True where the image is neither 0 nor NaN.

    Parameters
    ----------
    source : path, nibabel image or Image
        One volume, 3-D or 4-D with one frame.
    like : Image, optional
        The image to be masked; the mask must lie on its grid.

    Returns
    -------
    bool array, shape (X, Y, Z)

    Raises
    ------
    DataError
        If the mask has several volumes, or no voxel is inside.
    GridError
        If it lies on another grid than `like`.
    """
    image = open_image(source)
    if image.n_volumes != 1:
        raise DataError(
            f"{image.name}: {image.n_volumes} volumes; expected a mask of one", "choose one volume of the mask"
        )
    if like is not None:
        check_same_grid([image], reference=like)
    values = image.read_one(dtype=None)
    inside: NDArray[np.bool_] = values != 0
    if values.dtype.kind == "f":
        inside &= ~np.isnan(values)
    if not inside.any():
        raise DataError(f"{image.name}: the mask is empty: every voxel is 0 or NaN", "give a mask with voxels inside")
    return inside
