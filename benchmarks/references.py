"""Each case as it is defined: NumPy and SciPy in float64, written to be read, never timed.

A function takes the input and returns the outputs by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.inputs import Cohort, FileSet, MapBatch, Run, Sample, Samples
from benchmarks.settings import (
    CLUSTER_THRESHOLD,
    CONTRAST,
    CUTOFF,
    FOREGROUND,
    FWHM_MM,
    LOG10P,
    MIN_VOXELS,
    PERCENTILE,
    REARRANGED,
    SIGMA_VOX,
    Outputs,
)
from benchmarks.settings import structure as structure_of

__all__ = [
    "cluster_maxima",
    "dilate",
    "label",
    "label_means",
    "large_clusters",
    "permutation",
    "read_maps",
    "rearranged_t",
    "roi",
    "smooth",
    "tfce",
    "threshold_clusters",
    "threshold_percentile",
    "ttest_1samp",
    "ttest_ind",
]

_BLOCK = 20_000  # voxels tested at a time: a thousand observations of a brain in float64 are 2 GB


def threshold_clusters(maps: MapBatch) -> Outputs:
    return {"values": large_clusters(maps.volumes, CUTOFF)}


def large_clusters(volumes: NDArray[np.float32], cutoff: float) -> NDArray[np.float32]:
    """The values of clusters of MIN_VOXELS and more, of either sign, 0 elsewhere."""
    from scipy.ndimage import label as scipy_label

    out = np.zeros_like(volumes)
    for i, volume in enumerate(volumes):
        for passing in (volume >= cutoff, volume <= -cutoff):
            labels, n = scipy_label(passing)
            large = np.bincount(labels.ravel(), minlength=n + 1) >= MIN_VOXELS
            large[0] = False
            np.copyto(out[i], volume, where=large[labels])
    return out


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
    rows = [np.asarray(nibabel.load(p).dataobj, dtype=np.float32)[files.mask] for p in files.paths]
    return {"matrix": np.stack(rows)}


def cluster_maxima(maps: MapBatch) -> Outputs:
    found = np.array([_largest_cluster(v.astype(np.float64), CLUSTER_THRESHOLD) for v in maps.volumes])
    return {"size": found[:, 0], "mass": found[:, 2]}


def tfce(connectivity: int) -> Any:
    return lambda maps: {"first": _summed_tfce(maps.volumes[0], structure_of(connectivity))[maps.mask]}


def permutation(statistic: str) -> Any:
    """t of the data, and the maxima of the first rearrangements, each fitted anew in float64."""

    def compute(cohort: Cohort) -> Outputs:
        from gpuroi.inference.rearrange import make_rearrangements

        rows = make_rearrangements(len(cohort.design), x=cohort.design).rows(0, REARRANGED)
        t = rearranged_t(cohort.data, cohort.design, rows)
        outputs: Outputs = {"t": t[0], "null_max_stat": np.abs(t).max(axis=1)}
        volumes = np.zeros((len(rows), *cohort.mask.shape))
        volumes[:, cohort.mask] = t
        if statistic in ("clusters", "all"):
            found = np.array([_largest_cluster(volume, CLUSTER_THRESHOLD) for volume in volumes])
            outputs |= {"null_max_size": found[:, 0], "null_max_mass": found[:, 1], "observed_size": found[0, 0]}
        if statistic in ("tfce", "all"):
            outputs["null_max_tfce"] = np.array([np.abs(_summed_tfce(v, structure_of(6))).max() for v in volumes])
            outputs["observed_tfce"] = outputs["null_max_tfce"][0]
        return outputs

    return compute


def rearranged_t(data: NDArray[np.float32], x: NDArray[np.float64], rows: NDArray[np.int32]) -> NDArray[np.float64]:
    """Freedman and Lane: residuals of the nuisance, moved, then fitted by the whole design. (k, v)"""
    n, p = x.shape
    nuisance, _ = np.linalg.qr(x[:, 1:])
    inverse = np.linalg.pinv(x)
    variance = np.linalg.inv(x.T @ x)[0, 0]
    t = np.empty((len(rows), data.shape[1]))
    for start in range(0, t.shape[1], _BLOCK):
        at = slice(start, start + _BLOCK)
        y = data[:, at].astype(np.float64)
        residuals = y - nuisance @ (nuisance.T @ y)
        for i, row in enumerate(rows):
            moved = np.empty_like(residuals)
            moved[np.abs(row) - 1] = np.sign(row)[:, None] * residuals
            beta = inverse @ moved
            sigma2 = ((moved - x @ beta) ** 2).sum(axis=0) / (n - p)
            t[i, at] = beta[0] / np.sqrt(variance * sigma2)
    return t


def _largest_cluster(volume: NDArray[np.float64], threshold: float) -> tuple[float, float, float]:
    """Size, mass, and mass above the threshold, of the largest cluster of either sign."""
    from scipy.ndimage import label as scipy_label

    found = np.zeros((1, 3))
    for signed in (volume, -volume):
        labels, n = scipy_label(signed > threshold)
        inside = labels != 0
        members, values = labels[inside] - 1, signed[inside]
        sums = [np.bincount(members, w, minlength=n) for w in (np.ones(len(values)), values, values - threshold)]
        found = np.vstack([found, np.transpose(sums)])
    size, mass, excess = found.max(axis=0)
    return float(size), float(mass), float(excess)


def _summed_tfce(volume: NDArray[Any], structure: NDArray[np.bool_]) -> NDArray[np.float64]:
    """TFCE as a sum over fine steps, each taken at its middle: the integral but for about 0.1 %."""
    from scipy.ndimage import label as scipy_label

    out = np.zeros(volume.shape)
    step = float(np.abs(volume).max()) / _STEPS
    for sign in (1, -1):
        signed = sign * volume
        for k in range(_STEPS):
            height = (k + 0.5) * step
            labels, n = scipy_label(signed > height, structure)
            if n:
                size = np.bincount(labels.ravel()).astype(np.float64)
                size[0] = 0.0
                out += (sign * step * height**2 * np.sqrt(size))[labels]
    return out


_STEPS = 400


def _nibabel() -> Any:
    import nibabel  # typed in parts only

    return nibabel


def _in_blocks(test: Any, v: int) -> Outputs:
    """Statistic and p-value over blocks of voxels; log10 p from the p-value, which does not underflow here."""
    parts = [test(slice(start, start + _BLOCK)) for start in range(0, v, _BLOCK)]
    statistic: NDArray[Any] = np.concatenate([part.statistic for part in parts])
    pvalue: NDArray[Any] = np.concatenate([part.pvalue for part in parts])
    return {"statistic": statistic, "pvalue": pvalue, "log10p": np.log10(pvalue)}
