"""The steps of `gpuroi.roi` with nilearn and SciPy, as its documentation lists them."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import scipy.ndimage
import scipy.stats


def reference_roi(
    runs,
    names,
    first,
    second,
    *,
    fwhm=6.0,
    threshold=5.0,
    mask=None,
    dilate=1,
    min_region_size=0.0,
    connectivity=6,
    equal_var=True,
):
    """Return the atlas, t, -log10 p and the signals of `runs`, 4-D images on one grid."""
    smoothed = np.concatenate([smooth_run(run, fwhm) for run in runs], axis=-1)
    names = np.asarray(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant and missing voxels
        test = scipy.stats.ttest_ind(
            smoothed[..., names == first], smoothed[..., names == second], axis=-1, equal_var=equal_var
        )
        log10p = -np.log10(test.pvalue)
    kept = log10p >= threshold
    if mask is not None:
        kept &= mask
    if dilate:
        kept = scipy.ndimage.binary_dilation(kept, iterations=dilate)
    structure = scipy.ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labels, n = scipy.ndimage.label(kept, structure)
    voxel_mm3 = abs(np.linalg.det(runs[0].affine[:3, :3]))
    atlas = np.zeros(labels.shape, np.int32)
    for region in range(1, n + 1):
        inside = labels == region
        if inside.sum() * voxel_mm3 >= min_region_size:
            atlas[inside] = atlas.max() + 1
    signals = np.stack([smoothed[atlas == i].mean(axis=0) for i in range(1, atlas.max() + 1)] or [[]], axis=-1)
    return atlas, test.statistic, log10p, signals


def smooth_run(run, fwhm):
    """Smooth by nilearn, in float64; missing voxels stay missing."""
    from nilearn.image import smooth_img

    values = np.asarray(run.dataobj, dtype=np.float64)
    if not fwhm:
        return values
    result = smooth_img(nibabel.Nifti1Image(np.nan_to_num(values, nan=0.0), run.affine), fwhm).get_fdata()
    result[np.isnan(values)] = np.nan
    return result
