"""Thresholds of z-maps for a rate of false positives, and the maps that pass them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuroi.backends import backend_of
from gpuroi.errors import DataError, UsageError
from gpuroi.nilearn import exceptions
from gpuroi.nilearn.argument_checks import check_types
from gpuroi.nilearn.background_mask import background_mask
from gpuroi.nilearn.image_threshold import threshold_img
from gpuroi.nilearn.masking import load_mask_img, masked_series
from gpuroi.nilearn.mean_volume import mean_volume
from gpuroi.nilearn.niimg import check_niimg, check_niimg_3d, is_surface
from gpuroi.nilearn.resampling import resample_img
from gpuroi.nilearn.same_grid import same_grid
from gpuroi.nilearn.surface_images import surface_data, surface_like
from gpuroi.nilearn.surface_masks import surface_series
from gpuroi.nilearn.volume_series import open_series

__all__ = ["fdr_threshold", "threshold_stats_img"]

_HEIGHT_CONTROLS = ("fpr", "fdr", "bonferroni", None)


def threshold_stats_img(
    stat_img: Any = None,
    mask_img: Any = None,
    alpha: float = 0.001,
    threshold: float | str | None = None,
    height_control: str | None = "fpr",
    cluster_threshold: int = 0,
    two_sided: bool = True,
) -> tuple[Any, Any]:
    """Find the threshold of a z-map, and set what does not reach it to 0; as `nilearn.glm.threshold_stats_img`.

    Parameters
    ----------
    stat_img : path, nibabel image, SurfaceImage or None
        z-values, NaN and infinity as 0. None gives the threshold alone, where it does not depend on the data.
    mask_img : path, nibabel image or SurfaceImage, optional
        The elements that are tested. Without it they are those that differ from the image's border (on surfaces
        those that are finite), which is a guess: "fdr" and "bonferroni" count tests, so give them the mask.
    alpha : float, default 0.001
        Rate of false positives ("fpr", "bonferroni") or of false discoveries ("fdr"); of both tails together if
        two-sided.
    threshold : float, optional
        Threshold in z, with ``height_control=None`` only; 3.0 if not given.
    height_control : {"fpr", "fdr", "bonferroni", None}, default "fpr"
        None: no control, `threshold` itself.
    cluster_threshold : int, default 0
        Keep only clusters of at least this many elements.
    two_sided : bool, default True
        Threshold |z|.

    Returns
    -------
    thresholded_map : nibabel image, SurfaceImage or None
        0 where z does not reach the threshold. If nothing does, an image of zeros.
    threshold : float
        The threshold that was used; infinite if no threshold controls the false discoveries.

    Raises
    ------
    TypeError
        Anything that is no image; arguments of other types.
    UsageError
        alpha outside [0, 1]; another `height_control`; a negative cluster size; "fdr" or "bonferroni" without a map.
    DataError
        Without a mask: a map whose values are all alike; a mask that is empty.

    Notes
    -----
    p-values come from the survival function, so that none is rounded to 0 below 1e-16. Beside nilearn: a mask on
    another grid is brought to the grid of the map by nearest neighbour, and its voxels there are the tests (nilearn
    resamples the map to the mask to find the threshold); "fpr" and None need no mask, and give a map of zeros from
    one of zeros (there an error); alpha outside [0, 1] is an error, there a threshold of NaN.

    Examples
    --------
    >>> import nibabel
    >>> z = np.array([[[0.0, 1.0, 4.0, -5.0]]])
    >>> image, threshold = threshold_stats_img(nibabel.Nifti1Image(z, np.eye(4)), alpha=0.001)
    >>> np.asarray(image.dataobj).tolist(), round(float(threshold), 3)
    ([[[0.0, 0.0, 4.0, -5.0]]], 3.291)
    """
    threshold = _checked(threshold, height_control, cluster_threshold)
    _check_alpha(alpha)
    tail = alpha / 2 if two_sided else alpha
    if height_control == "fpr":
        threshold = _z_of(tail)
    if stat_img is None:
        if height_control not in ("fpr", None):
            raise UsageError(f"'stat_img' cannot be None for {height_control=}", "give the map")
        return None, threshold
    if not is_surface(stat_img):
        stat_img = check_niimg(stat_img)
    if height_control in ("fdr", "bonferroni"):
        values = _tested(stat_img, mask_img)
        if height_control == "bonferroni":
            threshold = _z_of(tail / values.size)
        else:
            threshold = fdr_threshold(np.abs(values) if two_sided else values, tail)
    thresholded: Any = threshold_img(
        stat_img,
        threshold,
        cluster_threshold=cluster_threshold,
        two_sided=two_sided,
        mask_img=mask_img,
    )
    return thresholded, threshold


def fdr_threshold(z_vals: Any, alpha: float) -> Any:
    """Return the z above which the false discovery rate is controlled; as `nilearn.glm.fdr_threshold`.

    Benjamini and Hochberg's step-up rule on one-sided p-values: the smallest z whose p is below alpha times its rank
    over the number of tests.

    Parameters
    ----------
    z_vals : array, NumPy or CuPy
        z-values of one family; NaN was not tested.
    alpha : float
        Rate of false discoveries; give half of it for |z|.

    Returns
    -------
    float
        1e-12 below that z, in the type of `z_vals`, so that z itself passes; infinite if there is none.

    Raises
    ------
    UsageError
        alpha outside [0, 1].

    Notes
    -----
    Beside nilearn, NaN does not count as a test, and an empty family gives infinity.

    References
    ----------
    .. [1] Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate. Journal of the Royal Statistical
       Society B 57, 289-300. doi:10.1111/j.2517-6161.1995.tb02031.x

    Examples
    --------
    >>> round(float(fdr_threshold([4.0, 3.5, 2.8, 2.5, 1.9, 1.2], 0.05)), 2)
    1.9
    """
    from scipy.special import ndtr

    _check_alpha(alpha)
    z = np.ravel(backend_of(z_vals).to_numpy(backend_of(z_vals).asarray(z_vals)))  # sync: copies to the host
    n = int(np.count_nonzero(~np.isnan(z)))
    # p < alpha for whatever passes: only those few are sorted.
    descending = np.sort(z[z > _z_of(alpha) - 1e-6])[::-1]
    p = ndtr(-descending.astype(np.float64))
    below = np.flatnonzero(p < alpha * np.arange(1, p.size + 1) / (n or 1))
    return descending[below[-1]] - 1e-12 if below.size else np.inf


def _checked(threshold: Any, height_control: Any, cluster_threshold: Any) -> Any:
    """Return the threshold, if it is the one to use, with nilearn's warnings."""
    if height_control is None:
        threshold = 3.0 if threshold is None else threshold
        if threshold == 3.0:
            exceptions.warn(
                f"\nFrom nilearn version>=0.15, the default 'threshold' will be set to {_z_of(0.001)}.", FutureWarning
            )
    elif threshold is not None:
        exceptions.warn(
            f"\n'threshold={float(threshold)}' is not used with '{height_control=}'."
            "\n'threshold' is only used when 'height_control=None'. \n'threshold' was set to 'None'. "
        )
        threshold = None
    if height_control not in _HEIGHT_CONTROLS:
        raise UsageError(f"'height_control' must be one of {_HEIGHT_CONTROLS}.\n'{height_control}' was provided.")
    if not isinstance(threshold, str):  # a percentile is for `threshold_img`
        check_types(threshold=threshold)
    check_types(cluster_threshold=cluster_threshold)
    if cluster_threshold < 0:
        raise UsageError(f"'cluster_threshold' must be > 0. Got {cluster_threshold=}")
    return threshold


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha should be between 0 and 1. {alpha} was provided", "the usual choice is 0.001 or 0.05")


