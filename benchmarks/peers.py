"""Each case as its peers compute it: as a user of theirs would write it, with the fastest documented call.

A function takes the input, prepares what is not timed, and returns the call that is.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from benchmarks.inputs import VOXEL_MM, FileSet, MapBatch, Run, Sample, Samples
from benchmarks.settings import (
    CONTRAST,
    CUTOFF,
    FOREGROUND,
    FWHM_MM,
    LOG10P,
    MIN_VOXELS,
    PERCENTILE,
    SIGMA_VOX,
    Call,
    Outputs,
)
from benchmarks.settings import structure as structure_of

__all__ = [
    "MODULES",
    "cc3d_label",
    "nibabel_read",
    "nilearn_means",
    "nilearn_percentile",
    "nilearn_read",
    "nilearn_roi",
    "nilearn_smooth",
    "nilearn_threshold",
    "scipy_dilate",
    "scipy_label",
    "scipy_means",
    "scipy_smooth",
    "scipy_ttest_1samp",
    "scipy_ttest_ind",
]

MODULES = {
    "cc3d": "cc3d",
    "cucim": "cucim",
    "cupy": "cupyx",
    "nibabel": "nibabel",
    "nilearn": "nilearn",
    "scipy": "scipy",
}
"""What each part of a peer's name imports; "nilearn+scipy" needs both."""


def nilearn_threshold(maps: MapBatch) -> Call:
    return _nilearn_threshold(maps, CUTOFF, MIN_VOXELS)


def nilearn_percentile(maps: MapBatch) -> Call:
    return _nilearn_threshold(maps, f"{PERCENTILE}%", 0)


def nilearn_smooth(maps: MapBatch) -> Call:
    from nilearn.image import smooth_img

    image = _image(maps)
    return lambda: {"values": _volumes(smooth_img(image, FWHM_MM))}


def scipy_smooth(maps: MapBatch) -> Call:
    from scipy.ndimage import gaussian_filter

    def call() -> Outputs:
        out = np.empty_like(maps.volumes)
        for volume, smoothed in zip(maps.volumes, out, strict=True):
            gaussian_filter(volume, SIGMA_VOX, output=smoothed)
        return {"values": out}

    return call


def scipy_dilate(connectivity: int) -> Any:
    structure = structure_of(connectivity)

    def prepare(maps: MapBatch) -> Call:
        from scipy.ndimage import binary_dilation

        masks = maps.volumes > FOREGROUND

        def call() -> Outputs:
            out = np.empty_like(masks)
            for mask, dilated in zip(masks, out, strict=True):
                binary_dilation(mask, structure, output=dilated)
            return {"mask": out}

        return call

    return prepare


def scipy_label(connectivity: int) -> Any:
    structure = structure_of(connectivity)

    def prepare(maps: MapBatch) -> Call:
        from scipy.ndimage import label

        masks = maps.volumes > FOREGROUND

        def call() -> Outputs:
            labels = np.empty(masks.shape, np.int32)
            counts = [label(mask, structure, out) for mask, out in zip(masks, labels, strict=True)]
            return {"labels": labels, "counts": np.array(counts)}

        return call

    return prepare


def cc3d_label(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        import cc3d

        masks, connected_components = maps.volumes > FOREGROUND, cast("Any", cc3d.connected_components)

        def call() -> Outputs:
            found = [connected_components(mask, connectivity=connectivity, return_N=True) for mask in masks]
            return {"labels": [labels for labels, _ in found], "counts": [n for _, n in found]}

        return call

    return prepare


def scipy_ttest_ind(samples: Samples) -> Call:
    from scipy.stats import ttest_ind

    return lambda: _tested(ttest_ind(samples.a, samples.b))


def scipy_ttest_1samp(sample: Sample) -> Call:
    from scipy.stats import ttest_1samp

    return lambda: _tested(ttest_1samp(sample.values, 0.0))


def scipy_means(maps: MapBatch) -> Call:
    from scipy.ndimage import mean

    assert maps.labels is not None
    labels, ids = maps.labels, np.arange(1, int(maps.labels.max()) + 1)
    return lambda: {"means": [mean(volume, labels, ids) for volume in maps.volumes]}


def nilearn_means(maps: MapBatch) -> Call:
    from nilearn.maskers import NiftiLabelsMasker

    image = _image(maps)
    labels = _nibabel().Nifti1Image(maps.labels, image.affine)

    def call() -> Outputs:
        masker = NiftiLabelsMasker(labels, standardize=None, resampling_target=None, reports=False)
        return {"means": masker.fit_transform(image)}

    return call


def nilearn_roi(run: Run) -> Call:
    """The steps of nilearn's example of ROI extraction, from the files on."""
    from nilearn.image import load_img, smooth_img
    from nilearn.maskers import NiftiLabelsMasker
    from scipy.ndimage import binary_dilation, label
    from scipy.stats import ttest_ind

    nibabel, conditions = _nibabel(), np.array(run.conditions)

    def call() -> Outputs:
        smoothed = smooth_img(run.path, FWHM_MM)
        data = smoothed.get_fdata()
        first, second = (data[..., conditions == name] for name in CONTRAST)
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = -np.log10(ttest_ind(first, second, axis=-1).pvalue) >= LOG10P
        kept &= load_img(run.mask_path).get_fdata() != 0
        labels, _ = label(binary_dilation(kept))
        masker = NiftiLabelsMasker(
            nibabel.Nifti1Image(labels.astype(np.int32), smoothed.affine),
            standardize=None,
            resampling_target=None,
            reports=False,
        )
        return {"labels": labels, "signals": masker.fit_transform(smoothed)}

    return call


def nibabel_read(files: FileSet) -> Call:
    nibabel = _nibabel()

    def call() -> Outputs:
        matrix = np.empty((len(files.paths), int(files.mask.sum())), np.float32)
        for row, path in zip(matrix, files.paths, strict=True):
            row[:] = np.asarray(nibabel.load(path).dataobj)[files.mask]
        return {"matrix": matrix}

    return call


def nilearn_read(files: FileSet) -> Call:
    from nilearn.masking import apply_mask

    paths, mask = [str(p) for p in files.paths], str(files.mask_path)
    return lambda: {"matrix": apply_mask(paths, mask)}


def _nilearn_threshold(maps: MapBatch, cutoff: float | str, min_voxels: int) -> Call:
    from nilearn.image import threshold_img

    # Of a 4-D image nilearn takes one percentile over all volumes: map by map is the same question.
    images = [_image(MapBatch(maps.volumes[i : i + 1], maps.mask)) for i in range(len(maps.volumes))]

    def call() -> Outputs:
        kept = [threshold_img(image, cutoff, cluster_threshold=min_voxels, two_sided=True) for image in images]
        return {"values": [np.asarray(image.dataobj) for image in kept]}

    return call


def _image(maps: MapBatch) -> Any:
    """The maps as one image in memory: 3-D for one map, else 4-D; the voxels are not copied."""

    volumes = maps.volumes[0] if len(maps.volumes) == 1 else np.moveaxis(maps.volumes, 0, -1)
    return _nibabel().Nifti1Image(volumes, np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0]))


def _nibabel() -> Any:
    import nibabel  # typed in parts only

    return nibabel


def _volumes(image: Any) -> Any:
    data = np.asarray(image.dataobj)
    return data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0)


def _tested(result: Any) -> Outputs:
    return {"statistic": result.statistic, "pvalue": result.pvalue}
