"""Each case as gpuroi computes it.

A function takes the input and the backend, prepares what is not timed (copies to the device), and returns the
call that is. A call returns its outputs by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.inputs import Cohort, MapBatch, Run, Sample, Samples
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
    Call,
    Outputs,
    Steps,
    short_runs,
)
from benchmarks.settings import structure as structure_of
from gpuroi import ops
from gpuroi.backends import Backend
from gpuroi.backends.threads import limited_threads
from gpuroi.domains import VoxelGrid
from gpuroi.inference import permutation_test
from gpuroi.inference import tfce as tfce_of

__all__ = [
    "cluster_maxima",
    "dilate",
    "label",
    "label_means",
    "one_thread",
    "permutation",
    "roi",
    "smooth",
    "tfce",
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


def cluster_maxima(maps: MapBatch, backend: Backend) -> Call:
    """Largest cluster of each map, as a permutation test takes it."""
    grid = VoxelGrid(maps.mask)
    values = backend.asarray(grid.from_volume(maps.volumes))
    graph = grid.graph

    def call() -> Outputs:
        with backend.activate():
            size, mass = backend.cluster_maxima(values, CLUSTER_THRESHOLD, graph, True, True, True)
        return {"size": size, "mass": mass}

    return call


def tfce(connectivity: int) -> Any:
    def prepare(maps: MapBatch, backend: Backend) -> Call:
        grid = VoxelGrid(maps.mask, connectivity=connectivity)
        values = backend.asarray(grid.from_volume(maps.volumes))
        grid.graph  # noqa: B018 - is built when first asked for
        return lambda: {"first": tfce_of(values, grid)[0]}

    return prepare


def permutation(statistic: str, *, threads: int | None = None) -> Any:
    """Freedman and Lane's test of the group. `statistic`: "max_t", "clusters", "tfce" or "all"."""

    def prepare(cohort: Cohort, backend: Backend) -> Call:
        grid = VoxelGrid(cohort.mask)
        data = backend.asarray(cohort.data)
        clusters, with_tfce = statistic in ("clusters", "all"), statistic in ("tfce", "all")

        def run(n: int) -> Outputs:
            with short_runs(), one_thread() if threads == 1 else limited_threads(threads):
                result = permutation_test(
                    data,
                    cohort.design,
                    [1, 0, 0],
                    domain=grid,
                    n_permutations=n,
                    cluster_threshold=CLUSTER_THRESHOLD if clusters else None,
                    tfce=with_tfce,
                    device="cpu",  # of NumPy arrays; others stay where they are
                )
            found: Outputs = {f"null_{name}": values[:REARRANGED] for name, values in result.null.items()}
            if result.cluster_table is not None:
                found["observed_size"] = max(result.cluster_table["size"], default=0.0)
            if result.tfce is not None:
                found["observed_tfce"] = np.nanmax(np.abs(result.tfce))
            return {"t": result.statistic, **found}

        run(_PRODUCT)  # builds the graph, compiles
        return Steps(run, *_lengths(statistic, cohort.data.shape[1], backend))

    return prepare


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for our kernels and for the matrix products of NumPy."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    with limited_threads(1), threadpool_limits(1):
        yield


_PRODUCT = 64  # rearrangements are taken so many at a time


def _lengths(statistic: str, v: int, backend: Backend) -> tuple[int, int]:
    """Rearrangements of the short and of the long run: about half a second between them, or more."""
    products = {"max_t": 12, "clusters": 8, "tfce": 1, "all": 1}[statistic]
    if v < 10_000 or backend.name != "cpu":
        products = max(8, products)
    if backend.name != "cpu" and v > 10_000:
        products *= 8
    return _PRODUCT, _PRODUCT * (1 + products)


def _tested(result: Any) -> Outputs:
    return {"statistic": result.statistic, "pvalue": result.pvalue, "log10p": result.log10p}
