"""Each case as CuPy and cuCIM compute it on a CUDA device: volume by volume, for neither takes batches of volumes."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.inputs import MapBatch, Sample, Samples
from benchmarks.settings import CUTOFF, FOREGROUND, MIN_VOXELS, PERCENTILE, SIGMA_VOX, Call, Outputs
from benchmarks.settings import structure as structure_of

__all__ = [
    "cucim_dilate",
    "cucim_label",
    "cucim_smooth",
    "cupy_dilate",
    "cupy_label",
    "cupy_means",
    "cupy_percentile",
    "cupy_smooth",
    "cupy_threshold",
    "cupy_ttest_1samp",
    "cupy_ttest_ind",
]


def cupy_threshold(maps: MapBatch) -> Call:
    import cupy as cp
    from cupyx.scipy.ndimage import label

    volumes = cp.asarray(maps.volumes)

    def keep(volume: Any) -> Any:
        out = cp.zeros_like(volume)
        for passing in (volume >= CUTOFF, volume <= -CUTOFF):
            labels, n = label(passing)
            large = cp.bincount(labels.ravel(), minlength=n + 1) >= MIN_VOXELS
            large[0] = False
            out += cp.where(large[labels], volume, np.float32(0))
        return out

    return lambda: {"values": [keep(volume) for volume in volumes]}


def cupy_percentile(maps: MapBatch) -> Call:
    import cupy as cp

    volumes = cp.asarray(maps.volumes)

    def keep(volume: Any) -> Any:
        size = cp.abs(volume)
        return cp.where(size >= cp.percentile(size, PERCENTILE), volume, np.float32(0))

    return lambda: {"values": [keep(volume) for volume in volumes]}


def cupy_smooth(maps: MapBatch) -> Call:
    import cupy as cp
    from cupyx.scipy.ndimage import gaussian_filter

    volumes = cp.asarray(maps.volumes)
    return lambda: {"values": [gaussian_filter(volume, SIGMA_VOX) for volume in volumes]}


def cucim_smooth(maps: MapBatch) -> Call:
    import cupy as cp
    from cucim.skimage.filters import gaussian

    volumes = cp.asarray(maps.volumes)
    return lambda: {
        "values": [gaussian(v, SIGMA_VOX, mode="reflect", truncate=4.0, preserve_range=True) for v in volumes]
    }


def cupy_dilate(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        import cupy as cp
        from cupyx.scipy.ndimage import binary_dilation

        masks, structure = cp.asarray(maps.volumes > FOREGROUND), cp.asarray(structure_of(connectivity))
        return lambda: {"mask": [binary_dilation(mask, structure) for mask in masks]}

    return prepare


def cucim_dilate(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        import cupy as cp
        from cucim.skimage.morphology import binary_dilation

        masks, footprint = cp.asarray(maps.volumes > FOREGROUND), cp.asarray(structure_of(connectivity))
        return lambda: {"mask": [binary_dilation(mask, footprint) for mask in masks]}

    return prepare


def cupy_label(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        import cupy as cp
        from cupyx.scipy.ndimage import label

        masks, structure = cp.asarray(maps.volumes > FOREGROUND), structure_of(connectivity)  # read on the host

        def call() -> Outputs:
            found = [label(mask, structure) for mask in masks]
            return {"labels": [labels for labels, _ in found], "counts": [n for _, n in found]}

        return call

    return prepare


def cucim_label(connectivity: int) -> Any:
    def prepare(maps: MapBatch) -> Call:
        import cupy as cp
        from cucim.skimage.measure import label

        masks, furthest = cp.asarray(maps.volumes > FOREGROUND), {6: 1, 18: 2, 26: 3}[connectivity]

        def call() -> Outputs:
            found = [label(mask, connectivity=furthest, return_num=True) for mask in masks]
            return {"labels": [labels for labels, _ in found], "counts": [int(n) for _, n in found]}

        return call

    return prepare


def cupy_ttest_ind(samples: Samples) -> Call:
    import cupy as cp

    a, b = cp.asarray(samples.a), cp.asarray(samples.b)
    n, m = len(a), len(b)

    def call() -> Outputs:
        pooled = ((n - 1) * a.var(axis=0, ddof=1) + (m - 1) * b.var(axis=0, ddof=1)) / (n + m - 2)
        t = (a.mean(axis=0) - b.mean(axis=0)) / cp.sqrt(pooled * (1 / n + 1 / m))
        return {"statistic": t, "pvalue": _two_sided_p(t, n + m - 2)}

    return call


def cupy_ttest_1samp(sample: Sample) -> Call:
    import cupy as cp

    values = cp.asarray(sample.values)
    n = len(values)

    def call() -> Outputs:
        t = values.mean(axis=0) / cp.sqrt(values.var(axis=0, ddof=1) / n)
        return {"statistic": t, "pvalue": _two_sided_p(t, n - 1)}

    return call


def cupy_means(maps: MapBatch) -> Call:
    import cupy as cp
    from cupyx.scipy.ndimage import mean

    assert maps.labels is not None
    volumes, labels = cp.asarray(maps.volumes), cp.asarray(maps.labels)
    ids = cp.arange(1, int(maps.labels.max()) + 1)
    return lambda: {"means": [mean(volume, labels, ids) for volume in volumes]}


def _two_sided_p(t: Any, df: int) -> Any:
    from cupyx.scipy.special import betainc

    squared = t.astype(np.float64) ** 2
    return betainc(df / 2, 0.5, df / (df + squared))
