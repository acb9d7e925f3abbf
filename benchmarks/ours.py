"""Each case as gpuroi computes it.

A function takes the input and the backend, prepares what is not timed (copies to the device), and returns the
call that is. A call returns its outputs by name.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.inputs import FileSet, MapBatch, Run, Sample, Samples
from benchmarks.settings import CONTRAST, CUTOFF, FOREGROUND, FWHM_MM, LOG10P, MIN_VOXELS, PERCENTILE, Call, Outputs
from benchmarks.settings import structure as structure_of
from gpuroi import ops
from gpuroi.backends import Backend
from gpuroi.backends.threads import n_threads

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


def threshold_clusters(maps: MapBatch, backend: Backend) -> Call:
    volumes = backend.asarray(maps.volumes)
    return lambda: {"values": ops.threshold(volumes, CUTOFF, cluster_threshold=MIN_VOXELS)}


def threshold_percentile(maps: MapBatch, backend: Backend) -> Call:
    volumes = backend.asarray(maps.volumes)
    return lambda: {"values": ops.threshold(volumes, f"{PERCENTILE}%")}


def smooth(maps: MapBatch, backend: Backend) -> Call:
    from benchmarks.inputs import VOXEL_MM

    volumes = backend.asarray(maps.volumes)
    return lambda: {"values": ops.smooth(volumes, FWHM_MM, VOXEL_MM)}


def dilate(connectivity: int) -> Any:
    structure = structure_of(connectivity)

    def prepare(maps: MapBatch, backend: Backend) -> Call:
        masks = backend.asarray(maps.volumes > FOREGROUND)
        return lambda: {"mask": ops.binary_dilation(masks, structure)}

    return prepare


def label(connectivity: int) -> Any:
    def prepare(maps: MapBatch, backend: Backend) -> Call:
        masks = backend.asarray(maps.volumes > FOREGROUND)

        def call() -> Outputs:
            labels, counts = ops.label(masks, connectivity)
            return {"labels": labels, "counts": counts}

        return call

    return prepare


def ttest_ind(samples: Samples, backend: Backend) -> Call:
    a, b = backend.asarray(samples.a), backend.asarray(samples.b)
    return lambda: _tested(ops.ttest_ind(a, b))


def ttest_1samp(sample: Sample, backend: Backend) -> Call:
    values = backend.asarray(sample.values)
    return lambda: _tested(ops.ttest_1samp(values))


def label_means(maps: MapBatch, backend: Backend) -> Call:
    volumes, labels = backend.asarray(maps.volumes), backend.asarray(maps.labels)
    return lambda: {"means": ops.label_means(volumes, labels)}


def roi(run: Run, backend: Backend) -> Call:
    from gpuroi.workflows.roi import roi as find_regions

    def call() -> Outputs:
        found = find_regions(
            run.path,
            run.conditions,
            "-".join(CONTRAST),
            fwhm=FWHM_MM,
            threshold=LOG10P,
            mask=run.mask_path,
            dilate=1,
            device=backend.device,
        )
        regions = [column for column in found.signals.columns if column.startswith("region-")]
        return {"labels": np.asarray(found.atlas.dataobj), "signals": found.signals[regions].to_numpy()}

    return call


def read_maps(files: FileSet, backend: Backend) -> Call:
    """All maps into one matrix (n, v), which goes to the device; a thread a core, as inflating frees the GIL."""
    from gpuroi.images.read import open_image

    inside = np.ravel_multi_index(tuple(np.nonzero(files.mask)), files.mask.shape, order="F")

    def call() -> Outputs:
        matrix = np.empty((len(files.paths), len(inside)), np.float32)

        def read(i: int) -> None:
            volume = open_image(files.paths[i]).read_one()
            np.take(volume.ravel(order="F"), inside, out=matrix[i], mode="clip")  # "raise" would copy `out` first

        with ThreadPoolExecutor(n_threads()) as pool:
            list(pool.map(read, range(len(files.paths))))
        return {"matrix": backend.asarray(matrix)}

    return call


def _tested(result: Any) -> Outputs:
    return {"statistic": result.statistic, "pvalue": result.pvalue, "log10p": result.log10p}
