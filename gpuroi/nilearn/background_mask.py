"""A mask from the images themselves: all that differs from the value at the border."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import get_backend
from gpuroi.errors import DataError
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.image_files import new_img_like
from gpuroi.nilearn.mask_cleaning import clean_mask
from gpuroi.nilearn.mean_volume import mean_on_grid
from gpuroi.nilearn.volume_series import open_series

__all__ = ["background_mask", "compute_background_mask"]


def compute_background_mask(
    data_imgs: Any,
    border_size: int = 2,
    connected: bool = False,
    opening: bool | int = False,
    target_affine: Any = None,
    target_shape: Any = None,
    memory: Any = None,
    verbose: int = 0,
) -> Any:
    """Compute a mask of what differs from the border of the image; as `nilearn.masking.compute_background_mask`.

    Parameters
    ----------
    data_imgs : path, pattern, nibabel image, or (nested) list of these
        3-D or 4-D; of several volumes the mean counts.
    border_size : int, default 2
        Thickness of the border, voxels. The background is the median of its values, or NaN if one is NaN.
    connected : bool, default False
        Keep only the largest component (6 neighbours).
    opening : bool or int, default False
        Voxels to open the mask by.
    target_affine, target_shape : array, optional
        Grid of the mask, as for `resample_img`.
    memory : object, optional
        Accepted, and not used: computing is faster than finding a kept result.
    verbose : int, default 0
        Above 0: say what is done.

    Returns
    -------
    nibabel image, uint8

    Warns
    -----
    MaskWarning
        If no voxel is left.

    Raises
    ------
    TypeError
        Anything that is no image, or arguments of other types.
    DataError
        Images of other than 3 or 4 axes; broken files.

    Examples
    --------
    >>> import nibabel
    >>> data = np.zeros((6, 6, 6))
    >>> data[2:4, 2:4, 2:4] = 1
    >>> int(np.asarray(compute_background_mask(nibabel.Nifti1Image(data, np.eye(4))).dataobj).sum())
    8
    """
    check_types(
        border_size=border_size,
        connected=connected,
        opening=opening,
        target_affine=target_affine,
        target_shape=target_shape,
        verbose=verbose,
    )
    if verbose:
        print("[compute_background_mask] Background mask computation")
    series = open_series(data_imgs)
    mean, affine = mean_on_grid(series, target_affine, target_shape)
    backend = get_backend("auto")
    with backend.activate():
        mask = backend.asarray(_differs(mean, border_size))
        hint = "Are you sure that input images have a homogeneous background."
        mask = backend.to_numpy(clean_mask(mask, opening=int(opening), connected=connected, hint=hint))
    return new_img_like(series.reference, mask, affine)


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
    inside = _differs(mean, border_size)
    if not inside.any():
        raise DataError(
            "no voxel of the mean image differs from the median of its border: no mask can be made of it",
            "pass mask=, such as the mask of the group or of the template",
        )
    return inside


def _differs(mean: NDArray[Any], border_size: int) -> NDArray[np.bool_]:
    border = _border(mean, border_size)
    return np.asarray(~np.isnan(mean) if np.isnan(border).any() else mean != np.median(border))


def _border(values: NDArray[Any], size: int) -> NDArray[Any]:
    """The outermost slices of each axis; voxels at edges come more than once, as in nilearn."""
    ends = (slice(None, size), slice(-size, None))
    return np.concatenate([np.moveaxis(values, axis, 0)[end].ravel() for axis in range(3) for end in ends])