def _z_of(p: float) -> Any:
    """The z whose upper tail is p."""
    from scipy.special import ndtri

    return -ndtri(p)


def _tested(stat_img: Any, mask_img: Any) -> NDArray[Any]:
    """All values that are tested, in one row."""
    if is_surface(stat_img):
        mask = _finite_vertices(stat_img) if mask_img is None else load_mask_img(mask_img)[0]
        if not is_surface(mask):
            raise TypeError(f"the map is a SurfaceImage, but the mask is {type(mask_img).__name__}")
        return surface_series([stat_img], mask).ravel()
    series = open_series(stat_img)
    inside = background_mask(mean_volume(series)) if mask_img is None else _mask_on_grid(mask_img, stat_img)
    return masked_series(series, inside, series.affine).ravel()


def _mask_on_grid(mask_img: Any, img: Any) -> NDArray[np.bool_]:
    mask = check_niimg_3d(mask_img)
    if not same_grid(mask, img):
        mask = resample_img(mask, target_affine=img.affine, target_shape=img.shape[:3], interpolation="nearest")
    inside: NDArray[np.bool_] = load_mask_img(mask)[0]
    return inside


def _finite_vertices(stat_img: Any) -> Any:
    parts = {}
    for name, values in stat_img.data.parts.items():
        finite = np.isfinite(values.astype(np.float32))
        parts[name] = finite if finite.ndim == 1 else finite.all(axis=1)
    mask = surface_like(stat_img, parts)
    inside = surface_data(mask)
    if not inside.any():
        raise DataError("no vertex of the map is finite", "check how the map was made")
    if not inside.all():
        exceptions.warn(
            "Non-finite values detected in the input image. The computed mask will mask out these vertices."
        )
    return mask
