"""Each case as it is defined: NumPy and SciPy in float64, written to be read, never timed.

A function takes the input and returns the outputs by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import FileSet, MapBatch, Run, Sample, Samples
from benchmarks.settings import (
    CONTRAST,
    CUTOFF,
    FOREGROUND,
    FWHM_MM,
    LOG10P,
    MIN_VOXELS,
    PERCENTILE,
    SIGMA_VOX,
    Outputs,
)
from benchmarks.settings import structure as structure_of

__all__ = [
    "dilate",
    "label",
    "label_means",
    "read_maps",
    "roi",
    "smooth",
    "threshold_clusters",
    "threshold_percentile",
    "ttest_1samp",
    "ttest_ind",
]

_BLOCK = 20_000  # voxels tested at a time: a thousand observations of a brain in float64 are 2 GB


def threshold_clusters(maps: MapBatch) -> Outputs:
    from scipy.ndimage import label as scipy_label

    out = np.zeros_like(maps.volumes)
    for i, volume in enumerate(maps.volumes):
        for passing in (volume >= CUTOFF, volume <= -CUTOFF):
            labels, n = scipy_label(passing)
            large = np.bincount(labels.ravel(), minlength=n + 1) >= MIN_VOXELS
            large[0] = False
            np.copyto(out[i], volume, where=large[labels])
    return {"values": out}


def threshold_percentile(maps: MapBatch) -> Outputs:
    out = np.zeros_like(maps.volumes)
    for i, volume in enumerate(maps.volumes):
        size = np.abs(volume)
        np.copyto(out[i], volume, where=size >= np.float32(np.percentile(size.astype(np.float64), PERCENTILE)))
    return {"values": out}


def smooth(maps: MapBatch) -> Outputs:
    from scipy.ndimage import gaussian_filter

    out = np.empty_like(maps.volumes)
    for i, volume in enumerate(maps.volumes):
        out[i] = gaussian_filter(volume.astype(np.float64), SIGMA_VOX)
    return {"values": out}


def dilate(connectivity: int) -> Any:
    def compute(maps: MapBatch) -> Outputs:
        from scipy.ndimage import binary_dilation

        structure = structure_of(connectivity)
        return {"mask": np.stack([binary_dilation(volume > FOREGROUND, structure) for volume in maps.volumes])}

    return compute


def label(connectivity: int) -> Any:
    def compute(maps: MapBatch) -> Outputs:
        from scipy.ndimage import label as scipy_label

        labels = np.empty(maps.volumes.shape, np.int32)
        structure = structure_of(connectivity)
        counts = [scipy_label(v > FOREGROUND, structure, labels[i]) for i, v in enumerate(maps.volumes)]
        return {"labels": labels, "counts": np.array(counts)}

    return compute


def ttest_ind(samples: Samples) -> Outputs:
    from scipy.stats import ttest_ind as scipy_test

    a, b = samples.a, samples.b
    return _in_blocks(lambda at: scipy_test(a[:, at].astype(float), b[:, at].astype(float)), a.shape[1])


def ttest_1samp(sample: Sample) -> Outputs:
    from scipy.stats import ttest_1samp as scipy_test

    return _in_blocks(lambda at: scipy_test(sample.values[:, at].astype(float), 0.0), sample.values.shape[1])


def label_means(maps: MapBatch) -> Outputs:
    assert maps.labels is not None
    labels = maps.labels.ravel()
    counts = np.bincount(labels)[1:]
    sums = [np.bincount(labels, weights=volume.ravel())[1:] for volume in maps.volumes]
    return {"means": np.stack(sums) / counts}


def roi(run: Run) -> Outputs:
    from scipy import ndimage, stats

    nibabel = _nibabel()
    data = np.asarray(nibabel.load(run.path).dataobj, dtype=np.float64)
    sigma = [0.0 if FWHM_MM == 0 else FWHM_MM / zoom / np.sqrt(8 * np.log(2)) for zoom in run.zooms_mm]
    smoothed = ndimage.gaussian_filter(data, [*sigma, 0.0])
    first, second = (smoothed[..., np.array(run.conditions) == name] for name in CONTRAST)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.ttest_ind(first, second, axis=-1).pvalue
        kept = -np.log10(p) >= LOG10P
    kept &= np.asarray(nibabel.load(run.mask_path).dataobj) != 0
    labels, n = ndimage.label(ndimage.binary_dilation(kept))
    signals = [ndimage.mean(smoothed[..., i], labels, range(1, n + 1)) for i in range(run.shape[3])]
    return {"labels": labels, "signals": np.array(signals)}


def read_maps(files: FileSet) -> Outputs:
    nibabel = _nibabel()
    return {"matrix": np.stack([np.asarray(nibabel.load(p).dataobj)[files.mask] for p in files.paths])}


def _nibabel() -> Any:
    import nibabel  # typed in parts only

    return nibabel


def _in_blocks(test: Any, v: int) -> Outputs:
    """Statistic and p-value over blocks of voxels; log10 p from the p-value, which does not underflow here."""
    parts = [test(slice(start, start + _BLOCK)) for start in range(0, v, _BLOCK)]
    statistic: NDArray[Any] = np.concatenate([part.statistic for part in parts])
    pvalue: NDArray[Any] = np.concatenate([part.pvalue for part in parts])
    return {"statistic": statistic, "pvalue": pvalue, "log10p": np.log10(pvalue)}
