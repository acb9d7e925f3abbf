"""Each case as its peers compute it: as a user of theirs would write it, with the fastest documented call.

A function takes the input, prepares what is not timed, and returns the call that is.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import numpy as np

from benchmarks.inputs import VOXEL_MM, Cohort, FileSet, MapBatch, Run, Sample, Samples
from benchmarks.settings import (
    CLUSTER_THRESHOLD,
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
    Steps,
)
from benchmarks.settings import structure as structure_of

__all__ = [
    "MODULES",
    "cc3d_label",
    "nibabel_read",
    "nilearn_cluster_maxima",
    "nilearn_means",
    "nilearn_percentile",
    "nilearn_permutation",
    "nilearn_roi",
    "nilearn_smooth",
    "nilearn_tfce",
    "nilearn_threshold",
    "numpy_mean",
    "scipy_cluster_maxima",
    "scipy_dilate",
    "scipy_label",
    "scipy_means",
    "scipy_smooth",
    "scipy_ttest_1samp",
    "scipy_ttest_ind",
    "tfce_tfce",
]

MODULES = {
    "cc3d": "cc3d",
    "cucim": "cucim",
    "cupy": "cupyx",
    "nibabel": "nibabel",
    "nilearn": "nilearn",
    "nilearn-jobs": "nilearn",
    "nilearn-max-t": "nilearn",
    "numpy": "numpy",
    "scikit-learn": "sklearn",
    "scipy": "scipy",
    "tfce": "tfce",
}
"""What each part of a peer's name imports; "nilearn+scipy" needs both.

"nilearn-jobs" is nilearn with a process a core, "nilearn-max-t" nilearn where it gives one statistic of several.
"""


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


def numpy_mean(maps: MapBatch) -> Call:
    return lambda: {"values": maps.volumes.mean(axis=0, dtype=np.float64)[None]}


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


def scipy_cluster_maxima(maps: MapBatch) -> Call:
    from scipy.ndimage import label

    def call() -> Outputs:
        found = np.zeros((2, len(maps.volumes)))
        for i, volume in enumerate(maps.volumes):
            for signed in (volume, -volume):
                labels, n = label(signed > CLUSTER_THRESHOLD)
                if n:
                    inside = labels != 0
                    members, excess = labels[inside], signed[inside] - CLUSTER_THRESHOLD
                    found[0, i] = max(found[0, i], np.bincount(members).max())
                    found[1, i] = max(found[1, i], np.bincount(members, weights=excess).max())
        return {"size": found[0], "mass": found[1]}

    return call


def nilearn_cluster_maxima(maps: MapBatch) -> Call:
    from nilearn.mass_univariate._utils import calculate_cluster_measures

    arrays, structure = np.moveaxis(maps.volumes, 0, -1), structure_of(6)

    def call() -> Outputs:
        size, mass = calculate_cluster_measures(arrays, CLUSTER_THRESHOLD, structure, two_sided_test=True)
        return {"size": size, "mass": mass}

    return call


def nilearn_tfce(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        from nilearn.mass_univariate._utils import calculate_tfce

        arrays, structure = np.moveaxis(maps.volumes, 0, -1), structure_of(connectivity)
        step = np.abs(maps.volumes[0]).max() / 100  # which nilearn does not multiply by

        def call() -> Outputs:
            return {"first": step * calculate_tfce(arrays, structure)[..., 0][maps.mask]}

        return call

    return prepare


def tfce_tfce(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        from tfce import tfce

        # As it wants them: volumes in Fortran order, the maps last, and a thread a map.
        arrays = np.asfortranarray(np.moveaxis(maps.volumes, 0, -1))
        jobs = _cores()
        return lambda: {"first": tfce(arrays, connectivity=connectivity, n_jobs=jobs)[..., 0][maps.mask]}

    return prepare


def nilearn_permutation(statistic: str, *, threads: int | None = None, jobs: bool = False) -> Any:
    """The same test by `permuted_ols`, which adds the intercept itself: among the confounds it would flip signs."""

    def prepare(cohort: Cohort) -> Call:
        from nilearn.maskers import NiftiMasker
        from nilearn.mass_univariate import permuted_ols
        from scipy.stats import t as student

        from benchmarks.ours import one_thread

        mask = _nibabel().Nifti1Image(cohort.mask.astype(np.uint8), np.diag([VOXEL_MM, VOXEL_MM, VOXEL_MM, 1.0]))
        masker = NiftiMasker(mask, standardize=None).fit()
        n, p = cohort.design.shape
        options: dict[str, Any] = {
            "max_t": {},
            "clusters": {"masker": masker, "threshold": 2 * student.sf(CLUSTER_THRESHOLD, n - p)},
            "tfce": {"masker": masker, "tfce": True},
        }[statistic]
        processes = _cores() if jobs else 1

        def run(n_perm: int) -> Outputs:
            with one_thread() if threads == 1 else nullcontext():
                out = permuted_ols(
                    cohort.design[:, :1],
                    cohort.data,
                    np.ascontiguousarray(cohort.design[:, 2:]),
                    n_perm=n_perm,
                    n_jobs=processes,
                    random_state=0,
                    **options,
                )
            found = {"t": out["t"][0]}
            if "size" in out:
                found["observed_size"] = out["size"].max()
            if "tfce" in out:  # nilearn does not multiply by the step
                found["observed_tfce"] = np.abs(out["tfce"]).max() * np.abs(out["t"]).max() / 100
            return found

        steps = {"max_t": 32, "clusters": 8, "tfce": 2}[statistic] * processes
        return Steps(run, processes + 1, processes + 1 + steps)

    return prepare


def _cores() -> int:
    from gpuroi.backends.threads import n_threads

    return n_threads()


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
