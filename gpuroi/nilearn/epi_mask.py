"""A brain mask from functional images: what lies above the sparsest part of the histogram."""

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
from gpuroi.ops import smooth

__all__ = ["compute_epi_mask"]


def compute_epi_mask(
    epi_img: Any,
    lower_cutoff: float = 0.2,
    upper_cutoff: float = 0.85,
    connected: bool = True,
    opening: bool | int = 2,
    exclude_zeros: bool = False,
    ensure_finite: bool = True,
    target_affine: Any = None,
    target_shape: Any = None,
    memory: Any = None,
    verbose: int = 0,
) -> Any:
    """Compute a brain mask from fMRI images; as `nilearn.masking.compute_epi_mask`.

    The threshold lies in the middle of the widest gap between neighbouring values of the mean image, between two
    fractions of its sorted values; the mask is then opened, and its largest component kept.

    Parameters
    ----------
    epi_img : path, pattern, nibabel image, or (nested) list of these
        3-D (a mean image) or 4-D.
    lower_cutoff, upper_cutoff : float, default 0.2 and 0.85
        Fractions of the sorted values between which the gap is looked for. If the mask is too small or too large
        change the lower one first.
    connected : bool, default True
        Keep only the largest component (6 neighbours).
    opening : bool or int, default 2
        Voxels to open the mask by; False or 0 also leaves the mean image unsmoothed, which otherwise is smoothed by
        1 voxel FWHM.
    exclude_zeros : bool, default False
        Leave zeros out of the sorted values: for images padded with them.
    ensure_finite : bool, default True
        NaN and infinity become 0.
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
        Images of other than 3 or 4 axes; no two values between the cutoffs; broken files.

    Notes
    -----
    Volumes are read one after the other; the mean is summed in float64. Beside nilearn: for integer images and no
    opening the threshold is computed in floats, where nilearn's overflows for small unsigned types.

    References
    ----------
    .. [1] The rule is T. Nichols'; see the documentation of nilearn.masking.

    Examples
    --------
    >>> import nibabel
    >>> data = np.random.default_rng(0).normal(size=(9, 9, 9))
    >>> data[2:7, 2:7, 2:7] += 20
    >>> mask = compute_epi_mask(nibabel.Nifti1Image(data, np.eye(4)), opening=False)
    >>> int(np.asarray(mask.dataobj).sum())
    125
    """
    check_types(
        lower_cutoff=lower_cutoff,
        upper_cutoff=upper_cutoff,
        connected=connected,
        opening=opening,
        target_affine=target_affine,
        target_shape=target_shape,
        verbose=verbose,
    )
    if verbose:
        print("[compute_epi_mask] EPI mask computation")
    series = open_series(epi_img)
    mean, affine = mean_on_grid(series, target_affine, target_shape)
    backend = get_backend("auto")
    with backend.activate():
        values = backend.asarray(_as_float(mean))
        values = _smoothed(backend.xp, values) if opening else values
        values = backend.xp.where(backend.xp.isfinite(values), values, 0) if ensure_finite else values
        mask = values >= _threshold(backend.xp, values, lower_cutoff, upper_cutoff, exclude_zeros, series.name)
        hint = "Are you sure that input data are EPI images not detrended. "
        mask = backend.to_numpy(clean_mask(mask, opening=int(opening), connected=connected, hint=hint))
    return new_img_like(series.reference, mask, affine)


def _as_float(mean: NDArray[Any]) -> NDArray[Any]:
    """A mean of float32 stays; the integers of a 3-D image become what nilearn smooths them as."""
    if mean.dtype.kind == "f":
        return mean
    return mean.astype(np.float64 if mean.dtype.itemsize == 8 else np.float32)


def _smoothed(xp: Any, values: Any) -> Any:
    """Smooth by 1 voxel; NaN counts as 0 and stays NaN.

    Axis by axis in float64, each result rounded to the type of the values: SciPy's rounding. In float32 throughout,
    another gap came out as the widest where the noise is as small as the rounding (a mean of 1e6, a deviation of 1).
    """
    smoothed = xp.where(xp.isfinite(values), values, 0)
    for width in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        smoothed = smooth(smoothed.astype(np.float64), width).astype(values.dtype)
    return xp.where(xp.isnan(values), values, smoothed)


def _threshold(xp: Any, values: Any, lower: float, upper: float, exclude_zeros: bool, name: str) -> Any:
    """The middle of the widest gap between sorted values; a device scalar."""
    ascending = xp.sort(values.ravel())
    if exclude_zeros:
        ascending = ascending[ascending != 0]  # sync: reads their number
    n = int(ascending.size)
    first, last = int(np.floor(lower * n)), min(int(np.floor(upper * n)), n - 1)
    gaps = ascending[first + 1 : last + 1] - ascending[first:last]
    if not gaps.size:
        what = "values other than 0" if exclude_zeros else "values"
        raise DataError(
            f"{name}: the mean image has {n} {what}: too few to look for a threshold between the fractions {lower} "
            f"and {upper} of them",
            "choose other cutoffs",
        )
    widest = first + xp.argmax(gaps)
    return 0.5 * (ascending[widest] + ascending[widest + 1])
