"""A mask from the images themselves: all that differs from the value at the border."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.errors import DataError

__all__ = ["background_mask"]


def background_mask(mean: NDArray[Any], *, border_size: int = 2) -> NDArray[np.bool_]:
    """Return where a mean image differs from its background.

    The background is the median of the border; where the border holds NaN, as in SPM's images, it is NaN.

    Parameters
    ----------
    mean : floating array, shape (X, Y, Z)
        Mean of the images.
    border_size : int, default 2
        Thickness of the border, voxels.

    Returns
    -------
    bool array, shape (X, Y, Z)

    Raises
    ------
    DataError
        If nothing differs.

    Notes
    -----
    As `nilearn.masking.compute_background_mask` with its defaults, which `NiftiMasker` uses; there an empty mask is
    a warning.

    Examples
    --------
    >>> mean = np.zeros((6, 6, 6))
    >>> mean[2:4, 2:4, 2:4] = [[[1, 2], [3, 4]], [[5, 6], [7, 0]]]
    >>> int(background_mask(mean).sum())
    7
    """
    border = _border(mean, border_size)
    inside = ~np.isnan(mean) if np.isnan(border).any() else mean != np.median(border)
    if not inside.any():
        raise DataError(
            "no voxel of the mean image differs from the median of its border: no mask can be made of it",
            "pass mask=, such as the mask of the group or of the template",
        )
    return np.asarray(inside)


def _border(values: NDArray[Any], size: int) -> NDArray[Any]:
    """The outermost slices of each axis; voxels at edges come more than once, as in nilearn."""
    ends = (slice(None, size), slice(-size, None))
    return np.concatenate([np.moveaxis(values, axis, 0)[end].ravel() for axis in range(3) for end in ends])
